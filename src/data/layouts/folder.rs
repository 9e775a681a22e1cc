//! Folders of images: `DIR/{train,test}/<class>/*`, or `DIR/<class>/*` of which every class gives a fifth to the test set.
//! Classes are numbered in the alphabetical order of their folders' names; names that begin with a dot are passed over.

use super::{Source, io, to_square};
use crate::data::split::{choose_per_class, hold_out};
use crate::data::{DataError, Dataset, Splits};
use image::ImageReader;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

pub const LOOKS_LIKE: &str = "image folders {train,test}/<class>/ or <class>/";
const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "ppm"];

/// Image files found on disk, not yet read.
struct Listing {
    classes: Vec<String>,
    files: Vec<PathBuf>,
    labels: Vec<u32>,
}

/// Whether `dir` holds a folder at all.
pub fn marker(dir: &Path) -> bool {
    entries(dir).is_ok_and(|found| found.iter().any(|path| path.is_dir()))
}

/// Loads the images below `dir`; those that a limit drops are not even opened.
pub fn load(source: &Source, dir: &Path) -> Result<Splits, DataError> {
    let (train, test) = match (is_part(&dir.join("train")), is_part(&dir.join("test"))) {
        (true, true) => {
            let (train, test) = (list(source, &dir.join("train"))?, list(source, &dir.join("test"))?);
            if let Some(class) = only_in_one(&train.classes, &test.classes) {
                return Err(DataError::ClassesDiffer { dir: dir.join("train"), other: "test", class });
            }
            (train, test)
        }
        (true, false) => return Err(DataError::HalfSplit { present: dir.join("train"), missing: "test" }),
        (false, true) => return Err(DataError::HalfSplit { present: dir.join("test"), missing: "train" }),
        (false, false) => halve(list(source, dir)?)?,
    };
    let train = match source.limit {
        Some(n) => pick(&train, &choose_per_class(&train.labels, train.classes.len(), n, source.seed)),
        None => train,
    };
    Ok(Splits { train: read(source, train)?, test: read(source, test)? })
}

/// Loads `dir/{train,test}/<class>/*`, both of which must be there.
pub fn load_parts(source: &Source, dir: &Path) -> Result<Splits, DataError> {
    if !is_part(&dir.join("train")) || !is_part(&dir.join("test")) {
        let (dataset, wanted) = (source.spec.name.clone(), "image folders train/<class>/ and test/<class>/".into());
        return Err(DataError::NoLayout { dataset, dir: dir.into(), wanted });
    }
    load(source, dir)
}

/// Loads `dir/<class>/*`, classes numbered as in `classes`; some may have no folder.
pub fn load_classes(source: &Source, dir: &Path, classes: &[String]) -> Result<Dataset, DataError> {
    let mut listing = Listing { classes: classes.to_vec(), files: Vec::new(), labels: Vec::new() };
    for path in entries(dir)?.into_iter().filter(|path| path.is_dir()) {
        let Some(label) = classes.iter().position(|class| *class == name(&path)) else {
            return Err(DataError::ClassesDiffer { dir: dir.into(), other: "train", class: name(&path) });
        };
        let images: Vec<_> = entries(&path)?.into_iter().filter(|path| is_image(path)).collect();
        listing.labels.extend(std::iter::repeat_n(label as u32, images.len()));
        listing.files.extend(images);
    }
    if listing.files.is_empty() {
        return Err(DataError::EmptyClass { path: dir.into(), extensions: EXTENSIONS.join(", ") });
    }
    read(source, listing)
}

/// Loads all images below `dir` with the label 0.
pub fn load_unlabelled(source: &Source, dir: &Path, classes: &[String]) -> Result<Dataset, DataError> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let (inner, others): (Vec<_>, Vec<_>) = entries(&folder)?.into_iter().partition(|path| path.is_dir());
        folders.extend(inner);
        files.extend(others.into_iter().filter(|path| is_image(path)));
    }
    if files.is_empty() {
        return Err(DataError::EmptyClass { path: dir.into(), extensions: EXTENSIONS.join(", ") });
    }
    files.sort();
    let labels = vec![0; files.len()];
    read(source, Listing { classes: classes.to_vec(), files, labels })
}

