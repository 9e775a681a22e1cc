//! Folders of images: `DIR/{train,test}/<class>/*`, or `DIR/<class>/*` of which every class gives a fifth to the test set.
//! Classes are numbered in the alphabetical order of their folders' names, and hold images at any depth.

use super::{Layout, Source};
use crate::data::images::Listing;
use crate::data::split::hold_out;
use crate::data::walk::{EXTENSIONS, Passed, Walk, folders, name};
use crate::data::{DataError, Dataset, Remarks, Splits};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub static LAYOUT: Layout = Layout {
    name: "folder",
    looks_like: "image folders {train,test}/<class>/ or <class>/",
    find: Some(|dir| is_part(dir).then(|| dir.into())),
    load,
};

/// Loads the images below `dir`; those that a limit drops are not even opened.
fn load(source: &Source, dir: &Path) -> Result<Splits, DataError> {
    let mut remarks = Remarks::default();
    if source.train_only {
        let part = dir.join("train");
        let train = list(source, if is_part(&part) { &part } else { dir }, dir, &mut remarks)?;
        let test = Listing::new(dir, train.classes.clone());
        return Splits::read(source, train, test, remarks);
    }
    let (train, test) = match (is_part(&dir.join("train")), is_part(&dir.join("test"))) {
        (true, true) => {
            let [train, test] = ["train", "test"].map(|part| list(source, &dir.join(part), dir, &mut remarks));
            let (train, test) = (train?, test?);
            if let Some(class) = only_in_one(&train.classes, &test.classes) {
                return Err(DataError::ClassesDiffer { dir: dir.join("train"), other: "test", class });
            }
            (train, test)
        }
        (true, false) => return Err(DataError::HalfSplit { present: dir.join("train"), missing: "test" }),
        (false, true) => return Err(DataError::HalfSplit { present: dir.join("test"), missing: "train" }),
        (false, false) => halve(list(source, dir, dir, &mut remarks)?)?,
    };
    Splits::read(source, train, test, remarks)
}

/// Loads `dir/{train,test}/<class>/*`, both of which must be there.
pub fn load_parts(source: &Source, dir: &Path) -> Result<Splits, DataError> {
    if !is_part(&dir.join("train")) || !is_part(&dir.join("test")) {
        let (dataset, wanted) = (source.spec.name.clone(), "image folders train/<class>/ and test/<class>/".into());
        return Err(DataError::NoLayout { dataset, dir: dir.into(), wanted });
    }
    load(source, dir)
}

/// Loads `dir/<class>/*`, classes numbered as in `classes`, of which some may have no folder.
pub fn load_classes(source: &Source, dir: &Path, classes: &[String]) -> Result<(Dataset, Remarks), DataError> {
    let (mut listing, mut remarks) = (Listing::new(dir, classes.to_vec()), Remarks::default());
    for (path, images) in by_class(dir, dir, &mut remarks)? {
        let Some(label) = classes.iter().position(|class| *class == name(&path)) else {
            return Err(DataError::ClassesDiffer { dir: dir.into(), other: "train", class: name(&path) });
        };
        listing.add(label as u32, images);
    }
    if listing.files.is_empty() {
        return Err(DataError::EmptyClass { path: dir.into(), extensions: EXTENSIONS.join(", ") });
    }
    Ok((listing.read(source, &mut remarks)?, remarks))
}

/// Loads all images below `dir` with the label 0.
pub fn load_unlabelled(source: &Source, dir: &Path, classes: &[String]) -> Result<(Dataset, Remarks), DataError> {
    let mut walk = Walk::below(dir, dir)?;
    if walk.images.is_empty() {
        return Err(DataError::EmptyClass { path: dir.into(), extensions: EXTENSIONS.join(", ") });
    }
    let (mut listing, mut remarks) = (Listing::new(dir, classes.to_vec()), Remarks::default());
    listing.add(0, std::mem::take(&mut walk.images));
    walk.tell(dir, &mut remarks);
    Ok((listing.read(source, &mut remarks)?, remarks))
}

/// `train/` and `test/` are parts of a dataset if they hold folders; otherwise they are classes that happen to be called so.
fn is_part(dir: &Path) -> bool {
    folders(dir).is_ok_and(|found| !found.is_empty())
}

/// The class folders in `dir` and the images at any depth below each, by name. A folder that dau wrote is no class.
fn by_class(dir: &Path, root: &Path, remarks: &mut Remarks) -> Result<Vec<(PathBuf, Vec<PathBuf>)>, DataError> {
    let mut walk = Walk::below(dir, root)?;
    let mut classes: BTreeMap<PathBuf, Vec<PathBuf>> = folders(dir)?.into_iter().map(|path| (path, Vec::new())).collect();
    for image in std::mem::take(&mut walk.images) {
        let class = image.strip_prefix(dir).ok().and_then(|below| below.components().next()).map(|first| dir.join(first));
        match class.and_then(|class| classes.get_mut(&class)) {
            Some(images) => images.push(image),
            None => walk.pass(Passed::NoClass, image),
        }
    }
    classes.retain(|path, images| !images.is_empty() || !walk.is_ours(path));
    walk.tell(root, remarks);
    Ok(classes.into_iter().collect())
}

fn list(source: &Source, dir: &Path, root: &Path, remarks: &mut Remarks) -> Result<Listing, DataError> {
    let mut listing = Listing::new(dir, Vec::new());
    for (label, (path, images)) in (0..).zip(by_class(dir, root, remarks)?) {
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
