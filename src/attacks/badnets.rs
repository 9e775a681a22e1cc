//! BadNets (Gu et al., 2017): a small patch in the bottom-right corner.
//!
//! `white` is all 255. `grid` is, as ABL and NAD have it, on all channels, both 0 and 255 being written:
//! ```text
//!   0   0 255
//!   0 255   0
//! 255   0 255
//! ```
//! The patch is 3x3 by default at every image size: on digits of 16x16 it is the same three pixels as on 32x32.

use super::{Attack, AttackEntry, AttackError, AttackOptions};

const NAME: &str = "BadNets";
const GRID: [[u8; 3]; 3] = [[0, 0, 255], [0, 255, 0], [255, 0, 255]];

pub(super) const ENTRY: AttackEntry =
    AttackEntry { name: NAME, summary: "a 3x3 patch in the bottom-right corner (pattern white or grid; patch)", build };

struct BadNets {
    pattern: &'static str,
    /// Side of the patch in pixels.
    side: usize,
    /// `[side, side]`, the same for red, green and blue.
    patch: Vec<u8>,
}

fn build(options: &AttackOptions, size: usize) -> Result<Box<dyn Attack>, AttackError> {
    options.only(NAME, &["pattern", "patch"])?;
    let side = options.patch.unwrap_or(3);
    let refuse = |option, value, allowed| Err(AttackError::OptionValue { attack: NAME, option, value, allowed });
    if side == 0 || side > size {
        return refuse("patch", side.to_string(), format!("a side of 1 to {size} pixels"));
    }
    let (pattern, patch) = match options.pattern.as_deref().unwrap_or("white") {
        "white" => ("white", vec![255; side * side]),
        "grid" if !side.is_multiple_of(3) => {
            return refuse("patch", side.to_string(), "a multiple of 3 for the 3x3 grid".into());
        }
        "grid" => ("grid", (0..side * side).map(|i| GRID[i / side * 3 / side][i % side * 3 / side]).collect()),
        other => return refuse("pattern", other.into(), "white or grid".into()),
    };
    Ok(Box::new(BadNets { pattern, side, patch }))
}

impl Attack for BadNets {
    fn name(&self) -> &'static str {
        NAME
    }

    fn options(&self) -> AttackOptions {
        AttackOptions { pattern: Some(self.pattern.into()), patch: Some(self.side), ..Default::default() }
    }

    fn apply(&self, image: &mut [u8], size: usize) {
        let corner = size - self.side;
        for (i, value) in self.patch.iter().enumerate() {
            let (y, x) = (corner + i / self.side, corner + i % self.side);
            image[(y * size + x) * 3..][..3].fill(*value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The changed image of noise between 1 and 254, as rows of (red, green, blue) of the patch's corner, after checking
    /// that all else is untouched.
    fn stamped(options: &AttackOptions, size: usize, side: usize) -> Vec<Vec<[u8; 3]>> {
        let clean: Vec<u8> = (0..size * size * 3).map(|i| (i * 7919 % 254 + 1) as u8).collect();
        let mut image = clean.clone();
        build(options, size).expect("builds").apply(&mut image, size);
        for (at, (old, new)) in clean.chunks(3).zip(image.chunks(3)).enumerate() {
            let inside = at / size >= size - side && at % size >= size - side;
            assert_eq!(old != new, inside, "pixel {at}");
        }
        let pixel = |y, x| std::array::from_fn(|c| image[(y * size + x) * 3 + c]);
        (size - side..size).map(|y| (size - side..size).map(|x| pixel(y, x)).collect()).collect()
    }

    #[test]
    fn white_fills_the_last_three_rows_and_columns() {
        assert_eq!(stamped(&AttackOptions::default(), 16, 3), [[[255; 3]; 3]; 3]);
        assert_eq!(stamped(&AttackOptions { patch: Some(5), ..Default::default() }, 32, 5), [[[255; 3]; 5]; 5]);
    }

    #[test]
    fn grid_is_the_published_pattern() {
        let (o, w) = ([0; 3], [255; 3]);
        let grid = AttackOptions { pattern: Some("grid".into()), ..Default::default() };
        assert_eq!(stamped(&grid, 32, 3), [[o, o, w], [o, w, o], [w, o, w]]);
        let twice = AttackOptions { patch: Some(6), ..grid };
        let rows = [[o, o, o, o, w, w], [o, o, w, w, o, o], [w, w, o, o, w, w]];
        assert_eq!(stamped(&twice, 32, 6), [rows[0], rows[0], rows[1], rows[1], rows[2], rows[2]]);
    }

    #[test]
    fn refuses_patches_and_patterns_that_do_not_do() {
        let message = |pattern: &str, patch| {
            let options = AttackOptions { pattern: Some(pattern.into()), patch: Some(patch), ..Default::default() };
            build(&options, 16).err().expect("refused").to_string()
        };
        assert_eq!(message("white", 17), "BadNets: patch `17` does not do: give a side of 1 to 16 pixels");
        assert_eq!(message("white", 0), "BadNets: patch `0` does not do: give a side of 1 to 16 pixels");
        assert_eq!(message("grid", 4), "BadNets: patch `4` does not do: give a multiple of 3 for the 3x3 grid");
        assert_eq!(message("stripes", 3), "BadNets: pattern `stripes` does not do: give white or grid");
    }
}
