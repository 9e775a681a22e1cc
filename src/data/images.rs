//! Image files found on disk, and reading them: in parallel, from the cache where they were read before.

use super::cache::{Cache, Stamp};
use super::layouts::{Source, io, to_square};
use super::split::choose_per_class;
use super::{DataError, Dataset, Splits};
use image::ImageReader;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

pub(super) const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "ppm"];

/// Image files, not yet read.
pub(super) struct Listing {
    /// Where all of them lie, at some depth.
    pub root: PathBuf,
    pub classes: Vec<String>,
    pub files: Vec<PathBuf>,
    pub labels: Vec<u32>,
}

impl Listing {
    pub fn new(root: &Path, classes: Vec<String>) -> Listing {
        Listing { root: root.into(), classes, files: Vec::new(), labels: Vec::new() }
    }

    pub fn add(&mut self, label: u32, files: impl IntoIterator<Item = PathBuf>) {
        self.files.extend(files);
        self.labels.resize(self.files.len(), label);
    }

    pub fn pick(&self, indices: &[usize]) -> Listing {
        Listing {
            root: self.root.clone(),
            classes: self.classes.clone(),
            files: indices.iter().map(|&i| self.files[i].clone()).collect(),
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
        }
    }

    /// The files that a limit leaves; the others are not even opened.
    pub fn limited(self, source: &Source) -> Listing {
        match source.limit {
            Some(n) => self.pick(&choose_per_class(&self.labels, self.classes.len(), n, source.seed)),
            None => self,
        }
    }

    /// The first class without a file.
    pub fn empty_class(&self) -> Option<&str> {
        let missing = (0..).zip(&self.classes).find(|(label, _)| !self.labels.contains(label));
        missing.map(|(_, class)| class.as_str())
    }

    /// Reads the files. Those that cannot be read are an error or, if the source says so, left out with their messages in
    /// `left_out`.
    pub fn read(self, source: &Source, left_out: &mut Vec<String>) -> Result<Dataset, DataError> {
        let image_bytes = source.size * source.size * 3;
        let mut pixels = source.pixels(self.files.len())?;
        let cache = source.cache.map(|folder| Cache::of(folder, &self.root, source.size));
        let stamps: Vec<_> = match &cache {
            Some(_) => self.files.par_iter().map(|path| Stamp::of(path, &self.root)).collect(),
            None => vec![None; self.files.len()],
        };
        let mut known = vec![false; self.files.len()];
        if let Some(cache) = &cache {
            cache.fill(&stamps, &mut pixels, &mut known);
        }
        let failed: Vec<(usize, DataError)> = pixels
            .par_chunks_exact_mut(image_bytes)
            .zip(&self.files)
            .enumerate()
            .filter(|(i, _)| !known[*i])
            .filter_map(|(i, (pixels, path))| decode(path, source.size, pixels).err().map(|error| (i, error)))
            .collect(); // by name, however the threads ran
        let mut data = Dataset {
            name: source.spec.name.clone(),
            size: source.size,
            classes: self.classes,
            pixels,
            labels: self.labels,
            paths: self.files.iter().map(|path| path.display().to_string()).collect(),
        };
        let mut readable: Vec<usize> = (0..data.len()).collect();
        if !failed.is_empty() {
            let of = data.len();
            let bad: Vec<usize> = failed.iter().map(|(i, _)| *i).collect();
            readable.retain(|i| bad.binary_search(i).is_err());
            let mut errors = failed.into_iter().map(|(_, error)| error);
            if !source.skip_unreadable {
                let others = errors.len() - 1;
                return Err(errors.next().map_or(DataError::NoImagesKept, |first| match others {
                    0 => first,
                    _ => DataError::Unreadable { first: Box::new(first), others, of },
                }));
            }
            let before = data.class_counts();
            let kept = data.subset(&readable);
            let after = kept.class_counts();
            if let Some(class) = (0..before.len()).find(|&c| before[c] > 0 && after[c] == 0) {
                let first = bad.iter().zip(&mut errors).find(|(i, _)| data.labels[**i] as usize == class);
                let first = first.map_or(String::new(), |(_, error)| error.to_string());
                return Err(DataError::NothingReadable { class: kept.classes[class].clone(), dir: self.root, first });
            }
            left_out.extend(errors.map(|error| error.to_string()));
            data = kept;
        }
        // Unless all came from there, those that can be read are worth keeping.
        if let Some(cache) = cache.filter(|_| readable.iter().any(|&i| !known[i])) {
            let kept = readable.iter().map(|&i| stamps[i].clone());
            if let Err(e) = cache.keep(kept, &data.pixels) {
                log::warn!("the decoded images of {} are not kept for the next start: {e}", self.root.display());
            }
        }
        Ok(data)
    }
}

/// Whether a file's name says that it is an image.
pub(super) fn is_image(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    EXTENSIONS.contains(&extension.as_str()) && path.is_file()
}

/// Reads one image into `pixels`; its format is told by its first bytes, not by its name.
fn decode(path: &Path, size: usize, pixels: &mut [u8]) -> Result<(), DataError> {
    let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format).map_err(io(path))?;
    let image = reader.decode().map_err(|cause| DataError::Image { path: path.into(), cause })?;
    pixels.copy_from_slice(&to_square(image.into_rgb8(), size));
    Ok(())
}

impl Splits {
    /// Reads both parts, what a limit drops left unopened.
    pub(super) fn read(source: &Source, train: Listing, test: Listing) -> Result<Splits, DataError> {
        let mut left_out = Vec::new();
        let train = train.limited(source).read(source, &mut left_out)?;
        let test = test.read(source, &mut left_out)?;
        Ok(Splits { train, test, left_out })
    }
}
