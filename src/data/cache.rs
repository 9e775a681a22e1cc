//! Decoded images kept between runs, one file for each folder and image size. It is a copy: whatever is wrong with it, the
//! images are decoded again and the file is written anew.
//!
//! A line of JSON, the [`Index`]; then the images' pixels in its order. An image is known by the checksum of its file's bytes, not by
//! its name or time: another file of the same name, size and time is another image.

use super::checksum::hexadecimal;
use crate::files::write_atomic_with;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::fs::{File, canonicalize, create_dir_all, read_dir, remove_file};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, BufWriter, Read, Result, Write};
use std::path::{Path, PathBuf};

/// Grows when images are decoded, turned or scaled differently.
const VERSION: u32 = 3;

/// Bytes of all caches in a folder; the oldest make room. Four times Tiny-ImageNet.
const MOST: u64 = 4 << 30;

/// The endings of caches' names.
const ENDING: &str = "images";

/// What tells an image file's content from any other: its SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Print(String);

impl Print {
    pub fn of(bytes: &[u8]) -> Print {
        Print(hexadecimal(&Sha256::digest(bytes)))
    }
}

#[derive(Serialize, Deserialize)]
struct Index {
    version: u32,
    size: usize,
    /// Each with the checksum of its pixels.
    images: Vec<(Print, u32)>,
}

/// The kept images of one folder in one size.
pub(super) struct Cache {
    file: PathBuf,
    size: usize,
    /// Bytes of all caches beside it.
    most: u64,
}

impl Cache {
    /// Of the images below `root`; `folder` is where caches lie.
    pub fn of(folder: &Path, root: &Path, size: usize) -> Cache {
        let mut hasher = DefaultHasher::new();
        (canonicalize(root).unwrap_or(root.into()), size).hash(&mut hasher);
        Cache { file: folder.join(format!("{:016x}.{ENDING}", hasher.finish())), size, most: MOST }
    }

    /// Whether anything is kept: else nobody needs to know the files' prints before they are decoded.
    pub fn is_there(&self) -> bool {
        self.file.is_file()
    }

    /// Copies what is kept of `prints` into `pixels`, `[N, size, size, 3]`, and sets their `known`.
    pub fn fill(&self, prints: &[Option<Print>], pixels: &mut [u8], known: &mut [bool]) {
        // No file, or one that ends too early: the rest stays unknown.
        let done = self.copy(prints, pixels, known);
        log::debug!("{}: {} of {} images, {done:?}", self.file.display(), known.iter().filter(|k| **k).count(), known.len());
    }

