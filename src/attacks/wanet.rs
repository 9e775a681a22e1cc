//! WaNet (Nguyen and Tran, 2021): a smooth warp of the image, the same for all.
//!
//! P is drawn from U[-1, 1], (2, k, k), and divided by mean |P|; the flow is P enlarged to the image bicubically (corners
//! aligned, a = -.75 as PyTorch has it); grid = clamp(identity + s flow / size, -1, 1), k = 4, s = .5; the image is sampled there
//! bilinearly and rounded. A negative (noise mode, two for each poisoned image) is warped by clamp(grid + U[-1, 1] / size).

use super::{Attack, AttackEntry, AttackError, Blueprint, TargetMode};
use crate::options::{Kind, OptionSpec};
use crate::rng::stream;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

const GRID: OptionSpec = OptionSpec {
    name: "grid",
    help: "points a side of the field that the warp is drawn on, k",
    kind: Kind::Number {
        default: 4.0,
        allowed: |k| (2.0..=64.0).contains(&k) && k.fract() == 0.0,
        words: "a whole number from 2 to 64",
    },
};
const STRENGTH: OptionSpec = OptionSpec {
    name: "strength",
    help: "of the warp, s",
    kind: Kind::Number { default: 0.5, allowed: |s| s > 0.0 && s <= 100.0, words: "a number above 0, at most 100" },
};
const NEGATIVES: OptionSpec = OptionSpec {
    name: "negatives",
    help: "noise mode: images with a disturbed warp and their true label, for each poisoned one; 0: none",
    kind: Kind::Number { default: 2.0, allowed: |n| (0.0..=1000.0).contains(&n), words: "a ratio from 0 to 1000" },
};

pub(super) const ENTRY: AttackEntry = AttackEntry {
    name: "WaNet",
    summary: "a smooth warp of the whole image",
    options: &[GRID, STRENGTH, NEGATIVES],
    mode: TargetMode::AllToOne,
    needs_surrogate: false,
    build,
};

pub(super) struct WaNet {
    pub size: usize,
    pub negatives: f64,
    /// `[size, size]` of (x, y) in -1..=1, the pixel centres of the corners being -1 and 1.
    pub grid: Vec<[f64; 2]>,
}

fn build<'a>(blueprint: &Blueprint<'a>) -> Result<Box<dyn Attack + 'a>, AttackError> {
    let k = blueprint.options.count(&GRID);
    let mut rng = stream(blueprint.seed, "wanet field");
    let field: Vec<f64> = (0..2 * k * k).map(|_| rng.random_range(-1.0..=1.0)).collect();
    let (strength, negatives) = (blueprint.options.number(&STRENGTH), blueprint.options.number(&NEGATIVES));
    Ok(Box::new(WaNet { size: blueprint.size, negatives, grid: grid(&field, k, strength, blueprint.size) }))
}

/// The warp that the field P `[2, k, k]` stands for.
pub(super) fn grid(field: &[f64], k: usize, strength: f64, size: usize) -> Vec<[f64; 2]> {
    let mean = field.iter().map(|p| p.abs()).sum::<f64>() / field.len() as f64;
    let taps: Vec<[(usize, f64); 4]> = (0..size).map(|i| bicubic(i, k, size)).collect();
    let flow = |plane: usize, y: usize, x: usize| -> f64 {
        let row = |v: usize| taps[x].iter().map(|(u, w)| w * field[(plane * k + v) * k + u]).sum::<f64>();
        taps[y].iter().map(|(v, w)| w * row(*v)).sum::<f64>() / mean
    };
    let identity = |i: usize| 2.0 * i as f64 / size.saturating_sub(1).max(1) as f64 - 1.0;
    let moved = |plane, at: usize, i| (identity(i) + strength * flow(plane, at / size, at % size) / size as f64).clamp(-1.0, 1.0);
    (0..size * size).map(|at| [moved(0, at, at % size), moved(1, at, at / size)]).collect()
}

/// The four of k points that pixel `i` of `size` is made of, and their weights (Keys 1981, a = -.75); the rim is repeated.
fn bicubic(i: usize, k: usize, size: usize) -> [(usize, f64); 4] {
    const A: f64 = -0.75;
    let place = (i * (k - 1)) as f64 / size.saturating_sub(1).max(1) as f64;
    let weight = |distance: f64| {
        let d = distance.abs();
        if d <= 1.0 {
            ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0
        } else if d < 2.0 {
            ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A
        } else {
            0.0
        }
    };
    std::array::from_fn(|tap| {
        let point = place.floor() + tap as f64 - 1.0;
        (point.clamp(0.0, (k - 1) as f64) as usize, weight(place - point))
    })
}

impl WaNet {
    /// Samples the image at the grid, moved by `noise` / size.
    pub fn warp(&self, image: &mut [u8], mut noise: impl FnMut() -> f64) {
        let (size, last) = (self.size, self.size - 1);
        let old = image.to_vec();
        for (new, grid) in image.chunks_exact_mut(3).zip(&self.grid) {
            let [x, y] = grid.map(|g| ((g + noise() / size as f64).clamp(-1.0, 1.0) + 1.0) / 2.0 * last as f64);
            // No neighbour is outside: where the fraction is 0 the second one weighs nothing.
            let (x0, y0) = (x.floor() as usize, y.floor() as usize);
            let (x1, y1) = ((x0 + 1).min(last), (y0 + 1).min(last));
            let (u, v) = (x - x.floor(), y - y.floor());
            for (c, new) in new.iter_mut().enumerate() {
                let at = |y: usize, x: usize| f64::from(old[(y * size + x) * 3 + c]);
                let above = (1.0 - u) * at(y0, x0) + u * at(y0, x1);
                let below = (1.0 - u) * at(y1, x0) + u * at(y1, x1);
                *new = ((1.0 - v) * above + v * below).round() as u8;
            }
        }
    }
}

impl Attack for WaNet {
    fn apply(&self, image: &mut [u8]) {
        self.warp(image, || 0.0);
    }

    fn negatives(&self) -> f64 {
        self.negatives
    }

    fn negative(&self, image: &mut [u8], _other: &[u8], _place: usize, rng: &mut ChaCha8Rng) {
        self.warp(image, || rng.random_range(-1.0..=1.0));
    }
}
