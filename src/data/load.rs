use super::layouts::{self, Source, cifar10, digits, folder};
use super::{DataError, Dataset, Layout, Spec, Splits};
use std::path::{Path, PathBuf};

/// The largest side that images are resized to, in pixels; beyond it a slip of the hand is likelier than a wish.
pub const MAX_IMAGE_SIZE: usize = 1024;

/// How to load a dataset; the default is as its [`Spec`] says, whole.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Where it lies; built-in datasets need none and take none.
    pub dir: Option<PathBuf>,
    /// Height and width in pixels instead of the spec's, 1..=[`MAX_IMAGE_SIZE`].
    pub image_size: Option<usize>,
    /// At most so many training images of each class; the test set stays whole.
    pub limit_per_class: Option<usize>,
    /// Which training images a limit keeps.
    pub seed: u64,
}

/// Loads a dataset in the first of its layouts that is there.
///
/// # Errors
/// A missing, truncated or unreadable file, a folder that holds none of the layouts, too few classes or images, options
/// out of range: see [`DataError`].
pub fn load(spec: &Spec, opts: &LoadOptions) -> Result<Splits, DataError> {
    let all = source(spec, opts.image_size.unwrap_or(spec.image_size))?;
    if opts.limit_per_class == Some(0) {
        return Err(DataError::NoImagesKept);
    }
    let source = Source { limit: opts.limit_per_class, seed: opts.seed, ..all };
    let Some(dir) = &opts.dir else {
        if spec.layouts.contains(&Layout::Digits) {
            return digits::load(&source);
        }
        return Err(DataError::NeedsDir { dataset: spec.name.clone(), wanted: wanted(spec) });
    };
    if spec.layouts == [Layout::Digits] {
        return Err(DataError::TakesNoDir { dataset: spec.name.clone(), dir: dir.clone() });
    }
    std::fs::read_dir(dir).map_err(layouts::io(dir))?;
    for layout in &spec.layouts {
        match layout {
            Layout::Digits => {}
            Layout::Cifar10 => {
                if let Some(found) = cifar10::marker(dir) {
                    return cifar10::load(&source, &found);
                }
            }
            Layout::Folder => {
                if folder::marker(dir) {
                    return folder::load(&source, dir);
                }
            }
        }
    }
    Err(DataError::NoLayout { dataset: spec.name.clone(), dir: dir.clone(), wanted: wanted(spec) })
}

/// Loads `dir/{train,test}/<class>/*`, whatever the spec's layouts are, in images of `size` pixels a side.
///
/// # Errors
/// As [`load`].
pub fn load_folder(spec: &Spec, dir: &Path, size: usize) -> Result<Splits, DataError> {
    folder::load_parts(&source(spec, size)?, dir)
}

/// Loads `dir/<class>/*` with the labels that `classes` gives their folders; some classes may be missing.
///
/// # Errors
/// As [`load`], or a folder that is none of the classes.
pub fn load_classes(spec: &Spec, dir: &Path, size: usize, classes: &[String]) -> Result<Dataset, DataError> {
    folder::load_classes(&source(spec, size)?, dir, classes)
}

/// Loads every image below `dir`, in the order of their paths and whatever their folders are called. `classes` are what a network
/// may take them for; every label is 0 and means nothing.
///
/// # Errors
/// As [`load`], or no image at all.
pub fn load_unlabelled(spec: &Spec, dir: &Path, size: usize, classes: &[String]) -> Result<Dataset, DataError> {
    folder::load_unlabelled(&source(spec, size)?, dir, classes)
}

/// All images of a dataset, in `size` pixels a side.
fn source(spec: &Spec, size: usize) -> Result<Source<'_>, DataError> {
    if !(1..=MAX_IMAGE_SIZE).contains(&size) {
        return Err(DataError::ImageSize { size, max: MAX_IMAGE_SIZE });
    }
    Ok(Source { spec, size, limit: None, seed: 0 })
}

/// What the dataset's layouts look for in a folder, in words.
fn wanted(spec: &Spec) -> String {
    let words = spec.layouts.iter().map(|layout| match layout {
        Layout::Digits => "nothing",
        Layout::Cifar10 => cifar10::LOOKS_LIKE,
        Layout::Folder => folder::LOOKS_LIKE,
    });
    words.collect::<Vec<_>>().join(", or ")
}
