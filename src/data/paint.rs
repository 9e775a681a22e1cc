use image::{Rgb, RgbImage};

/// Paints an image `[size, size, 3]` at (left, top) of a sheet, enlarged by a whole factor without smoothing. Panics where it does
/// not fit, as a slice does.
pub fn paint(sheet: &mut RgbImage, (left, top): (u32, u32), image: &[u8], size: usize, zoom: usize) {
    for y in 0..size * zoom {
        for x in 0..size * zoom {
            let at = (y / zoom * size + x / zoom) * 3;
            sheet.put_pixel(left + x as u32, top + y as u32, Rgb([image[at], image[at + 1], image[at + 2]]));
        }
    }
}
