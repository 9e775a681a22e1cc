//! CTRL (Li et al., 2023): as FTrojan, with 100 on the coefficients of YUV's chroma channels, U = .492 (B - Y) and
//! V = .877 (R - Y); clean-label.

use super::additive::Additive;
use super::ftrojan::chroma_signal;
use super::{Attack, AttackEntry, AttackError, Blueprint, TargetMode};
use crate::options::{Kind, OptionSpec};

const STRENGTH: OptionSpec = OptionSpec {
    name: "strength",
    help: "added to each coefficient, levels of 255",
    kind: Kind::Number { default: 100.0, allowed: |m| m > 0.0 && m <= 1e4, words: "levels above 0, at most 10000" },
};

pub(super) const ENTRY: AttackEntry = AttackEntry {
    name: "CTRL",
    summary: "two cosines in the chroma channels (YUV)",
    options: &[STRENGTH],
    mode: TargetMode::CleanLabel,
    needs_surrogate: false,
    build,
};

fn build<'a>(blueprint: &Blueprint<'a>) -> Result<Box<dyn Attack + 'a>, AttackError> {
    let signal = chroma_signal(ENTRY.name, blueprint.size, blueprint.options.number(&STRENGTH), 0.877, 0.492)?;
    Ok(Box::new(Additive { signal }))
}