    fn copy(&self, prints: &[Option<Print>], pixels: &mut [u8], known: &mut [bool]) -> Result<()> {
        let mut reader = BufReader::with_capacity(1 << 20, File::open(&self.file)?);
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line)?;
        let index: Index = serde_json::from_slice(&line)?;
        if (index.version, index.size) != (VERSION, self.size) {
            return Ok(());
        }
        let mut wanted: HashMap<&Print, Vec<usize>> = HashMap::new();
        for (i, print) in prints.iter().enumerate() {
            if let Some(print) = print {
                wanted.entry(print).or_default().push(i);
            }
        }
        let image_bytes = self.size * self.size * 3;
        let mut image = vec![0; image_bytes];
        let mut passed = 0;
        for (print, checksum) in &index.images {
            let Some(places) = wanted.get(print) else {
                passed += image_bytes as i64;
                continue;
            };
            reader.seek_relative(std::mem::take(&mut passed))?;
            reader.read_exact(&mut image)?;
            if crc32fast::hash(&image) == *checksum {
                for &i in places {
                    pixels[i * image_bytes..][..image_bytes].copy_from_slice(&image);
                    known[i] = true;
                }
            }
        }
        Ok(())
    }

    /// Keeps these images, `pixels` being `[N, size, size, 3]`, in place of those that were kept; older caches make room.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn keep<'a>(&self, prints: impl Iterator<Item = Option<&'a Print>>, pixels: &[u8]) -> Result<()> {
        let image_bytes = self.size * self.size * 3;
        let mut seen = HashSet::new();
        let images: Vec<(&Print, &[u8])> = prints
            .zip(pixels.chunks_exact(image_bytes))
            .filter_map(|(print, pixels)| Some((print?, pixels)))
            .filter(|(print, _)| seen.insert(*print))
            .collect();
        if (images.len() * image_bytes) as u64 > self.most {
            log::debug!("{} images are too many to be kept", images.len());
            return Ok(());
        }
        let named = images.iter().map(|(print, pixels)| ((*print).clone(), crc32fast::hash(pixels)));
        let index = Index { version: VERSION, size: self.size, images: named.collect() };
        if let Some(folder) = self.file.parent() {
            create_dir_all(folder)?;
        }
        write_atomic_with(&self.file, |file| {
            let mut writer = BufWriter::with_capacity(1 << 20, file);
            serde_json::to_writer(&mut writer, &index)?;
            writer.write_all(b"\n")?;
            for (_, pixels) in &images {
                writer.write_all(pixels)?;
            }
            writer.flush()
        })?;
        self.make_room()
    }

    /// Removes the oldest caches until those left take no more than they may.
    fn make_room(&self) -> Result<()> {
        let Some(folder) = self.file.parent() else { return Ok(()) };
        let mut caches = Vec::new();
        for entry in read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            if path.extension().is_some_and(|ending| ending == ENDING) && path != self.file {
                let meta = entry.metadata()?;
                caches.push((meta.modified()?, meta.len(), path));
            }
        }
        caches.sort();
        let mut bytes = self.file.metadata()?.len() + caches.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        for (_, freed, path) in caches {
            if bytes <= self.most {
                break;
            }
            remove_file(&path)?;
            bytes -= freed;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images of 2x2 pixels and their prints.
    fn images(values: &[u8]) -> (Vec<Option<Print>>, Vec<u8>) {
        let prints = values.iter().map(|value| Some(Print::of(&[*value]))).collect();
        (prints, values.iter().flat_map(|value| [*value; 12]).collect())
    }

    fn known(cache: &Cache, values: &[u8]) -> Vec<bool> {
        let (prints, expected) = images(values);
        let (mut pixels, mut known) = (vec![0; expected.len()], vec![false; values.len()]);
        cache.fill(&prints, &mut pixels, &mut known);
        for (i, known) in known.iter().enumerate() {
            assert!(!known || pixels[12 * i..][..12] == expected[12 * i..][..12], "image {i}");
        }
        known
    }

    #[test]
    fn what_is_kept_is_known_by_its_content_however_often_it_comes() {
        let place = tempfile::tempdir().expect("a folder");
        let cache = Cache::of(place.path(), Path::new("somewhere"), 2);
        assert!(!cache.is_there());
        let (prints, pixels) = images(&[1, 2, 1, 3]);
        cache.keep(prints.iter().map(Option::as_ref), &pixels).expect("kept");
        assert_eq!(known(&cache, &[3, 4, 1, 1, 2]), [true, false, true, true, true]);
        let other = Cache { size: 1, ..Cache::of(place.path(), Path::new("somewhere"), 2) };
        let (mut pixels, mut found) = ([0; 3], [false]);
        other.fill(&images(&[1]).0, &mut pixels, &mut found);
        assert!(!found[0], "of another size");
    }

    #[test]
    fn what_another_version_kept_is_not_known() {
        let place = tempfile::tempdir().expect("a folder");
        let cache = Cache::of(place.path(), Path::new("somewhere"), 2);
        let (prints, pixels) = images(&[1]);
        cache.keep(prints.iter().map(Option::as_ref), &pixels).expect("kept");
        assert_eq!(known(&cache, &[1]), [true]);
        let bytes = std::fs::read(&cache.file).expect("read");
        let now = format!("\"version\":{VERSION},");
        let at = bytes.windows(now.len()).position(|window| window == now.as_bytes()).expect("its version");
        // The one before images were turned upright.
        let before = [&bytes[..at], b"\"version\":2,", &bytes[at + now.len()..]].concat();
        std::fs::write(&cache.file, before).expect("written");
        assert_eq!(known(&cache, &[1]), [false]);
    }

    #[test]
    fn the_oldest_cache_makes_room_and_what_is_too_large_is_not_kept() {
        let place = tempfile::tempdir().expect("a folder");
        let of = |root: &str| Cache { most: 300, ..Cache::of(place.path(), Path::new(root), 2) };
        let keep = |root: &str, values: &[u8]| {
            let (prints, pixels) = images(values);
            of(root).keep(prints.iter().map(Option::as_ref), &pixels).expect("kept");
            // Times may be coarse.
            std::thread::sleep(std::time::Duration::from_millis(20));
        };
        std::fs::write(place.path().join("mine.txt"), [0; 1000]).expect("written");
        keep("a", &[1]);
        keep("b", &[2]);
        assert!(of("a").is_there() && of("b").is_there());
        keep("c", &[3]);
        assert!(!of("a").is_there() && of("b").is_there() && of("c").is_there());
        keep("e", &(0..40).collect::<Vec<_>>());
        assert!(!of("e").is_there() && place.path().join("mine.txt").is_file());
    }
}
