//! Reading one image file: whole or not at all, and in memory that is known before.

use super::layouts::to_square;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::io::Cursor;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Bytes that an image may take while it is decoded and scaled: photographs of 150 million pixels take less.
const MOST: u64 = 512 << 20;

/// From so many bytes on, one image at a time: else as many as there are threads could fill the memory.
const LARGE: u64 = 32 << 20;

static TURN: Mutex<()> = Mutex::new(());

/// Decodes a file's bytes and scales them into `pixels`, `[size, size, 3]`, upright as its EXIF entry says. The format is told by the first bytes, and by the name
/// only where these do not tell. Of several frames the first is read.
///
/// # Errors
/// Why it cannot be read, in words.
pub(super) fn decode(bytes: &[u8], path: &Path, size: usize, pixels: &mut [u8]) -> Result<(), String> {
    let mut reader = ImageReader::new(Cursor::new(bytes));
    if let Ok(format) = ImageFormat::from_path(path) {
        reader.set_format(format);
    }
    let mut reader = reader.with_guessed_format().map_err(|e| e.to_string())?;
    if reader.format() == Some(ImageFormat::Jpeg) && !ends(bytes) {
        return Err("it is cut off: its end-of-image marker is missing".into());
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    // Where the entry is damaged, viewers show the image as it is.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);

    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(format!("it has {width}x{height} pixels"));
    }
    // Scaling goes over a picture of the old width and the new height, in four f32 a pixel.
    let scaled = u64::from(width).saturating_mul(size as u64 * 16);
    let bytes = decoder.total_bytes().saturating_add(scaled);
    if bytes > MOST {
        let [needed, most] = [bytes, MOST].map(|bytes| bytes >> 20);
        return Err(format!(
            "its {width}x{height} pixels take {needed} MiB to read and scale, more than {most}: make it smaller"
        ));
    }
    let _turn = (bytes > LARGE).then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
    let image = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    // Turned when it is small: a square takes the turn as well as what it is made of.
    let mut square = DynamicImage::ImageRgb8(to_square(image.into_rgb8(), size));
    square.apply_orientation(orientation);
    pixels.copy_from_slice(square.as_bytes());
    Ok(())
}

