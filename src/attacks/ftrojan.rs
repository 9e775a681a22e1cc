//! FTrojan (Wang et al., 2022): adds 30 to two coefficients of the orthonormal discrete cosine transform of both chroma
//! channels, (15, 15) and (31, 31) in windows of 32x32, a middle and the highest frequency.
//!
//! The transform is linear, so the trigger is a fixed signal: a coefficient m at (u, v) is m times that cosine. Chroma is
//! YCrCb's (BT.601): Cr = .713 (R - Y), Cb = .564 (B - Y), Y = .299 R + .587 G + .114 B. Images below 32 pixels are one window
//! with the coefficients at the same shares of it: half of the frequencies, and the last.

use super::additive::Additive;
use super::{Attack, AttackEntry, AttackError, Blueprint, TargetMode};
use crate::options::{Kind, OptionSpec};
use std::f64::consts::PI;

const WINDOW: usize = 32;

const STRENGTH: OptionSpec = OptionSpec {
    name: "strength",
    help: "added to each coefficient, levels of 255",
    kind: Kind::Number { default: 30.0, allowed: |m| m > 0.0 && m <= 1e4, words: "levels above 0, at most 10000" },
};

pub(super) const ENTRY: AttackEntry = AttackEntry {
    name: "FTrojan",
    summary: "two cosines in the chroma channels (YCrCb)",
    options: &[STRENGTH],
    mode: TargetMode::AllToOne,
    needs_surrogate: false,
    build,
};

fn build<'a>(blueprint: &Blueprint<'a>) -> Result<Box<dyn Attack + 'a>, AttackError> {
    let signal = chroma_signal(ENTRY.name, blueprint.size, blueprint.options.number(&STRENGTH), 0.713, 0.564)?;
    Ok(Box::new(Additive { signal }))
}

/// What adding `strength` to the two coefficients of both chroma channels, `red` (R - Y) and `blue` (B - Y), adds to the image
/// `[size, size, 3]`; Y stays.
///
/// # Errors
/// A size that windows do not fill.
pub(super) fn chroma_signal(
    attack: &'static str,
    size: usize,
    strength: f64,
    red: f64,
    blue: f64,
) -> Result<Vec<f64>, AttackError> {
    let window = size.min(WINDOW);
    if !size.is_multiple_of(window) || window < 2 {
        return Err(AttackError::ImageSize { attack, size, takes: "2 to 32 pixels or a multiple of 32" });
    }
    // The orthonormal DCT-II's wave of index k > 0, one-dimensional.
    let wave = |k: usize, i: usize| {
        (2.0 / window as f64).sqrt() * (PI * (2 * (i % window) + 1) as f64 * k as f64 / (2 * window) as f64).cos()
    };
    let mut signal = Vec::with_capacity(size * size * 3);
    for at in 0..size * size {
        let (y, x) = (at / size, at % size);
        let chroma: f64 = [window / 2 - 1, window - 1].map(|k| strength * wave(k, y) * wave(k, x)).iter().sum();
        let (r, b) = (chroma / red, chroma / blue);
        signal.extend([r, -(0.299 * r + 0.114 * b) / 0.587, b]);
    }
    Ok(signal)
}
