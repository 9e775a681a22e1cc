//! Near-duplicates: many copies of one picture are separate from everything else, too, and are no poison.

use rayon::prelude::*;

use crate::data::Dataset;

/// Correlation of two images from which they are nearly the same picture...
const SAME_PICTURE: f32 = 0.9;
/// ... if their middles correlate so much as well: a frame that they share is not the picture.
const SAME_MIDDLE: f32 = 0.75;
/// Correlation of either from which they are copies: told apart in classes, too, whose images are all alike by the figures above.
const COPY: f32 = 0.99;
/// Share of a set that has a near-duplicate in it, from which the set is one of near-duplicates...
const MOSTLY: f64 = 0.5;
/// ... if that share is so many times the one in the rest of the class: some classes are nearly alike throughout, as digits are.
const ABOVE_REST: f64 = 3.0;
/// So many images of a set are compared: cost grows with the square.
const COMPARED: usize = 400;

/// Whether the images of `set` are mostly near-duplicates of one another, and those of `rest` are not.
pub(super) fn near_duplicates(data: &Dataset, set: &[usize], rest: &[usize]) -> bool {
    [[SAME_PICTURE, SAME_MIDDLE], [COPY; 2]].into_iter().any(|alike| {
        let of_set = share(data, set, alike);
        of_set >= MOSTLY && of_set >= ABOVE_REST * share(data, rest, alike)
    })
}

/// The share of images that correlate with another one of them by `picture` or more, and their middles by `inside`.
fn share(data: &Dataset, of: &[usize], [picture, inside]: [f32; 2]) -> f64 {
    let step = of.len().div_ceil(COMPARED).max(1);
    let chosen = || of.iter().step_by(step);
    let unit: Vec<Vec<f32>> = chosen().map(|&i| standardised(data.image(i))).collect();
    let inner: Vec<Vec<f32>> = chosen().map(|&i| standardised(&middle(data.image(i), data.size))).collect();
    let same = |i: usize, j: usize| dot(&unit[i], &unit[j]) >= picture && dot(&inner[i], &inner[j]) >= inside;
    let twin = |i: usize| (0..unit.len()).any(|j| j != i && same(i, j));
    let twins = (0..unit.len()).into_par_iter().filter(|&i| twin(i)).count();
    twins as f64 / unit.len().max(1) as f64
}

/// The middle half of an image, [size, size, 3], in both directions; the whole of a very small one.
fn middle(image: &[u8], size: usize) -> Vec<u8> {
    let from = if size < 8 { 0 } else { size / 4 };
    (from..size - from).flat_map(|y| &image[(y * size + from) * 3..(y * size + size - from) * 3]).copied().collect()
}

/// An image less its mean, of length 1; a flat one stays 0.
fn standardised(image: &[u8]) -> Vec<f32> {
    let mean = image.iter().map(|p| f32::from(*p)).sum::<f32>() / image.len() as f32;
    let mut out: Vec<f32> = image.iter().map(|p| f32::from(*p) - mean).collect();
    let norm = dot(&out, &out).sqrt().max(1e-6);
    out.iter_mut().for_each(|v| *v /= norm);
    out
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let whole = a.len() / 16 * 16;
    for (a, b) in a[..whole].chunks_exact(16).zip(b[..whole].chunks_exact(16)) {
        lanes.iter_mut().zip(a).zip(b).for_each(|((lane, a), b)| *lane += a * b);
    }
    lanes.iter().sum::<f32>() + a[whole..].iter().zip(&b[whole..]).map(|(a, b)| a * b).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;
    use rand::RngExt;

    /// Forty pictures of noise; from 30 on each is `base` with a little noise of its own.
    fn data(copies: bool) -> Dataset {
        let (n, size) = (40, 8);
        let mut rng = rng::stream(5, "near-duplicates");
        let base: Vec<u8> = (0..size * size * 3).map(|_| rng.random()).collect();
        let mut pixels = Vec::new();
        for i in 0..n {
            for b in &base {
                let noise: u8 = rng.random();
                pixels.push(if copies && i >= 30 { b.saturating_add(noise / 16) } else { noise });
            }
        }
        Dataset {
            name: "test".into(),
            size,
            classes: vec!["a".into()],
            pixels,
            labels: vec![0; n],
            paths: vec![String::new(); n],
        }
    }

    /// A strong trigger makes images correlate as a whole, and is none the less a trigger.
    #[test]
    fn a_frame_that_is_shared_makes_no_near_duplicates() {
        let mut data = data(false);
        let size = data.size;
        for i in 30..40 {
            for (y, x) in (0..size * size).map(|p| (p / size, p % size)) {
                let edge = y.min(x).min(size - 1 - y).min(size - 1 - x) < 2;
                let pixel = &mut data.image_mut(i)[(y * size + x) * 3..][..3];
                pixel.iter_mut().for_each(|v| *v = if edge { if (y + x) % 2 == 0 { 255 } else { 0 } } else { 120 + *v / 32 });
            }
        }
        let whole: Vec<Vec<f32>> = [30, 31].iter().map(|&i| standardised(data.image(i))).collect();
        assert!(dot(&whole[0], &whole[1]) > SAME_PICTURE);
        assert!(!near_duplicates(&data, &(30..40).collect::<Vec<_>>(), &(0..30).collect::<Vec<_>>()));
    }

    #[test]
    fn copies_of_one_picture_are_named_and_other_sets_are_not() {
        let (set, rest): (Vec<usize>, Vec<usize>) = ((30..40).collect(), (0..30).collect());
        assert!(near_duplicates(&data(true), &set, &rest));
        assert!(!near_duplicates(&data(false), &set, &rest));
        // Where the whole class is alike, a part of it is nothing special.
        assert!(!near_duplicates(&data(true), &[30, 31, 32, 33, 34], &[35, 36, 37, 38, 39]));
    }

    #[test]
    fn copies_are_named_in_a_class_that_is_alike_throughout() {
        // Forty images that all correlate by .9 and more; the last ten are one picture.
        let (n, size) = (40, 8);
        let mut rng = rng::stream(6, "copies");
        let base: Vec<u8> = (0..size * size * 3).map(|_| rng.random()).collect();
        let one: Vec<u8> = base.iter().map(|p| p.saturating_add(rng.random_range(0..40))).collect();
        let alike = |rng: &mut rand_chacha::ChaCha8Rng| -> Vec<u8> {
            base.iter().map(|p| p.saturating_add(rng.random_range(0..40))).collect()
        };
        let pixels: Vec<u8> = (0..n).flat_map(|i| if i < 30 { alike(&mut rng) } else { one.clone() }).collect();
        let data = Dataset {
            name: "copies".into(),
            size,
            classes: vec!["a".into()],
            pixels,
            labels: vec![0; n],
            paths: (0..n).map(|i| i.to_string()).collect(),
        };
        let [first, second, copies] = [0..15, 15..30, 30..40].map(|range| range.collect::<Vec<usize>>());
        assert!(near_duplicates(&data, &copies, &first));
        assert!(!near_duplicates(&data, &second, &first));
    }
}
