//! BadNets (Gu et al., 2017): a small patch in the bottom-right corner.
//!
//! `white` is all 255. `grid` is, as ABL and NAD have it, on all channels, both 0 and 255 being written:
//! ```text
//!   0   0 255
//!   0 255   0
//! 255   0 255
//! ```
//! The patch is 3x3 by default at every image size: on digits of 16x16 it is the same three pixels as on 32x32.

use super::{Attack, AttackEntry, AttackError, Blueprint, TargetMode};
use crate::options::{Kind, OptionSpec};

const GRID: [[u8; 3]; 3] = [[0, 0, 255], [0, 255, 0], [255, 0, 255]];

pub(super) const PATTERN: OptionSpec =
    OptionSpec { name: "pattern", help: "of the patch", kind: Kind::Word { default: "white", among: &["white", "grid"] } };
pub(super) const PATCH: OptionSpec = OptionSpec {
    name: "patch",
    help: "side of the patch, pixels",
    kind: Kind::Number { default: 3.0, allowed: |n| n >= 1.0 && n.fract() == 0.0, words: "a whole number of pixels from 1" },
};

pub(super) const ENTRY: AttackEntry = AttackEntry {
    name: "BadNets",
    summary: "a 3x3 patch in the bottom-right corner",
    options: &[PATTERN, PATCH],
    mode: TargetMode::AllToOne,
    needs_surrogate: false,
    build,
};

pub(super) struct BadNets {
    size: usize,
    /// Side of the patch in pixels.
    side: usize,
    /// `[side, side]`, the same for red, green and blue.
    patch: Vec<u8>,
}

fn build<'a>(blueprint: &Blueprint<'a>) -> Result<Box<dyn Attack + 'a>, AttackError> {
    Ok(Box::new(patch(&ENTRY, blueprint)?))
}

/// The patch, for an attack that has [`PATTERN`] and [`PATCH`] among its options.
pub(super) fn patch(entry: &AttackEntry, blueprint: &Blueprint) -> Result<BadNets, AttackError> {
    let (size, side) = (blueprint.size, blueprint.options.count(&PATCH));
    if side > size {
        return Err(entry.option_value("patch", side, format!("a side of 1 to {size} pixels")));
    }
    let grid = blueprint.options.word(&PATTERN) == "grid";
    if grid && !side.is_multiple_of(3) {
        return Err(entry.option_value("patch", side, "a multiple of 3 for the 3x3 grid".into()));
    }
    let value = |i: usize| if grid { GRID[i / side * 3 / side][i % side * 3 / side] } else { 255 };
    Ok(BadNets { size, side, patch: (0..side * side).map(value).collect() })
}

impl Attack for BadNets {
    fn apply(&self, image: &mut [u8]) {
        let corner = self.size - self.side;
        for (i, value) in self.patch.iter().enumerate() {
            let (y, x) = (corner + i / self.side, corner + i % self.side);
            image[(y * self.size + x) * 3..][..3].fill(*value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    /// The changed image of noise between 1 and 254, as rows of (red, green, blue) of the patch's corner, after checking
    /// that all else is untouched.
    fn stamped(options: &Options, size: usize, side: usize) -> Vec<Vec<[u8; 3]>> {
        let clean: Vec<u8> = (0..size * size * 3).map(|i| (i * 7919 % 254 + 1) as u8).collect();
        let mut image = clean.clone();
        ENTRY.build(&Blueprint { size, seed: 0, options, help: None }).expect("builds").apply(&mut image);
        for (at, (old, new)) in clean.chunks(3).zip(image.chunks(3)).enumerate() {
            let inside = at / size >= size - side && at % size >= size - side;
            assert_eq!(old != new, inside, "pixel {at}");
        }
        let pixel = |y, x| std::array::from_fn(|c| image[(y * size + x) * 3 + c]);
        (size - side..size).map(|y| (size - side..size).map(|x| pixel(y, x)).collect()).collect()
    }

    #[test]
    fn white_fills_the_last_three_rows_and_columns() {
        assert_eq!(stamped(&Options::default(), 16, 3), [[[255; 3]; 3]; 3]);
        assert_eq!(stamped(&Options::from([("patch", 5.0.into())]), 32, 5), [[[255; 3]; 5]; 5]);
    }

    #[test]
    fn grid_is_the_published_pattern() {
        let (o, w) = ([0; 3], [255; 3]);
        let grid = Options::from([("pattern", "grid".into())]);
        assert_eq!(stamped(&grid, 32, 3), [[o, o, w], [o, w, o], [w, o, w]]);
        let twice = Options::from([("pattern", "grid".into()), ("patch", 6.0.into())]);
        let rows = [[o, o, o, o, w, w], [o, o, w, w, o, o], [w, w, o, o, w, w]];
        assert_eq!(stamped(&twice, 32, 6), [rows[0], rows[0], rows[1], rows[1], rows[2], rows[2]]);
    }

    #[test]
    fn refuses_patches_and_patterns_that_do_not_do() {
        let message = |pattern: &str, patch: f64| {
            let options = Options::from([("pattern", pattern.into()), ("patch", patch.into())]);
            ENTRY.build(&Blueprint { size: 16, seed: 0, options: &options, help: None }).err().expect("refused").to_string()
        };
        assert_eq!(message("white", 17.0), "BadNets: patch `17` does not do: give a side of 1 to 16 pixels");
        assert_eq!(message("white", 0.0), "BadNets: patch `0` does not do: give a whole number of pixels from 1");
        assert_eq!(message("white", 2.5), "BadNets: patch `2.5` does not do: give a whole number of pixels from 1");
        assert_eq!(message("grid", 4.0), "BadNets: patch `4` does not do: give a multiple of 3 for the 3x3 grid");
        assert_eq!(message("stripes", 3.0), "BadNets: pattern `stripes` does not do: give white or grid");
    }
}