/// `train/` and `test/` are parts of a dataset if they hold folders; otherwise they are classes that happen to be called so.
fn is_part(dir: &Path) -> bool {
    marker(dir)
}

/// What a folder holds, by name.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io(dir))? {
        let path = entry.map_err(io(dir))?.path();
        if !name(&path).starts_with('.') {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    EXTENSIONS.contains(&extension.as_str()) && path.is_file()
}

fn list(source: &Source, dir: &Path) -> Result<Listing, DataError> {
    let mut listing = Listing { classes: Vec::new(), files: Vec::new(), labels: Vec::new() };
    for (label, path) in (0..).zip(entries(dir)?.into_iter().filter(|path| path.is_dir())) {
        let images: Vec<_> = entries(&path)?.into_iter().filter(|path| is_image(path)).collect();
        if images.is_empty() {
            return Err(DataError::EmptyClass { path, extensions: EXTENSIONS.join(", ") });
        }
        listing.classes.push(name(&path));
        listing.labels.extend(std::iter::repeat_n(label, images.len()));
        listing.files.extend(images);
    }
    let (dir, found, expected) = (dir.to_path_buf(), listing.classes.len(), source.spec.classes);
    if found < 2 {
        return Err(DataError::TooFewClasses { dir, found });
    }
    if expected != 0 && found != expected {
        return Err(DataError::ClassCount { dir, found, dataset: source.spec.name.clone(), expected });
    }
    Ok(listing)
}

fn only_in_one(a: &[String], b: &[String]) -> Option<String> {
    let missing = |from: &[String], of: &[String]| of.iter().find(|class| !from.contains(class)).cloned();
    missing(a, b).or_else(|| missing(b, a))
}

/// Sets a fifth of each class, rounded and at least one image, aside for testing.
fn halve(all: Listing) -> Result<(Listing, Listing), DataError> {
    let (train, test) = hold_out(&all.labels, all.classes.len(), |n| ((n + 2) / 5).max(1));
    let parts = (pick(&all, &train), pick(&all, &test));
    // A class of one image went to the test set whole.
    match (0..).zip(&all.classes).find(|(label, _)| !parts.0.labels.contains(label)) {
        Some((label, _)) => {
            let lone = all.labels.iter().position(|l| *l == label).map(|i| &all.files[i]);
            Err(DataError::TooFewToSplit { path: lone.and_then(|f| f.parent()).unwrap_or(Path::new("")).into() })
        }
        None => Ok(parts),
    }
}

fn pick(from: &Listing, indices: &[usize]) -> Listing {
    Listing {
        classes: from.classes.clone(),
        files: indices.iter().map(|&i| from.files[i].clone()).collect(),
        labels: indices.iter().map(|&i| from.labels[i]).collect(),
    }
}

fn read(source: &Source, listing: Listing) -> Result<Dataset, DataError> {
    let mut pixels = source.pixels(listing.files.len())?;
    let failed = pixels
        .par_chunks_exact_mut(source.size * source.size * 3)
        .zip(&listing.files)
        .filter_map(|(pixels, path)| decode(path, source.size, pixels).err())
        .find_first(|_| true); // the first by name, however the threads ran
    if let Some(error) = failed {
        return Err(error);
    }
    Ok(Dataset {
        name: source.spec.name.clone(),
        size: source.size,
        classes: listing.classes,
        pixels,
        labels: listing.labels,
        paths: listing.files.iter().map(|path| path.display().to_string()).collect(),
    })
}

/// Reads one image into `pixels`; its format is told by its first bytes, not by its name.
fn decode(path: &Path, size: usize, pixels: &mut [u8]) -> Result<(), DataError> {
    let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format).map_err(io(path))?;
    let image = reader.decode().map_err(|cause| DataError::Image { path: path.into(), cause })?;
    pixels.copy_from_slice(&to_square(image.into_rgb8(), size));
    Ok(())
}
