//! Lists of training images as users and other tools write them: a path a line, or a table with a heading.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use csv::{ReaderBuilder, StringRecord};

use super::StoreError;
use super::poisoned_folder::TRAIN;
use crate::data::Dataset;

/// A list, read.
pub struct ImageList {
    records: Vec<StringRecord>,
    headed: bool,
    /// Where the images are named.
    key: usize,
}

impl ImageList {
    /// A first line with one of `keys` in it is a heading, and that column names the images; else it is the first column.
    ///
    /// # Errors
    /// What is no CSV, by its line in `path`.
    pub fn read(text: &str, path: &Path, keys: &[&str]) -> Result<ImageList, StoreError> {
        let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
        let records: Vec<StringRecord> = reader.records().collect::<Result<_, _>>().map_err(|e| {
            let line = e.position().map_or(1, |p| p.line() as usize);
            StoreError::List { path: path.into(), line, why: "is no CSV".into() }
        })?;
        let mut list = ImageList { headed: true, key: 0, records };
        let key = keys.iter().find_map(|key| list.column(key));
        (list.headed, list.key) = (key.is_some(), key.unwrap_or(0));
        Ok(list)
    }

    /// The column that the heading calls `name`.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.records.first().filter(|_| self.headed)?.iter().position(|cell| cell == name)
    }

    /// Line, image, its path with forward slashes, and the whole record.
    pub fn images(&self) -> impl Iterator<Item = (usize, String, &StringRecord)> {
        self.records.iter().skip(usize::from(self.headed)).map(|record| {
            let line = record.position().map_or(0, |p| p.line() as usize);
            (line, record.get(self.key).unwrap_or_default().replace('\\', "/"), record)
        })
    }
}

/// Training images by their paths below `dir`, with and without `train/`.
pub fn places(dir: &Path, train: &Dataset) -> HashMap<PathBuf, usize> {
    let mut places = HashMap::new();
    for (i, place) in train.paths.iter().enumerate() {
        let place = Path::new(place);
        for root in [dir.to_path_buf(), dir.join(TRAIN)] {
            places.extend(place.strip_prefix(root).map(|tail| (tail.to_path_buf(), i)));
        }
    }
    places
}
