//! Writing files whole or not at all.

use std::fs::File;
use std::io::{Result, Write};
use std::path::Path;

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
    builder.prefix(".dau-").suffix(".tmp");
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
    Ok(())
}
