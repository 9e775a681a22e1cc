//! The folder of one run: which files it has, which part of the job writes which, and writing each in one piece.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Table;

use super::StoreError;
use crate::files::write_atomic;

/// Every resolved setting, readable as `--config`, and under `[run]` the [`Provenance`].
pub const RUN: &str = "run.toml";
/// Which training images are poisoned: index, old label, new label.
pub const POISON: &str = "poison.csv";
/// Clean, triggered and difference images, for the eye.
pub const PREVIEW: &str = "preview.png";
/// One JSON object a line and epoch.
pub const METRICS: &str = "metrics.jsonl";
/// The verdict on every training image: index, label, score, verdict.
pub const SPLIT: &str = "split.csv";
/// The clean network that the attack was made with, if it was.
pub const SURROGATE: &str = "surrogate.safetensors";
/// Of data that nobody vouches for: path, label, score and verdict of every training image, the most suspicious first.
pub const SUSPECTS: &str = "suspects.csv";
/// The most suspicious images of each class, for the eye.
pub const SHEET: &str = "suspects.png";
/// A histogram of the scores.
pub const HISTOGRAM: &str = "scores.svg";
/// What was found, in words.
pub const VERDICT: &str = "verdict.txt";
/// The classes' names, one a line, by label.
pub const CLASSES: &str = "classes.txt";
/// The network that was trained on data nobody vouches for.
pub const UNDEFENDED: &str = "undefended.safetensors";
/// The network after stage 1.
pub const BACKDOORED: &str = "backdoored.safetensors";
/// The network after stage 2.
pub const DEFENDED: &str = "defended.safetensors";
/// The figures, [`super::Record`].
pub const RESULTS: &str = "results.json";

/// The three parts of the job, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    AntiLearning,
    Unlearning,
    Test,
}

impl Part {
    pub const ALL: [Part; 3] = [Part::AntiLearning, Part::Unlearning, Part::Test];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Part::AntiLearning => "anti_learning",
            Part::Unlearning => "unlearning",
            Part::Test => "test",
        }
    }

    /// What it writes; all parts add to [`METRICS`] and to [`RUN`]'s stages.
    fn files(self) -> &'static [&'static str] {
        match self {
            Part::AntiLearning => &[
                RUN, POISON, PREVIEW, SURROGATE, METRICS, SPLIT, BACKDOORED, SUSPECTS, SHEET, HISTOGRAM, VERDICT, CLASSES,
                UNDEFENDED,
            ],
            Part::Unlearning => &[DEFENDED],
            Part::Test => &[RESULTS],
        }
    }
}

/// How long a stage took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageTime {
    pub part: Part,
    pub name: String,
    pub seconds: f64,
}

/// What made a run: the table `[run]` of [`RUN`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    pub version: String,
    pub adapter: String,
    #[serde(default)]
    pub stages: Vec<StageTime>,
}

/// A run's folder on disk.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Refuses a place that holds something else; writes nothing.
    ///
    /// # Errors
    /// A file, an unreadable folder, or a folder with files in it that is no run's.
    pub fn vet(root: &Path) -> Result<(), StoreError> {
        match fs::read_dir(root) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(StoreError::Read { path: root.into(), source }),
            Ok(entries) => {
                let ours = entries.count() == 0 || root.join(RUN).is_file();
                if ours { Ok(()) } else { Err(StoreError::NotOurs { path: root.into() }) }
            }
        }
    }

    /// The folder for a run that begins; an older run's files in it are removed.
    ///
    /// # Errors
    /// As [`Store::vet`], or a folder that cannot be made.
    pub fn create(root: &Path) -> Result<Store, StoreError> {
        Self::vet(root)?;
        fs::create_dir_all(root).map_err(|source| StoreError::Write { path: root.into(), source })?;
        let folder = Store { root: root.into() };
        folder.begin(Part::AntiLearning)?;
        Ok(folder)
    }

    /// The folder of a run that has begun.
    pub fn open(root: &Path) -> Store {
        Store { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    pub fn has(&self, file: &str) -> bool {
        self.path(file).is_file()
    }

    /// Removes what `part` and the parts after it wrote earlier, so that all files of a folder belong together.
    ///
    /// # Errors
    /// A file that cannot be removed or rewritten.
    pub fn begin(&self, part: Part) -> Result<(), StoreError> {
        for file in Part::ALL.iter().filter(|p| **p >= part).flat_map(|p| p.files()) {
            match fs::remove_file(self.path(file)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::Write { path: self.path(file), source: e });
                }
                _ => {}
            }
        }
        if self.has(METRICS) {
            let earlier = |line: &&str| serde_json::from_str::<Tag>(line).is_ok_and(|tag| tag.part < part);
            let kept: String = self.read(METRICS)?.lines().filter(earlier).map(|line| format!("{line}\n")).collect();
            self.write(METRICS, kept.as_bytes())?;
        }
        Ok(())
    }

    /// # Errors
    /// A file that is missing or is not text.
    pub fn read(&self, file: &str) -> Result<String, StoreError> {
        fs::read_to_string(self.path(file)).map_err(|source| StoreError::Read { path: self.path(file), source })
    }

    /// Writes a file whole or not at all.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn write(&self, file: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(file);
        write_atomic(&path, bytes).map_err(|source| StoreError::Write { path, source })
    }

    /// Adds a line to [`METRICS`].
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn append_metrics(&self, part: Part, record: &impl Serialize) -> Result<(), StoreError> {
        let path = self.path(METRICS);
        let mut line = serde_json::to_string(&Line { part, record })
            .map_err(|e| StoreError::Encode { path: path.clone(), why: e.to_string() })?;
        line.push('\n');
        let file = File::options().create(true).append(true).open(&path);
        file.and_then(|mut f| f.write_all(line.as_bytes())).map_err(|source| StoreError::Write { path, source })
    }

    /// Writes [`RUN`].
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn write_run(&self, settings: &impl Serialize, run: &Provenance) -> Result<(), StoreError> {
        let failed = |e: toml::ser::Error| StoreError::Encode { path: self.path(RUN), why: e.to_string() };
        let settings = toml::to_string(settings).map_err(failed)?;
        let run = toml::to_string(&RunTable { run: run.clone() }).map_err(failed)?;
        let head = "# Every setting of this run; give this file as --config to run it again.\n";
        self.write(RUN, format!("{head}{settings}\n{run}").as_bytes())
    }

    /// Reads [`RUN`]: the settings and what made the run.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn read_run(&self) -> Result<(Table, Provenance), StoreError> {
        let text = self.read(RUN)?;
        let damaged = |e: toml::de::Error| StoreError::Damaged {
            path: self.path(RUN),
            line: e.span().map_or(1, |span| text[..span.start].lines().count().max(1)),
            why: e.message().to_string(),
        };
        let run: RunTable = toml::from_str(&text).map_err(damaged)?;
        let mut settings: Table = toml::from_str(&text).map_err(damaged)?;
        settings.remove("run");
        Ok((settings, run.run))
    }
}

