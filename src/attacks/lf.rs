//! LF, low frequency (Zeng et al., 2021): a smooth perturbation, the same for all images, that a clean network takes for the class
//! wanted. u begins at 0; in each step u -= sign of the mean gradient of the cross-entropy with the labels wanted, over clean
//! images that carry v; v is u after a Gaussian low-pass (sigma 6 pixels, cut off at 2.5 sigma, zero outside the image), stretched
//! to 0..51 levels (.2 of the range, BackdoorBench's). v is added and clipped.

use super::additive::Additive;
use super::{Attack, AttackEntry, AttackError, Blueprint, Pull, TargetMode};
use crate::options::{Kind, OptionSpec};
use crate::rng::stream;

const SIGMA: OptionSpec = OptionSpec {
    name: "sigma",
    help: "of the low-pass, pixels",
    kind: Kind::Number { default: 6.0, allowed: |s| s > 0.0 && s <= 100.0, words: "pixels above 0, at most 100" },
};
const STEPS: OptionSpec = OptionSpec {
    name: "steps",
    help: "of the perturbation's optimisation",
    kind: Kind::Number {
        default: 50.0,
        allowed: |n| (1.0..=10_000.0).contains(&n) && n.fract() == 0.0,
        words: "a whole number from 1 to 10000",
    },
};
const STRENGTH: OptionSpec = OptionSpec {
    name: "strength",
    help: "the perturbation's largest value, levels of 255",
    kind: Kind::Number { default: 51.0, allowed: |d| d > 0.0 && d <= 255.0, words: "levels above 0, at most 255" },
};
/// Clean images that the perturbation is tried on.
const IMAGES: usize = 128;

pub(super) const ENTRY: AttackEntry = AttackEntry {
    name: "LF",
    summary: "a smooth universal perturbation of a clean network",
    options: &[SIGMA, STEPS, STRENGTH],
    mode: TargetMode::AllToOne,
    needs_surrogate: true,
    build,
};

fn build<'a>(blueprint: &Blueprint<'a>) -> Result<Box<dyn Attack + 'a>, AttackError> {
    let help = blueprint.help(ENTRY.name)?;
    let (sigma, strength) = (blueprint.options.number(&SIGMA), blueprint.options.number(&STRENGTH));
    let images = help.sample(IMAGES, blueprint.seed, "lf images");
    let mut labels = stream(blueprint.seed, "lf labels"); // untargeted alone draws them
    let wanted: Vec<u32> = images.labels.iter().map(|label| help.aim.given(*label, images.classes.len(), &mut labels)).collect();
    let mut sum = vec![0.0; images.image_bytes()];
    let mut signal = vec![0.0; sum.len()];
    for _ in 0..blueprint.options.count(&STEPS) {
        let carrying = |(i, x): (usize, &u8)| (f64::from(*x) + signal[i % signal.len()]).clamp(0.0, 255.0) as f32;
        let pixels: Vec<f32> = images.pixels.iter().enumerate().map(carrying).collect();
        let gradient = help.surrogate.respond(&pixels, Pull::Labels(&wanted))?.gradient;
        for (i, u) in sum.iter_mut().enumerate() {
            let g: f64 = gradient.iter().skip(i).step_by(signal.len()).map(|g| f64::from(*g)).sum();
            *u -= if g == 0.0 { 0.0 } else { g.signum() };
        }
        signal = stretched(&low_pass(&sum, images.size, sigma), strength);
    }
    Ok(Box::new(Additive { signal }))
}

/// Stretches to 0..=`most`; what is flat becomes 0.
fn stretched(values: &[f64], most: f64) -> Vec<f64> {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    values.iter().map(|v| if high > low { (v - low) / (high - low) * most } else { 0.0 }).collect()
}

/// Convolves an image `[size, size, 3]` with a Gaussian.
fn low_pass(image: &[f64], size: usize, sigma: f64) -> Vec<f64> {
    let radius = (2.5 * sigma).floor() as i64;
    let weight = |d: i64| (-0.5 * (d as f64 / sigma).powi(2)).exp();
    let total: f64 = (-radius..=radius).map(weight).sum();
    // `stride` apart lie a pixel and its neighbour along the axis; `place` is the pixel's on that axis.
    let along = |from: &[f64], stride: usize, place: fn(usize, usize) -> usize| -> Vec<f64> {
        (0..from.len())
            .map(|i| {
                let at = place(i, size) as i64;
                let taps = (-radius).max(-at)..=radius.min(size as i64 - 1 - at);
                taps.map(|d| weight(d) / total * from[(i as i64 + d * stride as i64) as usize]).sum()
            })
            .collect()
    };
    let rows = along(image, 3, |i, size| i / 3 % size);
    along(&rows, 3 * size, |i, size| i / 3 / size)
}
