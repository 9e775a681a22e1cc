//! Writing files whole or not at all.

use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};

/// Of temporary files' names.
const PREFIX: &str = ".dau-";
const SUFFIX: &str = ".tmp";

/// Where a file called `path` is to be written: there, or where a link leads.
///
/// # Errors
/// Something that is there and is no regular file, as a device is: a rename would replace it.
pub fn place(path: &Path) -> Result<PathBuf> {
    let place = match path.symlink_metadata() {
        Ok(there) if there.is_symlink() => path.canonicalize()?,
        _ => path.to_path_buf(),
    };
    match place.metadata() {
        Ok(there) if !there.is_file() => Err(Error::new(ErrorKind::InvalidInput, "it is there and is no regular file")),
        _ => Ok(place),
    }
}

/// Writes a temporary file beside `path` and renames it: `path` holds the old content or all of the new. A link is followed.
///
/// # Errors
/// A folder that is missing, a disk that refuses.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |file| file.write_all(bytes))
}

/// As [`write_atomic`], for what is too large to lie in memory at once: `write` fills the temporary file.
///
/// # Errors
/// A folder that is missing, a disk that refuses, what `write` returns.
pub fn write_atomic_with(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let path = &place(path)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    #[cfg(unix)]
    {
        // As any new file, less what the umask takes; the default is the owner alone.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let fill = || {
        let mut file = builder.tempfile_in(folder)?;
        write(file.as_file_mut())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)
    };
    fill().map_err(full)?;
    // The new name is on the disk once the folder is. Where folders cannot be opened, as on Windows, the system sees to it.
    match File::open(folder) {
        Ok(folder) if cfg!(unix) => folder.sync_all(),
        _ => Ok(()),
    }
}

/// Says what to do where a disk is full.
fn full(e: Error) -> Error {
    match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            Error::new(e.kind(), format!("{e}; what was written before is whole: make room and give the same command again"))
        }
        _ => e,
    }
}

/// Removes what writers that were killed left in `folder`.
///
/// # Errors
/// A folder that cannot be read, a file that cannot be removed.
pub fn sweep(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, symlink};
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_link_is_followed_and_what_is_no_file_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link, socket] = ["file", "link", "socket"].map(|name| folder.path().join(name));
        std::fs::write(&file, "old").unwrap();
        symlink("file", &link).unwrap();
        write_atomic(&link, b"new").unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        // A socket stands for a device, which only root can make.
        let _listener = UnixListener::bind(&socket).unwrap();
        let refused = write_atomic(&socket, b"new").unwrap_err().to_string();
        assert!(refused.contains("no regular file"), "{refused}");
        assert!(socket.symlink_metadata().unwrap().file_type().is_socket());
        assert!(write_atomic(folder.path(), b"new").is_err());
        std::fs::remove_file(&file).unwrap();
        assert!(write_atomic(&link, b"new").is_err(), "a link that leads nowhere");
    }
}
