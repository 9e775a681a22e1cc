//! Decoded images kept between runs, one file for each folder and image size. It is a copy: whatever is wrong with it, the
//! images are decoded again and the file is written anew.
//!
//! A line of JSON, the [`Index`]; then the images' pixels in its order.

use crate::files::write_atomic_with;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, canonicalize, create_dir_all, metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, BufWriter, Read, Result, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Grows when images are decoded or scaled differently.
const VERSION: u32 = 1;

/// What tells an image file from another, and from what it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// Below the folder.
    path: String,
    bytes: u64,
    /// Nanoseconds since 1970.
    modified: u64,
}

impl Stamp {
    /// None where the file system does not say.
    pub fn of(path: &Path, root: &Path) -> Option<Stamp> {
        let meta = metadata(path).ok()?;
        let modified = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
        let path = path.strip_prefix(root).unwrap_or(path).to_str()?.to_string();
        Some(Stamp { path, bytes: meta.len(), modified: u64::try_from(modified).ok()? })
    }
}

#[derive(Serialize, Deserialize)]
struct Index {
    version: u32,
    size: usize,
    /// Each with the checksum of its pixels.
    images: Vec<(Stamp, u32)>,
}

/// The kept images of one folder in one size.
pub(super) struct Cache {
    file: PathBuf,
    size: usize,
}

impl Cache {
    /// Of the images below `root`; `folder` is where caches lie.
    pub fn of(folder: &Path, root: &Path, size: usize) -> Cache {
        let mut hasher = DefaultHasher::new();
        (canonicalize(root).unwrap_or(root.into()), size).hash(&mut hasher);
        Cache { file: folder.join(format!("{:016x}.images", hasher.finish())), size }
    }

    /// Copies what is kept of `stamps` into `pixels`, `[N, size, size, 3]`, and sets their `known`.
    pub fn fill(&self, stamps: &[Option<Stamp>], pixels: &mut [u8], known: &mut [bool]) {
        // No file, or one that ends too early: the rest stays unknown.
        let done = self.copy(stamps, pixels, known);
        log::debug!("{}: {} of {} images, {done:?}", self.file.display(), known.iter().filter(|k| **k).count(), known.len());
    }

    fn copy(&self, stamps: &[Option<Stamp>], pixels: &mut [u8], known: &mut [bool]) -> Result<()> {
        let mut reader = BufReader::with_capacity(1 << 20, File::open(&self.file)?);
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line)?;
        let index: Index = serde_json::from_slice(&line)?;
        if (index.version, index.size) != (VERSION, self.size) {
            return Ok(());
        }
        let wanted: HashMap<&Stamp, usize> = stamps.iter().zip(0..).filter_map(|(stamp, i)| Some((stamp.as_ref()?, i))).collect();
        let image_bytes = self.size * self.size * 3;
        let mut passed = 0;
        for (stamp, checksum) in &index.images {
            let Some(&i) = wanted.get(stamp) else {
                passed += image_bytes as i64;
                continue;
            };
            reader.seek_relative(std::mem::take(&mut passed))?;
            let image = &mut pixels[i * image_bytes..][..image_bytes];
            reader.read_exact(image)?;
            known[i] = crc32fast::hash(image) == *checksum;
        }
        Ok(())
    }

    /// Keeps these images, `pixels` being `[N, size, size, 3]`, in place of those that were kept.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn keep(&self, stamps: impl Iterator<Item = Option<Stamp>>, pixels: &[u8]) -> Result<()> {
        let images: Vec<_> = stamps.zip(pixels.chunks_exact(self.size * self.size * 3)).collect();
        let named = || images.iter().filter_map(|(stamp, pixels)| Some((stamp.clone()?, *pixels)));
        let images = named().map(|(stamp, pixels)| (stamp, crc32fast::hash(pixels))).collect();
        let index = Index { version: VERSION, size: self.size, images };
        if let Some(folder) = self.file.parent() {
            create_dir_all(folder)?;
        }
        write_atomic_with(&self.file, |file| {
            let mut writer = BufWriter::with_capacity(1 << 20, file);
            serde_json::to_writer(&mut writer, &index)?;
            writer.write_all(b"\n")?;
            for (_, pixels) in named() {
                writer.write_all(pixels)?;
            }
            writer.flush()
        })
    }
}
