//! Fetching the published archives: download, checksum, unpack. Each step can be cut off and is gone on from: a download lies
//! in `<archive>.part`, then the checked archive lies there until it is unpacked, then the list of what was unpacked does.

mod download;
mod unpack;

use super::checksum::check_archive;
use super::verify::list_of;
use super::{DataError, Spec, find};
use crate::files::write_atomic;
use std::fs::{create_dir_all, remove_file, rename};
use std::path::{Path, PathBuf};

pub use download::Watch;

/// What can go wrong while fetching.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum FetchError {
    #[error(transparent)]
    Data(#[from] DataError),

    #[error("{name} is not to be fetched: {from}")]
    NothingToFetch { name: String, from: String },

    #[error("{url} answers {status}: fetch it by hand into {} and run this again", dir.display())]
    Status { url: String, status: u16, dir: PathBuf },

    #[error("{url}: {cause}; {} bytes are kept, run this again to go on from there", kept)]
    Network { url: String, kept: u64, cause: String },

    #[error("cannot write {}: {cause}; what is there is kept: make room and run this again", path.display())]
    Write { path: PathBuf, cause: std::io::Error },

    #[error("{}: {cause}; it was removed, run this again", path.display())]
    WrongFile { path: PathBuf, cause: Box<DataError> },

    #[error("{} cannot be unpacked: {why}", path.display())]
    Archive { path: PathBuf, why: String },
}

/// Puts a path to an output error.
fn writing(path: &Path) -> impl FnOnce(std::io::Error) -> FetchError {
    move |cause| FetchError::Write { path: path.into(), cause }
}

/// Fetches a dataset into `dir`, which is made where it is missing. Archives that lie there are not fetched again but checked
/// and unpacked; a dataset that somebody else put there is left alone.
///
/// # Errors
/// A dataset without a source, a server that refuses, a connection that is cut again and again, another checksum, an archive
/// that would write outside of `dir`, a full disk.
pub fn fetch(spec: &Spec, dir: &Path, watch: &dyn Watch) -> Result<(), FetchError> {
    if spec.archives.is_empty() {
        return Err(FetchError::NothingToFetch { name: spec.name.clone(), from: spec.source.clone() });
    }
    create_dir_all(dir).map_err(writing(dir))?;
    let place = |file: &str, end: &str| dir.join(format!("{file}{end}"));
    let ours = |file: &str| ["", ".part", ".sha256"].iter().any(|end| place(file, end).exists());
    if !spec.archives.iter().any(|archive| ours(archive.file_name())) && find(spec, dir).is_ok_and(|(l, _)| l.name != "folder") {
        return Ok(());
    }
    for archive in &spec.archives {
        let (file, part, list) = (place(archive.file_name(), ""), place(archive.file_name(), ".part"), list_of(archive, dir));
        if list.is_file() {
            continue;
        }
        let removed = |path: &Path, cause: DataError| {
            // Kept, it would be refused again.
            let _ = remove_file(path);
            FetchError::WrongFile { path: path.into(), cause: Box::new(cause) }
        };
        if !file.is_file() {
            download::download(&archive.url, &part, watch)?;
            check_archive(archive, &part).map_err(|e| removed(&part, e))?;
            rename(&part, &file).map_err(writing(&file))?;
        } else {
            check_archive(archive, &file)?;
        }
        watch.begin(&format!("unpack {}", archive.file_name()), 0, None);
        let checksums = unpack::unpack(&file, dir, Path::new(&archive.into))?;
        write_atomic(&list, checksums.as_bytes()).map_err(writing(&list))?;
        remove_file(&file).map_err(writing(&file))?;
    }
    Ok(())
}
