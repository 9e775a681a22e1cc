//! The embedded digits, `datasets/digits`: a sheet of 8x8 grey digits and their labels (see its README).

use super::{Layout, Source, to_square};
use crate::data::split::hold_out;
use crate::data::{DataError, Dataset, Remarks, Splits};
use image::{GrayImage, ImageFormat};

pub static LAYOUT: Layout = Layout { name: "digits", looks_like: "nothing", find: None, load: |source, _| load(source) };

static SHEET: &[u8] = include_bytes!("../../../datasets/digits/digits.png");
static LABELS: &str = include_str!("../../../datasets/digits/labels.txt");

const COLUMNS: usize = 45;
const SIDE: usize = 8;
const TEST_PER_CLASS: usize = 50;

/// Loads the digits: 1,297 training and 500 test images, the same in every run.
fn load(source: &Source) -> Result<Splits, DataError> {
    let all = enlarged(source)?;
    let (train, test) = hold_out(&all.labels, all.classes.len(), |_| TEST_PER_CLASS);
    Ok(Splits { train: source.limited(all.subset(&train)), test: all.subset(&test), remarks: Remarks::default() })
}

fn enlarged(source: &Source) -> Result<Dataset, DataError> {
    let damaged = |why: String| DataError::Embedded { file: "datasets/digits", why };
    let sheet = image::load_from_memory_with_format(SHEET, ImageFormat::Png).map_err(|e| damaged(e.to_string()))?;
    let sheet = sheet.into_luma8();
    let labels: Vec<u32> = LABELS.chars().filter_map(|c| c.to_digit(10)).collect();
    let (width, height) = (COLUMNS * SIDE, labels.len().div_ceil(COLUMNS) * SIDE);
    if (sheet.width() as usize, sheet.height() as usize) != (width, height) {
        return Err(damaged(format!("{} labels, but a sheet of {:?} pixels", labels.len(), sheet.dimensions())));
    }

    let mut pixels = source.pixels(labels.len())?;
    for (i, rgb) in pixels.chunks_exact_mut(source.size * source.size * 3).enumerate() {
        let (left, top) = (i % COLUMNS * SIDE, i / COLUMNS * SIDE);
        let digit = GrayImage::from_fn(SIDE as u32, SIDE as u32, |x, y| *sheet.get_pixel(left as u32 + x, top as u32 + y));
        for (rgb, grey) in rgb.chunks_exact_mut(3).zip(to_square(digit, source.size).pixels()) {
            rgb.fill(grey.0[0]);
        }
    }
    Ok(Dataset {
        name: source.spec.name.clone(),
        size: source.size,
        classes: (0..10).map(|c| c.to_string()).collect(),
        pixels,
        paths: (0..labels.len()).map(|i| format!("digits#{i}")).collect(),
        labels,
    })
}

#[cfg(test)]
mod tests {
    use crate::data::{LoadOptions, Spec, Splits, load};

    fn digits(opts: LoadOptions) -> Splits {
        load(&Spec::find("digits").expect("embedded"), &opts).expect("loads")
    }

    #[test]
    fn the_digits_are_those_of_the_uci_set() {
        let Splits { train, test, .. } = digits(LoadOptions { image_size: Some(8), ..Default::default() });
        // The class sizes of optdigits.tes as its documentation gives them.
        let whole: Vec<_> = train.class_counts().iter().zip(test.class_counts()).map(|(a, b)| a + b).collect();
        assert_eq!(whole, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        assert_eq!(test.class_counts(), [50; 10]);
        assert_eq!((train.len(), test.len()), (1297, 500));
        // The first digit's first rows as scikit-learn prints them.
        assert_eq!((train.paths[0].as_str(), train.labels[0]), ("digits#0", 0));
        let printed = [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0, 0, 3, 15, 2, 0, 11, 8, 0];
        for (value, pixel) in printed.iter().zip(train.image(0).chunks(3)) {
            assert_eq!(pixel, [(*value as f64 * 255.0 / 16.0).round() as u8; 3]);
        }
    }

    #[test]
    fn enlarging_is_bilinear_between_pixel_centres() {
        let small = digits(LoadOptions { image_size: Some(8), ..Default::default() }).train;
        let large = digits(LoadOptions::default()).train;
        assert_eq!(large.size, 16);
        for i in [0, 17, 1296] {
            for (at, pixel) in large.image(i).chunks(3).enumerate() {
                // Centre of the large pixel in small pixels, clamped at the border; weights of its four neighbours.
                let (v, u) = (at / 16, at % 16);
                let place = |t: usize| ((t as f64 + 0.5) / 2.0 - 0.5).clamp(0.0, 7.0);
                let (y, x) = (place(v), place(u));
                let grey = |r: f64, c: f64| f64::from(small.image(i)[(r as usize * 8 + c as usize) * 3]);
                let row = |r: f64| grey(r, x.floor()) * (1.0 - x.fract()) + grey(r, x.ceil()) * x.fract();
                let expected = row(y.floor()) * (1.0 - y.fract()) + row(y.ceil()) * y.fract();
                assert!((f64::from(pixel[0]) - expected).abs() <= 1.0, "digit {i}, pixel {v},{u}");
                assert!(pixel[0] == pixel[1] && pixel[1] == pixel[2]);
            }
        }
    }

    #[test]
    fn the_mean_and_deviation_in_the_toml_are_those_of_the_training_images() {
        let spec = Spec::find("digits").expect("embedded");
        let values: Vec<f64> = digits(LoadOptions::default()).train.pixels.iter().map(|p| f64::from(*p) / 255.0).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let std = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
        assert!((mean - f64::from(spec.mean[0])).abs() < 1e-3, "{mean}");
        assert!((std - f64::from(spec.std[0])).abs() < 1e-3, "{std}");
    }

    #[test]
    fn a_limit_touches_the_training_digits_only() {
        let limited = digits(LoadOptions { limit_per_class: Some(7), seed: 3, ..Default::default() });
        assert_eq!(limited.train.class_counts(), [7; 10]);
        assert_eq!(limited.test.len(), 500);
    }
}
