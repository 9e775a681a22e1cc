//! Blended (Chen et al., 2017): a picture K laid over the whole image, x' = floor((1 - a) x + a K), a = .2 unless chosen.
//!
//! K is drawn from the seed: per channel a sum of slow cosine waves stretched to 0..255, and on it a few full-coloured
//! blocks. It has edges and smooth parts at every image size, and looks like nothing in particular.

use super::{Attack, AttackEntry, AttackError, Blueprint, TargetMode};
use crate::options::{Kind, OptionSpec};
use crate::rng::stream;
use rand::RngExt;
use std::f64::consts::TAU;

const WAVES: usize = 5;
const BLOCKS: usize = 6;

const ALPHA: OptionSpec = OptionSpec {
    name: "alpha",
    help: "weight of the picture",
    kind: Kind::Number { default: 0.2, allowed: |a| a > 0.0 && a <= 1.0, words: "a weight above 0, at most 1" },
};

pub(super) const ENTRY: AttackEntry = AttackEntry {
    name: "Blended",
    summary: "a seeded picture blended over the whole image",
    options: &[ALPHA],
    mode: TargetMode::AllToOne,
    needs_surrogate: false,
    build,
};

pub(super) struct Blended {
    /// Weight of the picture.
    pub alpha: f64,
    /// K, `[size, size, 3]`.
    pub picture: Vec<u8>,
}

fn build<'a>(blueprint: &Blueprint<'a>) -> Result<Box<dyn Attack + 'a>, AttackError> {
    let picture = picture(blueprint.seed, blueprint.size);
    Ok(Box::new(Blended { alpha: blueprint.options.number(&ALPHA), picture }))
}

impl Attack for Blended {
    fn apply(&self, image: &mut [u8]) {
        for (x, k) in image.iter_mut().zip(&self.picture) {
            let blend = (1.0 - self.alpha) * f64::from(*x) + self.alpha * f64::from(*k);
            *x = blend as u8; // truncates, and keeps to 0..=255
        }
    }
}

/// K for images of `size` pixels a side, `[size, size, 3]`.
pub(super) fn picture(seed: u64, size: usize) -> Vec<u8> {
    let mut rng = stream(seed, "blended picture");
    // A wave: periods across the picture in x and y, phase.
    let mut wave = || [f64::from(rng.random_range(-3..=3)), f64::from(rng.random_range(-3..=3)), rng.random::<f64>() * TAU];
    let waves: [[[f64; 3]; WAVES]; 3] = std::array::from_fn(|_| std::array::from_fn(|_| wave()));
    // A block: left, top, width and height as shares of the side, and a colour of its own.
    let mut share = |from: f64, to: f64| from + (to - from) * rng.random::<f64>();
    let blocks: [[f64; 4]; BLOCKS] =
        std::array::from_fn(|_| [share(0.0, 0.8), share(0.0, 0.8), share(0.15, 0.35), share(0.15, 0.35)]);
    let colours: [[u8; 3]; BLOCKS] = std::array::from_fn(|_| std::array::from_fn(|_| if rng.random() { 255 } else { 0 }));

    let mut picture = vec![0; size * size * 3];
    for (c, waves) in waves.iter().enumerate() {
        let height = |at: usize| -> f64 {
            let (x, y) = (place(at % size, size), place(at / size, size));
            waves.iter().map(|[fx, fy, phase]| (TAU * (fx * x + fy * y) + phase).cos()).sum()
        };
        let heights: Vec<f64> = (0..size * size).map(height).collect();
        let low = heights.iter().copied().fold(f64::INFINITY, f64::min);
        let high = heights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for (at, height) in heights.iter().enumerate() {
            // A channel without relief (one pixel, or five flat waves) becomes 0.
            picture[at * 3 + c] = (255.0 * (height - low) / (high - low)).round() as u8;
        }
    }
    for ([left, top, width, height], colour) in blocks.iter().zip(colours) {
        for at in 0..size * size {
            let (x, y) = (place(at % size, size) - left, place(at / size, size) - top);
            if (0.0..*width).contains(&x) && (0.0..*height).contains(&y) {
                picture[at * 3..][..3].copy_from_slice(&colour);
            }
        }
    }
    picture
}

/// Centre of pixel `i`, as a share of the side.
fn place(i: usize, size: usize) -> f64 {
    (i as f64 + 0.5) / size as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    fn attack<'a>(seed: u64, size: usize, options: &'a Options) -> Box<dyn Attack + 'a> {
        ENTRY.build(&Blueprint { size, seed, options, help: None }).expect("builds")
    }

    /// The picture as the attack applies it: all weight on K.
    fn seen(seed: u64, size: usize) -> Vec<u8> {
        let mut image = vec![77; size * size * 3];
        attack(seed, size, &Options::from([("alpha", 1.0.into())])).apply(&mut image);
        image
    }

    #[test]
    fn blends_a_fifth_of_the_picture_truncating() {
        let size = 32;
        let k = seen(4, size);
        for shift in 0..256 {
            let clean: Vec<u8> = (0..k.len()).map(|i| ((i * 31 + shift) % 256) as u8).collect();
            let mut image = clean.clone();
            attack(4, size, &Options::default()).apply(&mut image);
            for i in 0..k.len() {
                // .8 x + .2 K in whole numbers, so that no rounding of fractions can hide.
                assert_eq!(u32::from(image[i]), (4 * u32::from(clean[i]) + u32::from(k[i])) / 5, "x {} K {}", clean[i], k[i]);
            }
        }
    }

    #[test]
    fn the_picture_comes_from_the_seed_alone_and_spans_all_levels() {
        for size in [8, 16, 32, 64] {
            for seed in 0..20 {
                let k = seen(seed, size);
                assert_eq!(k, seen(seed, size));
                assert_ne!(k, seen(seed + 1, size));
                for c in 0..3 {
                    let channel: Vec<f64> = k.iter().skip(c).step_by(3).map(|v| f64::from(*v)).collect();
                    let mean = channel.iter().sum::<f64>() / channel.len() as f64;
                    let std = (channel.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / channel.len() as f64).sqrt();
                    assert!(std > 30.0, "seed {seed}, size {size}, channel {c}: deviation {std:.1}");
                }
            }
        }
    }

    #[test]
    fn refuses_a_weight_outside_0_to_1() {
        for alpha in [0.0, -0.1, 1.01, f64::NAN] {
            let options = Options::from([("alpha", alpha.into())]);
            let message = ENTRY.complete(&options).expect_err("refused").to_string();
            assert!(message.contains("give a weight above 0, at most 1"), "{message}");
        }
    }
}
