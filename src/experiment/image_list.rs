//! Lists of training images as users and other tools write them: a path a line, or a table with a heading.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf, absolute};

use csv::{ReaderBuilder, StringRecord};

use super::StoreError;
use super::cell::bare;
use super::poisoned_folder::TRAIN;
use crate::data::{Dataset, shown};

/// A list, read.
pub struct ImageList {
    records: Vec<StringRecord>,
    /// Empty without a heading.
    heading: Vec<String>,
    /// Where the images are named.
    key: usize,
}

/// What a line of a list says.
pub struct Line {
    pub number: usize,
    /// What the image may be called, the likeliest first.
    pub names: Vec<String>,
    /// As many as the heading has, where there is one.
    cells: Vec<String>,
}

impl Line {
    /// What stands in a column, if anything does.
    pub fn cell(&self, column: Option<usize>) -> Option<&str> {
        self.cells.get(column?).map(|cell| bare(cell)).filter(|cell| !cell.is_empty())
    }

    /// For messages.
    pub fn name(&self) -> &str {
        self.names.last().map_or("", String::as_str)
    }
}

impl ImageList {
    /// A first line with one of `keys` in it, in any case, is a heading, and that column names the images; else it is the first column.
    ///
    /// # Errors
    /// What is no CSV, by its line in `path`.
    pub fn read(text: &str, path: &Path, keys: &[&str]) -> Result<ImageList, StoreError> {
        let text = text.trim_start_matches('\u{feff}');
        let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
        let records: Vec<StringRecord> = reader.records().collect::<Result<_, _>>().map_err(|e| {
            let line = e.position().map_or(1, |p| p.line() as usize);
            StoreError::List { path: path.into(), line, why: "is no CSV".into() }
        })?;
        let heading = records.first().into_iter().flatten().map(|cell| cell.trim().to_lowercase()).collect();
        let list = ImageList { heading, key: 0, records };
        Ok(match keys.iter().find_map(|key| list.column(key)) {
            Some(key) => ImageList { key, ..list },
            None => ImageList { heading: Vec::new(), ..list },
        })
    }

    /// The column that the heading calls `name`, which is in lower case.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.heading.iter().position(|cell| cell == name)
    }

    /// What each line says. Cells too many are a path with commas that nobody quoted.
    pub fn lines(&self) -> impl Iterator<Item = Line> {
        self.records.iter().skip(usize::from(!self.heading.is_empty())).map(|record| {
            let number = record.position().map_or(0, |p| p.line() as usize);
            let mut cells: Vec<String> = record.iter().map(String::from).collect();
            let surplus = if self.heading.is_empty() { cells.len() - 1 } else { cells.len().saturating_sub(self.heading.len()) };
            let mut names = Vec::new();
            if surplus > 0 && self.key + surplus < cells.len() {
                names.push(cells[self.key..=self.key + surplus].join(",").trim().to_string());
            }
            match names.first() {
                Some(whole) if !self.heading.is_empty() => drop(cells.splice(self.key..=self.key + surplus, [whole.clone()])),
                _ => names.extend(cells.get(self.key).map(|cell| cell.trim().to_string())),
            }
            cells.iter_mut().for_each(|cell| *cell = cell.trim().to_string());
            Line { number, names, cells }
        })
    }
}

/// Where images are, by all that a list may call them.
pub struct Places {
    /// As a whole, below the folder, and below its `train/`.
    known: HashMap<PathBuf, usize>,
    /// The folder as it is called from the root, with links and without.
    roots: Vec<PathBuf>,
}

impl Places {
    /// Of the images of `data`, which lies in `dir`.
    pub fn of(dir: &Path, data: &Dataset) -> Places {
        let roots = absolute(dir).into_iter().chain(dir.canonicalize()).map(|root| written(&root)).collect();
        let dir = written(dir);
        let mut known = HashMap::new();
        for (i, path) in data.paths.iter().enumerate() {
            let path = Path::new(path);
            known.insert(path.components().filter(named).collect(), i);
            for root in [dir.clone(), dir.join(TRAIN)] {
                known.extend(path.strip_prefix(root).map(|tail| (tail.to_path_buf(), i)));
            }
        }
        Places { known, roots }
    }

    /// The image that a line names.
    pub fn find(&self, line: &Line) -> Option<usize> {
        line.names.iter().find_map(|name| {
            let slashes = name.replace('\\', "/");
            [name.as_str(), bare(name), slashes.as_str()].into_iter().find_map(|name| self.find_one(Path::new(name)))
        })
    }

    fn find_one(&self, name: &Path) -> Option<usize> {
        let plain: PathBuf = name.components().filter(named).collect();
        let whole = absolute(name).map(|whole| written(&whole));
        let below = || self.roots.iter().filter_map(|root| whole.as_ref().ok()?.strip_prefix(root).ok());
        self.known.get(&plain).copied().or_else(|| below().find_map(|tail| self.known.get(tail).copied()))
    }
}

fn named(part: &Component) -> bool {
    *part != Component::CurDir
}

/// A path as data sets have it, control characters written out.
fn written(path: &Path) -> PathBuf {
    shown(&path.display().to_string()).into()
}
