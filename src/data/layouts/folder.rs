//! Folders of images: `DIR/{train,test}/<class>/*`, or `DIR/<class>/*` of which every class gives a fifth to the test set.
//! Classes are numbered in the alphabetical order of their folders' names; names that begin with a dot are passed over.

use super::{Layout, Source, io};
use crate::data::images::{EXTENSIONS, Listing, is_image};
use crate::data::split::hold_out;
use crate::data::{DataError, Dataset, Splits};
use std::path::{Path, PathBuf};

pub static LAYOUT: Layout = Layout {
    name: "folder",
    looks_like: "image folders {train,test}/<class>/ or <class>/",
    find: Some(|dir| is_part(dir).then(|| dir.into())),
    load,
};

/// Loads the images below `dir`; those that a limit drops are not even opened.
fn load(source: &Source, dir: &Path) -> Result<Splits, DataError> {
    if source.train_only {
        let part = dir.join("train");
        let train = list(source, if is_part(&part) { &part } else { dir })?;
        let test = Listing::new(dir, train.classes.clone());
        return Splits::read(source, train, test);
    }
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
    Splits::read(source, train, test)
}

/// Loads `dir/{train,test}/<class>/*`, both of which must be there.
pub fn load_parts(source: &Source, dir: &Path) -> Result<Splits, DataError> {
    if !is_part(&dir.join("train")) || !is_part(&dir.join("test")) {
        let (dataset, wanted) = (source.spec.name.clone(), "image folders train/<class>/ and test/<class>/".into());
        return Err(DataError::NoLayout { dataset, dir: dir.into(), wanted });
    }
    load(source, dir)
}

/// Loads `dir/<class>/*`, classes numbered as in `classes`, of which some may have no folder; and says what was left out.
pub fn load_classes(source: &Source, dir: &Path, classes: &[String]) -> Result<(Dataset, Vec<String>), DataError> {
    let mut listing = Listing::new(dir, classes.to_vec());
    for path in entries(dir)?.into_iter().filter(|path| path.is_dir()) {
        let Some(label) = classes.iter().position(|class| *class == name(&path)) else {
            return Err(DataError::ClassesDiffer { dir: dir.into(), other: "train", class: name(&path) });
        };
        listing.add(label as u32, images(&path)?);
    }
    if listing.files.is_empty() {
        return Err(DataError::EmptyClass { path: dir.into(), extensions: EXTENSIONS.join(", ") });
    }
    let mut left_out = Vec::new();
    Ok((listing.read(source, &mut left_out)?, left_out))
}

/// Loads all images below `dir` with the label 0, and says what was left out.
pub fn load_unlabelled(source: &Source, dir: &Path, classes: &[String]) -> Result<(Dataset, Vec<String>), DataError> {
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
    let mut listing = Listing::new(dir, classes.to_vec());
    listing.add(0, files);
    let mut left_out = Vec::new();
    Ok((listing.read(source, &mut left_out)?, left_out))
}

/// `train/` and `test/` are parts of a dataset if they hold folders; otherwise they are classes that happen to be called so.
fn is_part(dir: &Path) -> bool {
    entries(dir).is_ok_and(|found| found.iter().any(|path| path.is_dir()))
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

/// The images of a folder, by name.
pub(super) fn images(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    Ok(entries(dir)?.into_iter().filter(|path| is_image(path)).collect())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn list(source: &Source, dir: &Path) -> Result<Listing, DataError> {
    let mut listing = Listing::new(dir, Vec::new());
    for (label, path) in (0..).zip(entries(dir)?.into_iter().filter(|path| path.is_dir())) {
        let images = images(&path)?;
        if images.is_empty() {
            return Err(DataError::EmptyClass { path, extensions: EXTENSIONS.join(", ") });
        }
        listing.classes.push(name(&path));
        listing.add(label, images);
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
    let parts = (all.pick(&train), all.pick(&test));
    // A class of one image went to the test set whole.
    match parts.0.empty_class() {
        Some(class) => Err(DataError::TooFewToSplit { path: all.root.join(class) }),
        None => Ok(parts),
    }
}
