//! How datasets lie on disk, one file a layout. A layout tells whether a folder holds it, and loads it.

mod cifar;
mod cifar_py;
mod digits;
pub(super) mod folder;
mod gtsrb;
mod tiny_imagenet;

use super::{DataError, Dataset, Spec, Splits};
use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Pixel};
use serde::{Deserialize, Deserializer};
use std::path::{Path, PathBuf};

/// The layouts that `datasets/*.toml` name. To add one: a file beside this one and a line here.
pub static LAYOUTS: &[&Layout] = &[
    &digits::LAYOUT,
    &cifar::CIFAR10,
    &cifar::CIFAR100,
    &cifar_py::CIFAR10,
    &cifar_py::CIFAR100,
    &gtsrb::LAYOUT,
    &gtsrb::KAGGLE,
    &tiny_imagenet::LAYOUT,
    &folder::LAYOUT,
];

/// How a dataset lies on disk.
#[derive(Debug)]
pub struct Layout {
    /// What `datasets/*.toml` call it.
    pub name: &'static str,
    /// What it looks like, for messages.
    pub looks_like: &'static str,
    /// The folder to load, if this folder is it or holds it; part of what belongs there is enough, so that the rest can be
    /// missed by name. None: the dataset is built in and needs no folder.
    pub find: Option<fn(&Path) -> Option<PathBuf>>,
    /// Loads the dataset from the folder that `find` gave; a built-in one does not look at the folder.
    pub load: fn(&Source, &Path) -> Result<Splits, DataError>,
}

impl<'de> Deserialize<'de> for &'static Layout {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        LAYOUTS.iter().find(|layout| layout.name == name).copied().ok_or_else(|| {
            let known: Vec<_> = LAYOUTS.iter().map(|layout| layout.name).collect();
            serde::de::Error::custom(format!("unknown layout `{name}`; known are {}", known.join(", ")))
        })
    }
}

/// What a layout is asked for.
pub struct Source<'a> {
    /// The dataset to load.
    pub spec: &'a Spec,
    /// Height and width in pixels.
    pub size: usize,
    /// Training images of each class to keep, chosen by `seed`.
    pub limit: Option<usize>,
    /// Says which images a limit keeps.
    pub seed: u64,
    /// Where decoded images are kept between runs.
    pub cache: Option<&'a Path>,
    /// Whether to go on without images that cannot be read.
    pub skip_unreadable: bool,
    /// Whether test images are left unread.
    pub train_only: bool,
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
    pub(super) fn pixels(&self, images: usize) -> Result<Vec<u8>, DataError> {
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
pub(super) fn to_square<P>(image: ImageBuffer<P, Vec<u8>>, size: usize) -> ImageBuffer<P, Vec<u8>>
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
