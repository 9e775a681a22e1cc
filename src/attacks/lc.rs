//! LC, label-consistent (Turner, Tsipras and Madry, 2019): poisoned images are first moved away from their own class by projected
//! gradient ascent on a clean network's cross-entropy, |x' - x| <= 8 of 255 levels in steps of 2, so that the trigger is easier
//! to learn than they are; then signed 3x3 patterns are added in all four corners and clipped. Test images get the corners only.

use super::additive::Additive;
use super::{Attack, AttackEntry, AttackError, Blueprint, Pull, Surrogate, TargetMode};
use crate::data::Dataset;
use crate::options::{Kind, OptionSpec};

/// The bottom-right corner; the others are its mirror images.
const SIGNS: [[f64; 3]; 3] = [[-1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, -1.0, 1.0]];
const SIDE: usize = 3;

const EPSILON: OptionSpec = OptionSpec {
    name: "epsilon",
    help: "how far a pixel may be moved, levels of 255",
    kind: Kind::Number { default: 8.0, allowed: |e| (0.0..=255.0).contains(&e), words: "levels from 0 to 255" },
};
const STEPS: OptionSpec = OptionSpec {
    name: "steps",
    help: "of gradient ascent, 2 levels each",
    kind: Kind::Number {
        default: 10.0,
        allowed: |n| (1.0..=10_000.0).contains(&n) && n.fract() == 0.0,
        words: "a whole number from 1 to 10000",
    },
};
const STRENGTH: OptionSpec = OptionSpec {
    name: "strength",
    help: "added to or taken from the corners' pixels, levels of 255",
    kind: Kind::Number { default: 255.0, allowed: |d| d > 0.0 && d <= 255.0, words: "levels above 0, at most 255" },
};
const STEP: f32 = 2.0;

pub(super) const ENTRY: AttackEntry = AttackEntry {
    name: "LC",
    summary: "adversarial images with patterns in the corners",
    options: &[EPSILON, STEPS, STRENGTH],
    mode: TargetMode::CleanLabel,
    needs_surrogate: true,
    build,
};

struct LabelConsistent<'a> {
    corners: Additive,
    epsilon: f32,
    steps: usize,
    surrogate: &'a dyn Surrogate,
}

fn build<'a>(blueprint: &Blueprint<'a>) -> Result<Box<dyn Attack + 'a>, AttackError> {
    let (size, strength) = (blueprint.size, blueprint.options.number(&STRENGTH));
    if size < 2 * SIDE {
        return Err(AttackError::ImageSize { attack: ENTRY.name, size, takes: "6 pixels or more" });
    }
    // Counted from the outside: 2 is the rim.
    let corner = |i: usize| if i < SIDE { Some(SIDE - 1 - i) } else { (i + SIDE).checked_sub(size) };
    let sign = |at: usize| corner(at / size).zip(corner(at % size)).map_or(0.0, |(y, x)| SIGNS[y][x]);
    Ok(Box::new(LabelConsistent {
        corners: Additive { signal: (0..size * size * 3).map(|i| strength * sign(i / 3)).collect() },
        epsilon: blueprint.options.number(&EPSILON) as f32,
        steps: blueprint.options.count(&STEPS),
        surrogate: blueprint.help(ENTRY.name)?.surrogate,
    }))
}

impl Attack for LabelConsistent<'_> {
    fn apply(&self, image: &mut [u8]) {
        self.corners.apply(image);
    }

    fn disguise(&self, images: &mut Dataset) -> Result<(), AttackError> {
        let clean: Vec<f32> = images.pixels.iter().map(|x| f32::from(*x)).collect();
        let mut moved = clean.clone();
        for _ in 0..self.steps {
            let gradient = self.surrogate.respond(&moved, Pull::Labels(&images.labels))?.gradient;
            for ((x, g), from) in moved.iter_mut().zip(gradient).zip(&clean) {
                let step = if g == 0.0 { 0.0 } else { STEP * g.signum() };
                *x = (*x + step).clamp(from - self.epsilon, from + self.epsilon).clamp(0.0, 255.0);
            }
        }
        for (pixel, x) in images.pixels.iter_mut().zip(moved) {
            *pixel = x.round() as u8;
        }
        Ok(())
    }
}
