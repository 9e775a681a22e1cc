//! What a linear model sees of an image, without any network: pixels, histograms of oriented gradients (HOG, Dalal and Triggs 2005,
//! without overlapping blocks), mean colours of cells, and log energies of first and second differences. The energies make warps and
//! quantisation visible, which hardly move a pixel's mean.

use image::RgbImage;
use image::imageops::{FilterType, resize};

/// Pixels a side of a HOG cell and of a mean's cell.
const CELL: usize = 4;
/// Pixels a side of an energy's cell.
const ENERGY_CELL: usize = 2;
/// Unsigned orientations of a histogram.
const ORIENTATIONS: usize = 8;
/// Added to an energy before its logarithm: about (1/60)^2, the noise of 8-bit pixels after JPEG.
const ENERGY_FLOOR: f32 = 3e-4;
/// Larger images are reduced to so many pixels a side: the cost grows with the cube of the features.
const MAX_SIDE: usize = 32;

/// Features of images of one size.
pub(super) struct Features {
    /// Height and width of the images in pixels.
    size: usize,
    /// The same after reduction, a multiple of [`CELL`].
    side: usize,
}

impl Features {
    /// For images of `size` pixels a side.
    pub fn new(size: usize) -> Features {
        Features { size, side: (size.min(MAX_SIDE) / CELL * CELL).max(CELL) }
    }

    /// Sizes of the blocks, in their order: pixels, HOG, mean colours, energies.
    pub fn blocks(&self) -> [usize; 4] {
        let (pixels, cells) = (self.side * self.side, (self.side / CELL).pow(2));
        [3 * pixels, ORIENTATIONS * cells, 3 * cells, 4 * (self.side / ENERGY_CELL).pow(2)]
    }

    /// All blocks of one image [size, size, 3], one after the other.
    pub fn of(&self, image: &[u8]) -> Vec<f32> {
        let side = self.side;
        let mut out = scaled(image, self.size, side);
        let (hog, means, energies) = (hog(&out, side), mean_colours(&out, side), energies(&out, side));
        out.extend(hog);
        out.extend(means);
        out.extend(energies);
        out
    }
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
fn mean_colours(image: &[f32], side: usize) -> Vec<f32> {
    let cells = side / CELL;
    let mut out = vec![0.0f32; cells * cells * 3];
    for (i, value) in image.iter().enumerate() {
        let (y, x, channel) = (i / 3 / side, i / 3 % side, i % 3);
        out[(y / CELL * cells + x / CELL) * 3 + channel] += value / (CELL * CELL) as f32;
    }
    out
}

/// Per cell log(. + [`ENERGY_FLOOR`]) of the mean square, summed over the channels, of four maps: second differences across and
/// down, first differences across and down. A map is 0 where a neighbour is missing.
fn energies(image: &[f32], side: usize) -> Vec<f32> {
    let cells = side / ENERGY_CELL;
    let mut out = vec![0.0f32; 4 * cells * cells];
    let at = |y: usize, x: usize, c: usize| image[(y * side + x) * 3 + c];
    for (y, x) in (0..side * side).map(|i| (i / side, i % side)) {
        let cell = y / ENERGY_CELL * cells + x / ENERGY_CELL;
        for c in 0..3 {
            let here = at(y, x, c);
            if (1..side - 1).contains(&x) {
                let (low, high) = (at(y, x - 1, c), at(y, x + 1, c));
                out[cell] += (low - 2.0 * here + high).powi(2);
                out[2 * cells * cells + cell] += (high - low).powi(2);
            }
            if (1..side - 1).contains(&y) {
                let (low, high) = (at(y - 1, x, c), at(y + 1, x, c));
                out[cells * cells + cell] += (low - 2.0 * here + high).powi(2);
                out[3 * cells * cells + cell] += (high - low).powi(2);
            }
        }
    }
    let pixels = (ENERGY_CELL * ENERGY_CELL) as f32;
    out.iter_mut().for_each(|v| *v = (*v / pixels + ENERGY_FLOOR).ln());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The blocks of one grey image of `size` pixels a side, from its brightness at (y, x).
    fn blocks(size: usize, grey: impl Fn(usize, usize) -> u8) -> [Vec<f32>; 4] {
        let pixels: Vec<u8> = (0..size * size).flat_map(|i| [grey(i / size, i % size); 3]).collect();
        let features = Features::new(size);
        let all = features.of(&pixels);
        assert_eq!(all.len(), features.blocks().iter().sum::<usize>());
        let mut rest = all.as_slice();
        features.blocks().map(|len| {
            let (block, after) = rest.split_at(len);
            rest = after;
            block.to_vec()
        })
    }

    #[test]
    fn a_ramp_along_x_has_all_its_gradient_in_the_first_orientation() {
        let [raw, hog, means, _] = blocks(8, |_, x| (x * 20) as u8);
        assert_eq!((raw.len(), hog.len(), means.len()), (192, 32, 12));
        for cell in hog.chunks(ORIENTATIONS) {
            assert!((cell[0] - 1.0).abs() < 1e-3, "{cell:?}");
            assert!(cell[1..].iter().all(|v| *v == 0.0), "{cell:?}");
        }
        // Columns 0 to 3 and 4 to 7 of brightness 20 x: means 30 and 110.
        assert!((means[0] - 30.0 / 255.0).abs() < 1e-6 && (means[3] - 110.0 / 255.0).abs() < 1e-6, "{means:?}");
    }

    #[test]
    fn a_ramp_along_y_points_half_a_turn_on() {
        let [_, hog, ..] = blocks(8, |y, _| 200 - (y * 20) as u8);
        assert!(hog.chunks(ORIENTATIONS).all(|cell| (cell[ORIENTATIONS / 2] - 1.0).abs() < 1e-3), "{hog:?}");
    }

    /// Brightness 3 x^2: second difference 6 across, first difference 12 x, both in 1/255, three channels alike.
    #[test]
    fn energies_of_a_parabola_by_hand() {
        let [.., energies] = blocks(8, |_, x| (3 * x * x) as u8);
        let log = |squares: f32| (3.0 * squares / 255.0f32.powi(2) + ENERGY_FLOOR).ln();
        let near = |got: f32, want: f32| assert!((got - want).abs() < 1e-4, "{got} {want}");
        // The cell of columns 2 and 3, and that of columns 0 and 1, whose column 0 has no left neighbour.
        near(energies[1], log(36.0));
        near(energies[0], log(36.0 / 2.0));
        near(energies[2 * 16 + 1], log((24.0f32.powi(2) + 36.0f32.powi(2)) / 2.0));
        for down in [16, 48] {
            assert!(energies[down..down + 16].iter().all(|v| (v - ENERGY_FLOOR.ln()).abs() < 1e-5), "{energies:?}");
        }
    }

    #[test]
    fn large_and_odd_images_are_brought_to_whole_cells() {
        for (size, side) in [(64, 32), (30, 28), (3, 4)] {
            let [raw, hog, means, energies] = blocks(size, |y, x| (y * 3 + x) as u8);
            let cells = side / CELL;
            assert_eq!((raw.len(), energies.len()), (side * side * 3, side * side));
            assert_eq!((hog.len(), means.len()), (cells * cells * ORIENTATIONS, cells * cells * 3));
        }
    }
}
