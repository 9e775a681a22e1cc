//! Where a network looks, laid over the image.

use image::{Rgb, RgbImage};

/// Side that small images are enlarged to, at least, in pixels.
const TILE: u32 = 144;
/// Of the map's colour in a pixel; the rest is the image in grey.
const SHARE: f32 = 0.7;
/// Dark blue to bright yellow, at equal steps: matplotlib's `cividis`, which was made for the colour-blind.
const CIVIDIS: [[f32; 3]; 5] =
    [[0.0, 34.0, 78.0], [66.0, 78.0, 108.0], [124.0, 123.0, 120.0], [188.0, 174.0, 108.0], [254.0, 232.0, 56.0]];

/// The image, enlarged by a whole factor without smoothing.
pub(super) fn enlarged(image: &RgbImage) -> RgbImage {
    let zoom = zoom(image);
    RgbImage::from_fn(image.width() * zoom, image.height() * zoom, |x, y| *image.get_pixel(x / zoom, y / zoom))
}

fn zoom(image: &RgbImage) -> u32 {
    TILE.div_ceil(image.width().max(1))
}

/// The image, enlarged and grey, under the colours of `map` [side, side] from 0 to its maximum; what is below 0 counts as 0.
pub(super) fn overlay(image: &RgbImage, map: &[f32], side: usize) -> RgbImage {
    let large = enlarged(image);
    let (wide, high) = large.dimensions();
    let most = map.iter().copied().fold(0.0, f32::max);
    let scale = if most > 0.0 { 1.0 / most } else { 0.0 };
    let map: Vec<f32> = map.iter().map(|x| x.max(0.0) * scale).collect();
    RgbImage::from_fn(wide, high, |x, y| {
        let Rgb([r, g, b]) = *large.get_pixel(x, y);
        let grey = 0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b);
        let here = |pixel: u32, pixels: u32| (pixel as f32 + 0.5) / pixels as f32 * side as f32 - 0.5;
        let colour = colour(bilinear(&map, side, here(y, high), here(x, wide)));
        Rgb(colour.map(|c| (SHARE * c + (1.0 - SHARE) * grey).round() as u8))
    })
}

/// Between the four places around (y, x), beyond the rim as at the rim.
fn bilinear(map: &[f32], side: usize, y: f32, x: f32) -> f32 {
    let last = (side - 1) as f32;
    let (y, x) = (y.clamp(0.0, last), x.clamp(0.0, last));
    let (top, left) = (y.floor() as usize, x.floor() as usize);
    let (down, right) = ((top + 1).min(side - 1), (left + 1).min(side - 1));
    let (dy, dx) = (y - top as f32, x - left as f32);
    let row = |row: usize| (1.0 - dx) * map[row * side + left] + dx * map[row * side + right];
    (1.0 - dy) * row(top) + dy * row(down)
}

/// Of a share 0 to 1.
fn colour(share: f32) -> [f32; 3] {
    let at = share.clamp(0.0, 1.0) * (CIVIDIS.len() - 1) as f32;
    let low = (at as usize).min(CIVIDIS.len() - 2);
    let part = at - low as f32;
    [0, 1, 2].map(|c| (1.0 - part) * CIVIDIS[low][c] + part * CIVIDIS[low + 1][c])
}

/// The colours from 0 to 1, from left to right.
pub(super) fn scale() -> RgbImage {
    RgbImage::from_fn(2 * TILE, 12, |x, _| Rgb(colour((x as f32 + 0.5) / (2 * TILE) as f32).map(|c| c.round() as u8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PyTorch: `interpolate(map[None, None], size=5, mode="bilinear")[0, 0, 1]` and its last row.
    #[test]
    fn a_map_is_enlarged_as_pytorch_does_it() {
        let map = [0.0, 1.0, 4.0, 3.0, 2.0, 8.0, 1.0, 5.0, 9.0];
        let row = |y: usize| -> Vec<f32> {
            let at = |i: usize| (i as f32 + 0.5) / 5.0 * 3.0 - 0.5;
            (0..5).map(|x| bilinear(&map, 3, at(y), at(x))).collect()
        };
        for (y, pytorch) in [(1, [1.2, 1.28, 1.4, 3.92, 5.6]), (4, [1.0, 2.6, 5.0, 7.4, 9.0])] {
            for (found, truth) in row(y).iter().zip(pytorch) {
                assert!((found - truth).abs() < 1e-5, "row {y}: {:?}, PyTorch says {pytorch:?}", row(y));
            }
        }
    }

    #[test]
    fn bright_yellow_is_where_the_map_is_greatest_and_what_speaks_against_counts_as_nothing() {
        let image = RgbImage::from_pixel(16, 16, Rgb([100; 3]));
        let seen = overlay(&image, &[-5.0, 0.0, 0.0, 2.0], 2);
        let mixed = |share: f32| Rgb(colour(share).map(|c| (SHARE * c + (1.0 - SHARE) * 100.0).round() as u8));
        let last = seen.width() - 1;
        assert_eq!((*seen.get_pixel(last, last), *seen.get_pixel(0, 0)), (mixed(1.0), mixed(0.0)));
        assert_eq!(*overlay(&image, &[-1.0; 4], 2).get_pixel(3, 3), mixed(0.0), "nothing speaks for the class");
        assert_eq!(colour(1.0), [254.0, 232.0, 56.0]);
    }
}
