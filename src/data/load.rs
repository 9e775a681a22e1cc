use super::layouts::{self, Layout, Source, folder};
use super::{DataError, Dataset, Remarks, Spec, Splits};
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
    /// Go on without image files that cannot be read; [`Remarks::left_out`] says which.
    pub skip_unreadable: bool,
    /// Read no test images: a folder of classes is read whole, and of `train/` and `test/` the first. The test set is empty then. Data sets
    /// with a layout of their own read both all the same.
    pub train_only: bool,
    /// A folder to keep decoded images in, for the next start; it is made where it is missing.
    pub cache: Option<PathBuf>,
}

/// Loads a dataset in the first of its layouts that is there.
///
/// # Errors
/// A missing, truncated or unreadable file, a folder that holds none of the layouts, too few classes or images, options
/// out of range: see [`DataError`].
pub fn load(spec: &Spec, opts: &LoadOptions) -> Result<Splits, DataError> {
    let source = source(spec, opts)?;
    let built_in = spec.layouts.iter().find(|layout| layout.find.is_none());
    match (&opts.dir, built_in) {
        (None, Some(layout)) => (layout.load)(&source, Path::new("")),
        (None, None) => Err(DataError::NeedsDir { dataset: spec.name.clone(), wanted: wanted(spec) }),
        (Some(dir), Some(_)) => Err(DataError::TakesNoDir { dataset: spec.name.clone(), dir: dir.clone() }),
        (Some(dir), None) => {
            let (layout, place) = find(spec, dir)?;
            (layout.load)(&source, &place)
        }
    }
}

/// The first of the dataset's layouts that `dir` holds, and where in it.
///
/// # Errors
/// A folder that cannot be read or holds none of them.
pub fn find(spec: &Spec, dir: &Path) -> Result<(&'static Layout, PathBuf), DataError> {
    std::fs::read_dir(dir).map_err(layouts::io(dir))?;
    let found = spec.layouts.iter().find_map(|layout| Some((*layout, layout.find?(dir)?)));
    found.ok_or_else(|| DataError::NoLayout { dataset: spec.name.clone(), dir: dir.into(), wanted: wanted(spec) })
}

/// Loads `dir/{train,test}/<class>/*` or `dir/<class>/*`, whatever the spec's layouts are; `opts.dir` says nothing here.
///
/// # Errors
/// As [`load`].
pub fn load_folder(spec: &Spec, dir: &Path, opts: &LoadOptions) -> Result<Splits, DataError> {
    (folder::LAYOUT.load)(&source(spec, opts)?, dir)
}

/// As [`load_folder`], and both parts must be there.
///
/// # Errors
/// As [`load`].
pub fn load_parts(spec: &Spec, dir: &Path, opts: &LoadOptions) -> Result<Splits, DataError> {
    folder::load_parts(&source(spec, opts)?, dir)
}

/// Loads `dir/<class>/*` with the labels that `classes` gives their folders; some classes may be missing.
///
/// # Errors
/// As [`load`], or a folder that is none of the classes.
pub fn load_classes(spec: &Spec, dir: &Path, opts: &LoadOptions, classes: &[String]) -> Result<(Dataset, Remarks), DataError> {
    folder::load_classes(&source(spec, opts)?, dir, classes)
}

/// Loads every image below `dir`, in the order of their paths and whatever their folders are called. `classes` are what a network
/// may take them for; every label is 0 and means nothing.
///
/// # Errors
/// As [`load`], or no image at all.
pub fn load_unlabelled(spec: &Spec, dir: &Path, opts: &LoadOptions, classes: &[String]) -> Result<(Dataset, Remarks), DataError> {
    folder::load_unlabelled(&source(spec, opts)?, dir, classes)
}

fn source<'a>(spec: &'a Spec, opts: &'a LoadOptions) -> Result<Source<'a>, DataError> {
    let size = opts.image_size.unwrap_or(spec.image_size);
    if !(1..=MAX_IMAGE_SIZE).contains(&size) {
        return Err(DataError::ImageSize { size, max: MAX_IMAGE_SIZE });
    }
    if opts.limit_per_class == Some(0) {
        return Err(DataError::NoImagesKept);
    }
    let (limit, seed, skip_unreadable, train_only) = (opts.limit_per_class, opts.seed, opts.skip_unreadable, opts.train_only);
    Ok(Source { spec, size, limit, seed, cache: opts.cache.as_deref(), skip_unreadable, train_only })
}

/// What the dataset's layouts look for in a folder, in words.
fn wanted(spec: &Spec) -> String {
    spec.layouts.iter().map(|layout| layout.looks_like).collect::<Vec<_>>().join(", or ")
}
