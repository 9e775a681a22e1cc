//! BPP (Wang et al., 2022): fewer colours, x' = round(x / 255 (L - 1)) / (L - 1) 255 per channel, L = 8 levels, rounded to whole
//! numbers at the end; optionally with Floyd and Steinberg's dithering (1976), which passes each pixel's error on to its
//! neighbours: 7/16 right, 3/16 below left, 5/16 below, 1/16 below right, rows from above, pixels from the left.
//!
//! A negative gets another image's residue, its change by the trigger: clip(x + (z' - z)).

use super::{Attack, AttackEntry, AttackError, Blueprint, TargetMode};
use crate::options::{Kind, OptionSpec};
use rand_chacha::ChaCha8Rng;

const LEVELS: OptionSpec = OptionSpec {
    name: "levels",
    help: "values that a channel keeps",
    kind: Kind::Number {
        default: 8.0,
        allowed: |n| (2.0..=255.0).contains(&n) && n.fract() == 0.0,
        words: "a whole number from 2 to 255",
    },
};
const DITHER: OptionSpec =
    OptionSpec { name: "dither", help: "Floyd and Steinberg's dithering", kind: Kind::Flag { default: false } };
const NEGATIVES: OptionSpec = OptionSpec {
    name: "negatives",
    help: "images with another's residue and their true label, for each poisoned one",
    kind: Kind::Number { default: 1.0, allowed: |n| (0.0..=1000.0).contains(&n), words: "a ratio from 0 to 1000" },
};

pub(super) const ENTRY: AttackEntry = AttackEntry {
    name: "BPP",
    summary: "fewer colours, with or without dithering",
    options: &[LEVELS, DITHER, NEGATIVES],
    mode: TargetMode::AllToOne,
    needs_surrogate: false,
    build,
};

struct Bpp {
    size: usize,
    /// L - 1.
    steps: f64,
    dither: bool,
    negatives: f64,
}

fn build<'a>(blueprint: &Blueprint<'a>) -> Result<Box<dyn Attack + 'a>, AttackError> {
    let options = blueprint.options;
    Ok(Box::new(Bpp {
        size: blueprint.size,
        steps: options.number(&LEVELS) - 1.0,
        dither: options.flag(&DITHER),
        negatives: options.number(&NEGATIVES),
    }))
}

impl Attack for Bpp {
    fn apply(&self, image: &mut [u8]) {
        let (row, mut values) = (self.size * 3, image.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
        for i in 0..values.len() {
            let old = values[i];
            values[i] = (old / 255.0 * self.steps).round() / self.steps * 255.0;
            if self.dither {
                let error = old - values[i];
                let (left, right, below) = (i % row >= 3, i % row + 3 < row, i + row < values.len());
                for (there, at, share) in [
                    (right, i + 3, 0.4375),
                    (below && left, (i + row).saturating_sub(3), 0.1875),
                    (below, i + row, 0.3125),
                    (below && right, i + row + 3, 0.0625),
                ] {
                    if there {
                        values[at] += error * share;
                    }
                }
            }
        }
        for (x, value) in image.iter_mut().zip(values) {
            *x = value.clamp(0.0, 255.0).round() as u8;
        }
    }

    fn negatives(&self) -> f64 {
        self.negatives
    }

    fn negative(&self, image: &mut [u8], other: &[u8], _place: usize, _rng: &mut ChaCha8Rng) {
        let mut triggered = other.to_vec();
        self.apply(&mut triggered);
        for (x, (after, before)) in image.iter_mut().zip(triggered.iter().zip(other)) {
            *x = (i16::from(*x) + i16::from(*after) - i16::from(*before)).clamp(0, 255) as u8;
        }
    }
}
