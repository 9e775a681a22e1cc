//! How datasets lie on disk, one file a layout. A layout tells by a marker whether a folder holds it, and loads it.

pub mod cifar10;
pub mod digits;
pub mod folder;

use super::{DataError, Dataset, Spec};
use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Pixel};
use std::path::Path;

/// What a layout is asked for: the dataset, its image size in pixels, the training images of each class to keep.
pub struct Source<'a> {
    pub spec: &'a Spec,
    pub size: usize,
    pub limit: Option<usize>,
    pub seed: u64,
}

impl Source<'_> {
    /// The training images that the limit leaves.
    fn limited(&self, train: Dataset) -> Dataset {
        match self.limit {
            Some(n) => train.limit_per_class(n, self.seed),
            None => train,
        }
    }

    /// Room for `images` images, zeroed; an error rather than an abort where there is none.
    fn pixels(&self, images: usize) -> Result<Vec<u8>, DataError> {
        let bytes = images * self.size * self.size * 3;
        let mut pixels = Vec::new();
        if pixels.try_reserve_exact(bytes).is_err() {
            let gib = bytes as f64 / (1u64 << 30) as f64;
            return Err(DataError::Memory { images, size: self.size, gib });
        }
        pixels.resize(bytes, 0);
        Ok(pixels)
    }
}

/// Scales to `size` x `size` with the triangle filter: bilinear when enlarging, an average when shrinking.
fn to_square<P>(image: ImageBuffer<P, Vec<u8>>, size: usize) -> ImageBuffer<P, Vec<u8>>
where
    P: Pixel<Subpixel = u8> + Send + Sync + 'static,
{
    let side = size as u32; // at most MAX_IMAGE_SIZE
    if image.dimensions() == (side, side) { image } else { resize(&image, side, side, FilterType::Triangle) }
}

/// Puts a path to an input error.
pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> DataError {
    move |cause| DataError::Io { path: path.into(), cause }
}