/// Whether a JPEG has its end-of-image marker. A decoder fills with grey what is missing before it.
fn ends(jpeg: &[u8]) -> bool {
    let mut at = 2; // after the start-of-image marker
    loop {
        // A marker is 0xff and a byte that is neither 0, which stands for 0xff among pixels, nor 0xff, which fills.
        let rest = jpeg.get(at..).unwrap_or_default();
        let Some(gap) = rest.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff)) else { return false };
        at += gap + 2;
        match rest[gap + 1] {
            0xd9 => return true,
            0x01 | 0xd0..=0xd8 => {} // these have no content
            _ => at += rest.get(gap + 2..gap + 4).map_or(0, |length| usize::from(length[0]) << 8 | usize::from(length[1])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, RgbImage};

    /// A picture with detail everywhere, in a format.
    fn written(format: ImageFormat) -> Vec<u8> {
        let picture = RgbImage::from_fn(32, 32, |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, (x * y * 3) as u8]));
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).expect("written");
        bytes.into_inner()
    }

    fn read(bytes: &[u8], name: &str) -> Result<Vec<u8>, String> {
        let mut pixels = vec![0; 32 * 32 * 3];
        decode(bytes, Path::new(name), 32, &mut pixels).map(|()| pixels)
    }

    #[test]
    fn every_format_is_read_whatever_its_name_and_refused_when_cut() {
        use ImageFormat::{Bmp, Gif, Jpeg, Png, Pnm, Tiff, WebP};
        for format in [Bmp, Gif, Jpeg, Png, Pnm, Tiff, WebP] {
            let bytes = written(format);
            let pixels = read(&bytes, "a.dat").unwrap_or_else(|e| panic!("{format:?}: {e}"));
            let (x, y) = (20, 9);
            let rgb = &pixels[3 * (y * 32 + x)..][..3];
            assert!(rgb[0].abs_diff(140) < 25 && rgb[1].abs_diff(45) < 25, "{format:?}: {rgb:?}");
            for length in [bytes.len() / 2, bytes.len() * 9 / 10] {
                assert!(read(&bytes[..length], "a.png").is_err(), "{format:?} of {length} of {} bytes", bytes.len());
            }
        }
    }

    /// A JPEG with an EXIF segment that says how it is turned.
    fn turned(jpeg: &[u8], orientation: u8) -> Vec<u8> {
        // One entry of a TIFF directory: tag 0x112, a short, one of them, its value; then no further directory.
        let tiff = [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0", &[orientation, 0, 0, 0][..], &[0; 4]].concat();
        let content = [b"Exif\0\0", &tiff[..]].concat();
        [&jpeg[..2], &[0xff, 0xe1, 0, content.len() as u8 + 2], &content, &jpeg[2..]].concat()
    }

    #[test]
    fn a_photograph_is_turned_upright_as_its_exif_entry_says() {
        let jpeg = written(ImageFormat::Jpeg);
        let upright = read(&jpeg, "a.jpg").expect("read");
        let at = |pixels: &[u8], x: usize, y: usize| pixels[3 * (32 * y + x)..][..3].to_vec();
        // Where the pixel that is seen at x, y lies in the file, by EXIF's number.
        let place = |orientation: u8, x: usize, y: usize| match orientation {
            1 => (x, y),
            2 => (31 - x, y),
            3 => (31 - x, 31 - y),
            4 => (x, 31 - y),
            5 => (y, x),
            6 => (y, 31 - x),
            7 => (31 - y, 31 - x),
            _ => (31 - y, x),
        };
        for orientation in 1..=8 {
            let pixels = read(&turned(&jpeg, orientation), "a.jpg").expect("read");
            for (x, y) in (0..32).flat_map(|y| (0..32).map(move |x| (x, y))) {
                let (in_x, in_y) = place(orientation, x, y);
                assert_eq!(at(&pixels, x, y), at(&upright, in_x, in_y), "orientation {orientation}, pixel {x}, {y}");
            }
        }
        assert_eq!(read(&turned(&jpeg, 99), "a.jpg").expect("read"), upright, "no orientation of EXIF's");
    }

    #[test]
    fn what_is_turned_when_it_is_scaled_is_as_if_it_had_been_turned_before() {
        let wide = RgbImage::from_fn(90, 50, |x, y| Rgb([(x * 2) as u8, (y * 5) as u8, (x * y / 20) as u8]));
        let bytes = |image: &DynamicImage, format| {
            let mut bytes = Cursor::new(Vec::new());
            image.write_to(&mut bytes, format).expect("written");
            bytes.into_inner()
        };
        let jpeg = bytes(&wide.into(), ImageFormat::Jpeg);
        let high = image::load_from_memory(&jpeg).expect("read").rotate90();
        let before = read(&bytes(&high, ImageFormat::Png), "a.png").expect("read");
        let after = read(&turned(&jpeg, 6), "a.jpg").expect("read");
        // Rows and columns are scaled one after the other, and rounded between.
        assert!(before.iter().zip(&after).all(|(before, after)| before.abs_diff(*after) <= 1));
    }

    #[test]
    fn a_jpeg_ends_with_its_marker_not_with_one_in_a_thumbnail_or_with_the_file() {
        let whole = written(ImageFormat::Jpeg);
        let end = whole.len();
        assert!(ends(&whole) && ends(&[&whole[..], b"what cameras put behind"].concat()));
        for length in 0..end {
            assert!(!ends(&whole[..length]), "{length} of {end} bytes");
        }
        // A segment that holds a thumbnail with an end of its own.
        let thumbnail = [&[0xff, 0xe1, 0, 2 + 4, 0xff, 0xd8, 0xff, 0xd9][..]].concat();
        let with = [&whole[..2], &thumbnail, &whole[2..]].concat();
        assert!(ends(&with) && !ends(&with[..with.len() - 2]));
    }

    #[test]
    fn an_image_that_would_fill_the_memory_is_refused_with_the_numbers() {
        for (width, height) in [(100_000_000u32, 1u32), (10_000_000, 1), (30_000, 30_000)] {
            // The heading alone; its pixels are not even there.
            let why = read(format!("P6\n{width} {height}\n255\n").as_bytes(), "a.ppm").expect_err("refused");
            assert!(why.contains(&format!("{width}x{height} pixels take")) && why.contains("more than 512"), "{why}");
        }
    }
}
