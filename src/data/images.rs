//! Image files found on disk, and reading them: in parallel, from the cache where their contents were read before.

use super::cache::{Cache, Print};
use super::decode::decode;
use super::layouts::{Source, io};
use super::names::{inside, is_plain, shown};
use super::split::choose_per_class;
use super::walk::tell_outside;
use super::{DataError, Dataset, Remarks, Splits};
use rayon::prelude::*;
use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Bytes of the largest image file that is read.
const LONGEST: u64 = 1 << 30;

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

    /// Refuses classes whose names could not be folders' names: they may become some.
    fn check_classes(&self) -> Result<(), DataError> {
        let mut seen = HashSet::new();
        match self.classes.iter().find(|class| !is_plain(class) || !seen.insert(*class)) {
            Some(class) => Err(DataError::ClassName { dir: self.root.clone(), class: class.clone() }),
            None => Ok(()),
        }
    }

    /// Reads the files. Those that cannot be read are an error or, if the source says so, left out with a remark.
    pub fn read(self, source: &Source, remarks: &mut Remarks) -> Result<Dataset, DataError> {
        let image_bytes = source.size * source.size * 3;
        let mut pixels = source.pixels(self.files.len())?;
        let cache = source.cache.map(|folder| Cache::of(folder, &self.root, source.size));
        let mut prints: Vec<Option<Print>> = match &cache {
            Some(cache) if cache.is_there() => self.files.par_iter().map(|path| Some(Print::of(&contents(path).ok()?))).collect(),
            _ => vec![None; self.files.len()],
        };
        let mut known = vec![false; self.files.len()];
        if let Some(cache) = &cache {
            cache.fill(&prints, &mut pixels, &mut known);
        }
        let failed: Vec<(usize, DataError)> = pixels
            .par_chunks_exact_mut(image_bytes)
            .zip(&self.files)
            .zip(&mut prints)
            .enumerate()
            .filter(|(i, _)| !known[*i])
            .filter_map(|(i, ((pixels, path), print))| {
                let mut read = || {
                    let bytes = contents(path)?;
                    *print = cache.as_ref().map(|_| Print::of(&bytes));
                    decode(&bytes, path, source.size, pixels).map_err(|why| DataError::Image { path: path.clone(), why })
                };
                read().err().map(|error| (i, error))
            })
            .collect(); // by name, however the threads ran
        let mut data = Dataset {
            name: source.spec.name.clone(),
            size: source.size,
            classes: self.classes,
            pixels,
            labels: self.labels,
            paths: self.files.iter().map(|path| shown(&path.display().to_string())).collect(),
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
            remarks.left_out.extend(errors.map(|error| error.left_out()));
            data = kept;
        }
        // Unless all came from there, those that can be read are worth keeping.
        if let Some(cache) = cache.filter(|_| readable.iter().any(|&i| !known[i])) {
            let kept = readable.iter().map(|&i| prints[i].as_ref());
            if let Err(e) = cache.keep(kept, &data.pixels) {
                log::warn!("the decoded images of {} are not kept for the next start: {e}", self.root.display());
            }
        }
        Ok(data)
    }
}

/// A file's bytes.
fn contents(path: &Path) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes)).map_err(io(path))?;
    if bytes.len() as u64 > LONGEST {
        let why = format!("it has more than {} MiB: make it smaller", LONGEST >> 20);
        return Err(DataError::Image { path: path.into(), why });
    }
    Ok(bytes)
}

/// The images that lists name: each once, and none outside the folder of its list.
pub(super) struct Listed<'a> {
    pub listing: Listing,
    /// Where it lies when links are followed.
    real: PathBuf,
    seen: HashSet<PathBuf>,
    outside: Vec<PathBuf>,
    remarks: &'a mut Remarks,
}

impl<'a> Listed<'a> {
    pub fn new(root: &Path, classes: Vec<String>, remarks: &'a mut Remarks) -> Listed<'a> {
        let real = root.canonicalize().unwrap_or(root.into());
        Listed { listing: Listing::new(root, classes), real, seen: HashSet::new(), outside: Vec::new(), remarks }
    }

    /// Adds the image called `name`, which lies in `folder`. One that is not there is left out with a remark, if the source says so.
    ///
    /// # Errors
    /// A name that leads out of the folder or was there before, which `damaged` puts the line to; a file that is not there.
    pub fn add(
        &mut self,
        source: &Source,
        label: u32,
        (folder, name): (&Path, &str),
        damaged: impl Fn(String) -> DataError,
    ) -> Result<(), DataError> {
        let path = inside(folder, name).ok_or_else(|| damaged(format!("`{name}` leads out of its folder")))?;
        let found = match path.canonicalize() {
            Ok(real) if !real.is_file() => Err(DataError::Io { path: path.clone(), cause: ErrorKind::NotFound.into() }),
            found => found.map_err(io(&path)),
        };
        match found {
            Ok(real) => {
                if !real.starts_with(&self.real) {
                    self.outside.push(path.clone());
                }
                if !self.seen.insert(real) {
                    return Err(damaged(format!("`{name}` is named a second time")));
                }
                self.listing.add(label, [path]);
            }
            Err(missing) if source.skip_unreadable => self.remarks.left_out.push(missing.to_string()),
            Err(missing) => return Err(missing),
        }
        Ok(())
    }

    /// All that was named.
    pub fn finish(self) -> Listing {
        tell_outside(&self.outside, &self.listing.root, self.remarks);
        self.listing
    }
}

impl Splits {
    /// Reads both parts, what a limit drops left unopened.
    pub(super) fn read(source: &Source, train: Listing, test: Listing, mut remarks: Remarks) -> Result<Splits, DataError> {
        train.check_classes()?;
        let train = train.limited(source).read(source, &mut remarks)?;
        let test = test.read(source, &mut remarks)?;
        Ok(Splits { train, test, remarks })
    }
}
