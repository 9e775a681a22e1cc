//! Writing files whole or not at all.

use std::fs::File;
use std::io::{Result, Write};
use std::path::Path;

/// Of temporary files' names.
const PREFIX: &str = ".dau-";
const SUFFIX: &str = ".tmp";

/// Writes a temporary file beside `path` and renames it: `path` holds the old content or all of the new.
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
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    #[cfg(unix)]
    {
        // As any new file, less what the umask takes; the default is the owner alone.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder)?;
    write(file.as_file_mut())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    // The new name is on the disk once the folder is. Where folders cannot be opened, as on Windows, the system sees to it.
    match File::open(folder) {
        Ok(folder) if cfg!(unix) => folder.sync_all(),
        _ => Ok(()),
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
