use super::{Poisoned, Role};
use crate::data::{Dataset, paint};
use image::{Rgb, RgbImage};

const COLUMNS: usize = 8;
const BANDS: usize = 2;
/// Side that small images are enlarged to, at least, in pixels.
const TILE: usize = 96;
/// Grey between the images, so that a white patch at the rim shows, in pixels.
const GAP: usize = 4;
/// How much the difference is amplified.
const GAIN: u8 = 10;

/// Poisoned images for the eye: up to 16 of them, spread evenly over the set, eight beside each other; from above to below
/// clean, triggered, and |difference| x 10. Small images are enlarged by a whole factor without smoothing.
pub fn contact_sheet(clean: &Dataset, poisoned: &Poisoned) -> RgbImage {
    let all: Vec<usize> = (0..clean.len()).filter(|&i| poisoned.roles[i] == Role::Poisoned).collect();
    let shown = all.len().min(COLUMNS * BANDS);
    let zoom = TILE.div_ceil(clean.size);
    let (tile, columns) = (clean.size * zoom, shown.min(COLUMNS));
    let extent = |tiles: usize, extra: usize| (tiles * (tile + GAP) + extra * GAP + GAP) as u32;
    let bands = shown.div_ceil(COLUMNS);
    let mut sheet = RgbImage::from_pixel(extent(columns, 0), extent(3 * bands, bands.saturating_sub(1)), Rgb([128; 3]));
    for k in 0..shown {
        let i = all[k * all.len() / shown];
        let (before, after) = (clean.image(i), poisoned.data.image(i));
        let difference: Vec<u8> = before.iter().zip(after).map(|(a, b)| a.abs_diff(*b).saturating_mul(GAIN)).collect();
        for (row, image) in [before, after, &difference].into_iter().enumerate() {
            let band = k / COLUMNS;
            let (left, top) = (extent(k % COLUMNS, 0), extent(3 * band + row, band));
            paint(&mut sheet, (left, top), image, clean.size, zoom);
        }
    }
    sheet
}
