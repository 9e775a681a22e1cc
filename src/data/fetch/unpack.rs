//! Unpacking: files and folders only, and only below the folder they belong into.

use super::{FetchError, writing};
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use std::fs::{File, create_dir_all};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// Unpacks a `.tar.gz` or `.zip` into `dir/into`. Returns the files' checksums, paths from `dir`, as `sha256sum` prints them.
pub fn unpack(archive: &Path, dir: &Path, into: &Path) -> Result<String, FetchError> {
    let mut target = Target { archive, dir, into, checksums: String::new() };
    let file = BufReader::new(File::open(archive).map_err(super::super::layouts::io(archive))?);
    if archive.extension().is_some_and(|end| end == "zip") {
        unzip(file, &mut target)?
    } else {
        untar(file, &mut target)?
    }
    Ok(target.checksums)
}

fn untar(file: BufReader<File>, target: &mut Target) -> Result<(), FetchError> {
    let damaged = |e: std::io::Error| FetchError::Archive { path: target.archive.into(), why: e.to_string() };
    let mut tar = tar::Archive::new(MultiGzDecoder::new(file));
    for entry in tar.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.into_owned();
        match entry.header().entry_type() {
            EntryType::Regular => target.file(&path, &mut entry)?,
            EntryType::Directory => target.folder(&path)?,
            EntryType::XGlobalHeader => {}
            _ => return Err(target.refuse(&path, "is a link or a device")),
        }
    }
    Ok(())
}

fn unzip(file: BufReader<File>, target: &mut Target) -> Result<(), FetchError> {
    let damaged = |e: zip::result::ZipError| FetchError::Archive { path: target.archive.into(), why: e.to_string() };
    let mut zip = zip::ZipArchive::new(file).map_err(damaged)?;
    for i in 0..zip.len() {
        let mut entry = zip.by_index(i).map_err(damaged)?;
        let path = PathBuf::from(entry.name());
        if entry.is_symlink() {
            return Err(target.refuse(&path, "is a link"));
        } else if entry.is_dir() {
            target.folder(&path)?;
        } else {
            target.file(&path, &mut entry)?;
        }
    }
    Ok(())
}

struct Target<'a> {
    archive: &'a Path,
    dir: &'a Path,
    into: &'a Path,
    checksums: String,
}

impl Target<'_> {
    fn refuse(&self, path: &Path, why: &str) -> FetchError {
        FetchError::Archive { path: self.archive.into(), why: format!("`{}` {why}", path.display()) }
    }

    /// From the data folder.
    fn place(&self, path: &Path) -> Result<PathBuf, FetchError> {
        let inside = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if inside { Ok(self.into.join(path)) } else { Err(self.refuse(path, "leads outside")) }
    }

    fn folder(&self, path: &Path) -> Result<(), FetchError> {
        let place = self.dir.join(self.place(path)?);
        create_dir_all(&place).map_err(writing(&place))
    }

    fn file(&mut self, path: &Path, content: &mut dyn Read) -> Result<(), FetchError> {
        let below = self.place(path)?;
        let place = self.dir.join(&below);
        if let Some(folder) = place.parent() {
            create_dir_all(folder).map_err(writing(folder))?;
        }
        let mut file = BufWriter::new(File::create(&place).map_err(writing(&place))?);
        let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
        loop {
            let n = content.read(&mut buffer).map_err(|e| self.refuse(path, &format!("cannot be read: {e}")))?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            file.write_all(&buffer[..n]).map_err(writing(&place))?;
        }
        file.flush().map_err(writing(&place))?;
        let checksum = super::super::checksum::hexadecimal(&hasher.finalize());
        self.checksums += &format!("{checksum}  {}\n", below.display());
        Ok(())
    }
}
