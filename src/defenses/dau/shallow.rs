//! Shallow features of images, for evidence that needs no network: raw pixels, histograms of oriented gradients (HOG, Dalal and
//! Triggs 2005, without overlapping blocks) and pixels averaged over cells.

use image::RgbImage;
use image::imageops::{FilterType, resize};
use rayon::prelude::*;

use crate::data::Dataset;

/// Pixels a side of a cell.
const CELL: usize = 4;
/// Unsigned orientations of a histogram.
const ORIENTATIONS: usize = 8;
/// Larger images are reduced to so many pixels a side: the cost grows with the cube of the features.
const MAX_SIDE: usize = 32;

/// The three blocks of features, each [N, its size] row by row.
pub(super) fn features(data: &Dataset) -> [Vec<f32>; 3] {
    let side = (data.size.min(MAX_SIDE) / CELL * CELL).max(CELL);
    let images: Vec<Vec<f32>> = (0..data.len()).into_par_iter().map(|i| scaled(data.image(i), data.size, side)).collect();
    let block = |f: &(dyn Fn(&[f32]) -> Vec<f32> + Sync)| images.par_iter().flat_map_iter(|image| f(image)).collect();
    [block(&|image| image.to_vec()), block(&|image| hog(image, side)), block(&|image| pooled(image, side))]
}

/// RGB bytes as floats 0 to 1 on `side` pixels a side.
fn scaled(image: &[u8], size: usize, side: usize) -> Vec<f32> {
    let unit = |bytes: &[u8]| bytes.iter().map(|&b| f32::from(b) / 255.0).collect();
    match RgbImage::from_raw(size as u32, size as u32, image.to_vec()) {
        Some(full) if size != side => unit(&resize(&full, side as u32, side as u32, FilterType::Triangle)),
        _ => unit(image),
    }
}

/// Per cell the gradient's magnitude by orientation, as the square root of its share of the cell.
fn hog(image: &[f32], side: usize) -> Vec<f32> {
    let grey: Vec<f32> = image.chunks_exact(3).map(|p| (p[0] + p[1] + p[2]) / 3.0).collect();
    let cells = side / CELL;
    let mut out = vec![0.0f32; cells * cells * ORIENTATIONS];
    for y in 0..side {
        for x in 0..side {
            let across = |low: usize, high: usize| grey[high] - grey[low];
            let gx = if x > 0 && x + 1 < side { across(y * side + x - 1, y * side + x + 1) } else { 0.0 };
            let gy = if y > 0 && y + 1 < side { across((y - 1) * side + x, (y + 1) * side + x) } else { 0.0 };
            let turn = gy.atan2(gx).rem_euclid(std::f32::consts::PI) / std::f32::consts::PI;
            let bin = ((turn * ORIENTATIONS as f32) as usize).min(ORIENTATIONS - 1);
            out[(y / CELL * cells + x / CELL) * ORIENTATIONS + bin] += gx.hypot(gy);
        }
    }
    for cell in out.chunks_exact_mut(ORIENTATIONS) {
        let sum = cell.iter().sum::<f32>() + 1e-6;
        cell.iter_mut().for_each(|v| *v = (*v / sum).sqrt());
    }
    out
}

/// The mean colour of each cell.
fn pooled(image: &[f32], side: usize) -> Vec<f32> {
    let cells = side / CELL;
    let mut out = vec![0.0f32; cells * cells * 3];
    for (i, value) in image.iter().enumerate() {
        let (y, x, channel) = (i / 3 / side, i / 3 % side, i % 3);
        out[(y / CELL * cells + x / CELL) * 3 + channel] += value / (CELL * CELL) as f32;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One image of `size` pixels a side, grey, from its brightness at (y, x).
    fn picture(size: usize, grey: impl Fn(usize, usize) -> u8) -> Dataset {
        let pixels = (0..size * size).flat_map(|i| [grey(i / size, i % size); 3]).collect();
        let classes = vec!["only".into()];
        Dataset { name: "test".into(), size, classes, pixels, labels: vec![0], paths: vec![String::new()] }
    }

    #[test]
    fn a_ramp_along_x_has_all_its_gradient_in_the_first_orientation() {
        let [raw, hog, pooled] = features(&picture(8, |_, x| (x * 20) as u8));
        assert_eq!((raw.len(), hog.len(), pooled.len()), (192, 32, 12));
        for cell in hog.chunks(ORIENTATIONS) {
            assert!((cell[0] - 1.0).abs() < 1e-3, "{cell:?}");
            assert!(cell[1..].iter().all(|v| *v == 0.0), "{cell:?}");
        }
        // Columns 0 to 3 and 4 to 7 of brightness 20 x: means 30 and 110.
        assert!((pooled[0] - 30.0 / 255.0).abs() < 1e-6 && (pooled[3] - 110.0 / 255.0).abs() < 1e-6, "{pooled:?}");
    }

    #[test]
    fn a_ramp_along_y_points_half_a_turn_on() {
        let [_, hog, _] = features(&picture(8, |y, _| 200 - (y * 20) as u8));
        assert!(hog.chunks(ORIENTATIONS).all(|cell| (cell[ORIENTATIONS / 2] - 1.0).abs() < 1e-3), "{hog:?}");
    }

    #[test]
    fn large_and_odd_images_are_brought_to_whole_cells() {
        for (size, side) in [(64, 32), (30, 28), (3, 4)] {
            let [raw, hog, pooled] = features(&picture(size, |y, x| (y * 3 + x) as u8));
            let cells = side / CELL;
            assert_eq!(raw.len(), side * side * 3);
            assert_eq!((hog.len(), pooled.len()), (cells * cells * ORIENTATIONS, cells * cells * 3));
        }
    }
}