#[derive(Serialize)]
struct Line<'a, R> {
    part: Part,
    #[serde(flatten)]
    record: &'a R,
}

#[derive(Deserialize)]
struct Tag {
    part: Part,
}

#[derive(Serialize, Deserialize)]
struct RunTable {
    run: Provenance,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Store) {
        let place = tempfile::tempdir().expect("a folder");
        let folder = Store::create(&place.path().join("a/b")).expect("created");
        (place, folder)
    }

    fn provenance() -> Provenance {
        let stages = vec![StageTime { part: Part::AntiLearning, name: "train".into(), seconds: 1.5 }];
        Provenance { version: "1".into(), adapter: "none".into(), stages }
    }

    #[test]
    fn run_toml_gives_settings_and_provenance_back() {
        let (_place, folder) = folder();
        let settings: Table = toml::from_str("lr = 0.1\nname = \"x\"").expect("toml");
        folder.write_run(&settings, &provenance()).expect("written");
        assert_eq!(folder.read_run().expect("read"), (settings, provenance()));
    }

    #[test]
    fn a_part_that_begins_removes_its_own_files_and_later_ones() {
        let (_place, folder) = folder();
        for file in [RUN, BACKDOORED, DEFENDED, RESULTS] {
            folder.write(file, b"x").expect("written");
        }
        for part in Part::ALL {
            folder.append_metrics(part, &provenance()).expect("appended");
        }
        folder.begin(Part::Unlearning).expect("begun");
        assert!(folder.has(RUN) && folder.has(BACKDOORED) && !folder.has(DEFENDED) && !folder.has(RESULTS));
        let metrics = folder.read(METRICS).expect("metrics");
        assert!(metrics.lines().count() == 1 && metrics.contains("anti_learning"), "{metrics}");
        folder.begin(Part::AntiLearning).expect("begun");
        assert_eq!(fs::read_dir(folder.root()).expect("readable").count(), 0);
    }

    #[test]
    fn refuses_a_folder_of_something_else_and_a_file() {
        let place = tempfile::tempdir().expect("a folder");
        assert!(Store::vet(place.path()).is_ok(), "an empty folder will do");
        fs::write(place.path().join("thesis.tex"), "x").expect("written");
        assert!(matches!(Store::create(place.path()), Err(StoreError::NotOurs { .. })));
        assert!(matches!(Store::vet(&place.path().join("thesis.tex")), Err(StoreError::Read { .. })));
        fs::write(place.path().join(RUN), "").expect("written");
        assert!(Store::vet(place.path()).is_ok());
    }

    #[test]
    fn an_atomic_write_replaces_and_leaves_no_temporary_file() {
        let (_place, folder) = folder();
        folder.write(RESULTS, b"old").expect("written");
        folder.write(RESULTS, b"new").expect("written");
        assert_eq!(folder.read(RESULTS).expect("read"), "new");
        assert_eq!(fs::read_dir(folder.root()).expect("readable").count(), 1);
        assert!(write_atomic(&folder.path("missing/file"), b"x").is_err());
    }
}
