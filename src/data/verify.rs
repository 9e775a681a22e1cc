//! Is a data folder what was published?

use super::checksum::{check_archive, sha256};
use super::layouts::io;
use super::{Archive, DataError, LoadOptions, Spec, find, load};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// What was found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Verified {
    /// Name of the layout.
    pub layout: &'static str,
    /// Number of training images that can be read.
    pub train: usize,
    /// Number of test images that can be read.
    pub test: usize,
    /// Number of classes.
    pub classes: usize,
    /// Files whose checksum was compared with that of the published archive or of what was unpacked from it; 0: none is known,
    /// and all that could be checked is that every image is there and can be read.
    pub checksums: usize,
    /// What is wrong, a message each.
    pub faults: Vec<String>,
    /// What else there is to say of the folder, a line each.
    pub notices: Vec<String>,
}

/// The checksums of what was unpacked from an archive, in the form of `sha256sum`; lies in the data folder.
pub(super) fn list_of(archive: &Archive, dir: &Path) -> PathBuf {
    dir.join(format!("{}.sha256", archive.file_name()))
}

/// Compares archives that still lie in `dir` with their published checksums, unpacked files with the lists that `fetch` left
/// there, reads every image, and counts.
///
/// # Errors
/// A folder that does not hold the dataset, or that is not whole enough to look at its images.
pub fn verify(spec: &Spec, dir: &Path) -> Result<Verified, DataError> {
    let (layout, _) = find(spec, dir)?;
    let (mut checksums, mut faults) = (0, Vec::new());
    for archive in &spec.archives {
        let file = dir.join(archive.file_name());
        if file.is_file() {
            checksums += 1;
            faults.extend(check_archive(archive, &file).err().map(|e| e.to_string()));
        }
        let list = list_of(archive, dir);
        if list.is_file() {
            let lines = read_list(&list)?;
            checksums += lines.len();
            let wrong = |(path, expected): &(PathBuf, String)| {
                let path = dir.join(path);
                match sha256(&path) {
                    Ok(found) if found == *expected => None,
                    Ok(found) => Some(DataError::Checksum { path, kind: "SHA-256", expected: expected.clone(), found }),
                    Err(e) => Some(e),
                }
            };
            let wrong: Vec<String> = lines.par_iter().filter_map(wrong).map(|e| e.to_string()).collect();
            faults.extend(wrong);
        }
    }
    let options = LoadOptions { dir: Some(dir.into()), skip_unreadable: true, ..Default::default() };
    let splits = load(spec, &options)?;
    let (train, test) = (splits.train.len(), splits.test.len());
    faults.extend(splits.remarks.left_out);
    // Folders of images may be somebody's selection; the published layout is all or nothing.
    if let Some(expected) = spec.images.filter(|expected| *expected != (train, test) && layout.name != "folder") {
        let (of_train, of_test) = expected;
        faults.push(format!("{train} training and {test} test images can be read; published are {of_train} and {of_test}"));
    }
    let (classes, notices) = (splits.train.classes.len(), splits.remarks.notices);
    Ok(Verified { layout: layout.name, train, test, classes, checksums, faults, notices })
}

/// (path below the data folder, checksum) of each line.
fn read_list(path: &Path) -> Result<Vec<(PathBuf, String)>, DataError> {
    let text = std::fs::read_to_string(path).map_err(io(path))?;
    let damaged = |line| DataError::List { path: path.into(), line, why: "it is no checksum and path".into() };
    let lines = text.lines().zip(1..);
    lines.map(|(l, n)| l.split_once("  ").map(|(sum, file)| (file.into(), sum.into())).ok_or_else(|| damaged(n))).collect()
}
