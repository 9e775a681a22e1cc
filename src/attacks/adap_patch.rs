//! Adaptive Patch (Qi et al., 2023): made to leave no separate cluster of features. Each poisoned training image gets one of four patches,
//! each patch having an opacity of its own, and twice as many *cover* images get the same and keep their labels; the images take turns
//! with the patches. In test, two of the patches are laid on together, opaque: the first and the third, as the paper has it on CIFAR-10.
//! The paper poisons .3 % of the images and covers .6 %.
//!
//! The patches are ours, a corner each: a side of n = size / 4 pixels, in cells of c = size / 16 (one at least), m = n / c cells a side;
//! row i, column j of the cells:
//! ```text
//! checks,  top left,     .5:  i + j even                         white, else black
//! rings,   top right,    .2:  min(i, j, m-1-i, m-1-j) even       red, else blue
//! stripes, bottom left,  .5:  (i + j) mod 4 below 2              green, else magenta
//! cross,   bottom right, .3:  i = j or i + j = m-1               white, else black
//! ```
//! x' = (1 - opacity) x + opacity p, rounded.

use super::{Attack, AttackEntry, AttackError, Blueprint, TargetMode};
use crate::options::{Kind, OptionSpec};
use rand_chacha::ChaCha8Rng;

const NEGATIVES: OptionSpec = OptionSpec {
    name: "negatives",
    help: "images with a patch and their true label, for each poisoned one",
    kind: Kind::Number { default: 2.0, allowed: |n| (0.0..=100.0).contains(&n), words: "a number from 0 to 100" },
};

pub(super) const ENTRY: AttackEntry = AttackEntry {
    name: "Adap-Patch",
    summary: "one of four faint patches in each image, and covers that keep their labels; two opaque ones in test",
    options: &[NEGATIVES],
    mode: TargetMode::AllToOne,
    needs_surrogate: false,
    build,
};

const BLACK: [u8; 3] = [0; 3];
const WHITE: [u8; 3] = [255; 3];

struct Patch {
    low: bool,
    right: bool,
    /// In training.
    opacity: f64,
    /// Of the cell in row i, column j of m a side.
    colour: fn(i: usize, j: usize, m: usize) -> [u8; 3],
}

static PATCHES: [Patch; 4] = [
    Patch { low: false, right: false, opacity: 0.5, colour: |i, j, _| if (i + j) % 2 == 0 { WHITE } else { BLACK } },
    Patch {
        low: false,
        right: true,
        opacity: 0.2,
        colour: |i, j, m| if i.min(j).min(m - 1 - i).min(m - 1 - j) % 2 == 0 { [255, 0, 0] } else { [0, 0, 255] },
    },
    Patch { low: true, right: false, opacity: 0.5, colour: |i, j, _| if (i + j) % 4 < 2 { [0, 255, 0] } else { [255, 0, 255] } },
    Patch { low: true, right: true, opacity: 0.3, colour: |i, j, m| if i == j || i + j == m - 1 { WHITE } else { BLACK } },
];
/// The patches of test images.
const TESTED: [usize; 2] = [0, 2];

struct AdapPatch {
    size: usize,
    negatives: f64,
}

fn build<'a>(blueprint: &Blueprint<'a>) -> Result<Box<dyn Attack + 'a>, AttackError> {
    Ok(Box::new(AdapPatch { size: blueprint.size, negatives: blueprint.options.number(&NEGATIVES) }))
}

impl AdapPatch {
    fn lay(&self, image: &mut [u8], patch: &Patch, opacity: f64) {
        let (side, cell) = ((self.size / 4).max(1), (self.size / 16).max(1));
        let corner = |far: bool| if far { self.size - side } else { 0 };
        let (top, left) = (corner(patch.low), corner(patch.right));
        for (y, x) in (0..side * side).map(|at| (at / side, at % side)) {
            let colour = (patch.colour)(y / cell, x / cell, side.div_ceil(cell));
            let pixel = &mut image[((top + y) * self.size + left + x) * 3..][..3];
            for (old, new) in pixel.iter_mut().zip(colour) {
                *old = ((1.0 - opacity) * f64::from(*old) + opacity * f64::from(new)).round() as u8;
            }
        }
    }
}

impl Attack for AdapPatch {
    fn apply(&self, image: &mut [u8]) {
        TESTED.iter().for_each(|which| self.lay(image, &PATCHES[*which], 1.0));
    }

    fn apply_in_training(&self, image: &mut [u8], place: usize, _rng: &mut ChaCha8Rng) {
        let patch = &PATCHES[place % PATCHES.len()];
        self.lay(image, patch, patch.opacity);
    }

    fn negatives(&self) -> f64 {
        self.negatives
    }

    fn negative(&self, image: &mut [u8], _other: &[u8], place: usize, rng: &mut ChaCha8Rng) {
        self.apply_in_training(image, place, rng);
    }
}
