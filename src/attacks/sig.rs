//! SIG (Barni et al., 2019): a horizontal sinusoid, x' = clip(x + D sin(2 pi j f / width)), j the column, D = 40 (others: 20),
//! f = 6, on all channels; clean-label.

use super::additive::Additive;
use super::{Attack, AttackEntry, AttackError, Blueprint, TargetMode};
use crate::options::{Kind, OptionSpec};
use std::f64::consts::TAU;

const STRENGTH: OptionSpec = OptionSpec {
    name: "strength",
    help: "amplitude D of the sinusoid, levels of 255",
    kind: Kind::Number { default: 40.0, allowed: |d| d > 0.0 && d <= 255.0, words: "levels above 0, at most 255" },
};
const FREQUENCY: OptionSpec = OptionSpec {
    name: "frequency",
    help: "periods f across the image",
    kind: Kind::Number { default: 6.0, allowed: |f| f > 0.0 && f <= 512.0, words: "periods above 0, at most 512" },
};

pub(super) const ENTRY: AttackEntry = AttackEntry {
    name: "SIG",
    summary: "a horizontal sinusoid over the whole image",
    options: &[STRENGTH, FREQUENCY],
    mode: TargetMode::CleanLabel,
    needs_surrogate: false,
    build,
};

fn build<'a>(blueprint: &Blueprint<'a>) -> Result<Box<dyn Attack + 'a>, AttackError> {
    let (size, strength, frequency) = (blueprint.size, blueprint.options.number(&STRENGTH), blueprint.options.number(&FREQUENCY));
    let wave = |i: usize| strength * (TAU * (i / 3 % size) as f64 * frequency / size as f64).sin();
    Ok(Box::new(Additive { signal: (0..size * size * 3).map(wave).collect() }))
}
