//! Checksums: of published archives, and of what was unpacked from them.

use super::{Archive, DataError, layouts::io};
use md5::Md5;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Refuses a file that is not the published one.
///
/// # Errors
/// A file that cannot be read, or another checksum.
pub fn check_archive(archive: &Archive, file: &Path) -> Result<(), DataError> {
    let (kind, expected, found) = match (&archive.sha256, &archive.md5) {
        (Some(expected), _) => ("SHA-256", expected, hash::<Sha256>(file)?),
        (None, Some(expected)) => ("MD5", expected, hash::<Md5>(file)?),
        (None, None) => return Ok(()),
    };
    if found == *expected {
        return Ok(());
    }
    Err(DataError::Checksum { path: file.into(), kind, expected: expected.clone(), found })
}

/// The SHA-256 of a file, hexadecimal.
///
/// # Errors
/// A file that cannot be read.
pub fn sha256(file: &Path) -> Result<String, DataError> {
    hash::<Sha256>(file)
}

fn hash<D: Digest>(path: &Path) -> Result<String, DataError> {
    let mut file = File::open(path).map_err(io(path))?;
    let (mut hasher, mut buffer) = (D::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(io(path))? {
            0 => return Ok(hexadecimal(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
