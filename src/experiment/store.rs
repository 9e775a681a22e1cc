//! The folder of one run: which files it has, and writing each in one piece.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::Table;

use super::{CurvePoint, StoreError};
use crate::files::{sweep, write_atomic};
use crate::train::EpochRecord;

/// Every resolved setting, readable as `--config`, and under `[run]` the [`Provenance`].
pub const RUN: &str = "run.toml";
/// Which training images are poisoned: index, old label, new label.
pub const POISON: &str = "poison.csv";
/// Clean, triggered and difference images, for the eye.
pub const PREVIEW: &str = "preview.png";
/// One JSON object a line and epoch.
pub const METRICS: &str = "metrics.jsonl";
/// One [`CurvePoint`] a line, as JSON.
pub const CURVE: &str = "curve.jsonl";
/// What the network before the defense takes each test image for.
pub const UNDEFENDED_TEST: &str = "undefended-test.json";
/// What pictures of the networks are made of, [`super::Inspection`].
pub const INSPECTION: &str = "inspection.json";
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
/// What was found, as one page.
pub const REPORT: &str = "report.html";
/// What the defense saw, for [`RESULTS`].
pub const EVIDENCE: &str = "evidence.json";
/// What a training under way needs to go on; removed when the network is there.
pub const TRAINING: &str = "training.safetensors";
/// Held by the process that works here.
pub const LOCK: &str = "lock";

/// The parts of a job in their order, by the original's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subtask {
    /// Training on everything, and finding the poison.
    #[default]
    AntiLearning,
    /// Making the clean network.
    Unlearning,
    /// Measuring both networks.
    Test,
}

impl Subtask {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Subtask::AntiLearning => "anti_learning",
            Subtask::Unlearning => "unlearning",
            Subtask::Test => "test",
        }
    }
}

/// How long a stage took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageTime {
    /// As the observer was told, without counts.
    pub name: String,
    /// Of all processes that worked on it.
    pub seconds: f64,
    /// The last part that ran it. Earlier versions did not say.
    #[serde(default)]
    pub part: Subtask,
}

/// What made a run: the table `[run]` of [`RUN`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// dau's version.
    pub version: String,
    /// Adapter, graphics interface and driver; `none` where no network was needed.
    pub adapter: String,
    /// What the run was given beside its settings: files, and fingerprints of what they held.
    #[serde(default)]
    pub given: BTreeMap<String, String>,
    /// In the order in which they began.
    #[serde(default)]
    pub stages: Vec<StageTime>,
}

/// What a run is asked to do. A store goes on with what was asked at its beginning, and with nothing else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    /// Every setting; where `out` is does not matter.
    pub settings: Table,
    /// As [`Provenance::given`].
    pub given: BTreeMap<String, String>,
    /// Begin anew, and keep what is there beside it.
    pub force: bool,
}

impl Asked {
    /// The folder for a run that was given none, `prefix` and a code: no two that are asked otherwise share one.
    pub fn own_folder(&self, prefix: &Path) -> PathBuf {
        let mut settings = self.settings.clone();
        settings.remove("out");
        let mut name = prefix.as_os_str().to_owned();
        name.push(format!("-{:08x}", crc32fast::hash(format!("{settings}{:?}", self.given).as_bytes())));
        name.into()
    }

    /// The first thing that `earlier` was asked otherwise: its name, what it was then, what it is now.
    fn differs(&self, settings: &Table, earlier: &Provenance) -> Option<[String; 3]> {
        let shown = |value: Option<&toml::Value>| value.map_or("nothing".to_string(), ToString::to_string);
        let keys: BTreeSet<&String> = self.settings.keys().chain(settings.keys()).filter(|key| *key != "out").collect();
        // First those that bring settings of their own with them.
        let mut keys: Vec<&String> = keys.into_iter().collect();
        keys.sort_by_key(|key| !["dataset", "attack", "defense", "model"].contains(&key.as_str()));
        let setting = keys.into_iter().find(|key| self.settings.get(*key) != settings.get(*key));
        let setting = setting.map(|key| [key.clone(), shown(settings.get(key)), shown(self.settings.get(key))]);
        let given = || {
            let (name, now) = self.given.iter().find(|(name, now)| earlier.given.get(*name).is_some_and(|was| was != *now))?;
            Some([name.clone(), earlier.given[name].clone(), now.clone()])
        };
        let version = || {
            let now = VERSION.to_string();
            (earlier.version != now).then(|| ["dau's version".into(), earlier.version.clone(), now])
        };
        setting.or_else(given).or_else(version)
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A run's folder on disk, held against other processes.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    /// Locked until the last copy is gone; the system lets go of it when the process ends, however it ends. None where nothing can be
    /// written, and nothing needs to be.
    lock: Option<Arc<File>>,
}

impl Store {
    /// The store of a run that was asked the same and is to go on; none where one is to begin. Nothing is written but the lock.
    ///
    /// # Errors
    /// A file, an unreadable folder, or a folder with files in it that is no run's; the first thing that was asked otherwise; another
    /// process that works there.
    pub fn earlier(root: &Path, asked: &Asked) -> Result<Option<Store>, StoreError> {
        let mut entries = match fs::read_dir(root) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Read { path: root.into(), source }),
            Ok(entries) => entries.flatten(),
        };
        // A process that was killed at once leaves its lock.
        let empty = entries.all(|entry| entry.file_name() == LOCK);
        if !empty && !root.join(RUN).is_file() {
            return Err(StoreError::NotOurs { path: root.into() });
        }
        if empty || asked.force {
            return Ok(None);
        }
        let store = Store::open(root)?;
        store.agrees(asked)?;
        Ok(Some(store))
    }

    /// Refuses what is asked if it is not what the run began with.
    fn agrees(&self, asked: &Asked) -> Result<(), StoreError> {
        let (settings, run) = self.read_run()?;
        match asked.differs(&settings, &run) {
            Some([what, was, is]) => Err(StoreError::OtherRun { path: self.root.clone(), what, was, is }),
            None => Ok(()),
        }
    }

    /// The store of a run that begins at `root`, or that goes on in `earlier`, by now knowing all that is asked. What writers that were
    /// killed left is swept.
    ///
    /// # Errors
    /// As [`Store::earlier`]; a folder that cannot be made or moved.
    pub fn begin(root: &Path, asked: &Asked, adapter: &str, earlier: Option<Store>) -> Result<Store, StoreError> {
        let refused = |source| StoreError::Write { path: root.into(), source };
        if let Some(store) = earlier {
            store.agrees(asked)?;
            if store.lock.is_some() {
                sweep(root).map_err(refused)?;
            }
            return Ok(store);
        }
        // A link stays, and what it leads to moves.
        let root = &led(root).map_err(refused)?;
        if asked.force && root.join(RUN).is_file() {
            // Not from under a process that works there.
            drop(Store::open(root)?);
            set_aside(root)?;
        }
        fs::create_dir_all(root).map_err(refused)?;
        let store = Store::open(root)?;
        let run = Provenance { version: VERSION.into(), adapter: adapter.into(), given: asked.given.clone(), stages: Vec::new() };
        store.write_run(&asked.settings, &run)?;
        Ok(store)
    }

    /// The store of a run that has begun. One that has ended can be shown from a folder where nothing can be written.
    ///
    /// # Errors
    /// Another process that works there; a folder that is not there, or where a run cannot go on.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        let path = root.join(LOCK);
        let lock = match File::options().create(true).append(true).open(&path) {
            Err(_) if root.join(RESULTS).is_file() => return Ok(Store { root: root.into(), lock: None }),
            opened => opened.map_err(|source| StoreError::Write { path: path.clone(), source })?,
        };
        // A process that was killed a moment ago may still be on its way out.
        let tries = (0..10).map(|_| lock.try_lock()).find(|tried| {
            let busy = matches!(tried, Err(TryLockError::WouldBlock));
            if busy {
                std::thread::sleep(Duration::from_millis(100));
            }
            !busy
        });
        match tries.unwrap_or(Err(TryLockError::WouldBlock)) {
            Err(TryLockError::WouldBlock) => Err(StoreError::Busy { path: root.into() }),
            // Some network file systems know no locks.
            Err(TryLockError::Error(e)) if e.kind() != std::io::ErrorKind::Unsupported => {
                Err(StoreError::Write { path, source: e })
            }
            _ => Ok(Store { root: root.into(), lock: Some(Arc::new(lock)) }),
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file in the folder.
    pub fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    /// Whether a file is there.
    pub fn has(&self, file: &str) -> bool {
        self.path(file).is_file()
    }

    /// Removes `files` and what is recorded of `part` and those after it, so that they are made again.
    ///
    /// # Errors
    /// A file that cannot be removed or rewritten.
    pub fn undo(&self, files: &[&str], part: Subtask) -> Result<(), StoreError> {
        files.iter().try_for_each(|file| self.remove(file))?;
        let (settings, mut run) = self.read_run()?;
        let (kept, gone): (Vec<_>, Vec<_>) = run.stages.into_iter().partition(|stage| stage.part < part);
        for file in [METRICS, CURVE].into_iter().filter(|file| self.has(file)) {
            let other = |line: &&str| {
                serde_json::from_str::<Tag>(line).is_ok_and(|tag| !gone.iter().any(|stage| stage.name == tag.stage))
            };
            let kept: String = self.read(file)?.lines().filter(other).map(|line| format!("{line}\n")).collect();
            self.write(file, kept.as_bytes())?;
        }
        run.stages = kept;
        self.write_run(&settings, &run)
    }

    /// Removes a file, or a folder with all that it holds, if it is there.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn remove(&self, file: &str) -> Result<(), StoreError> {
        let path = self.path(file);
        // Asked first: a disk that is read only refuses to remove what is not there, too.
        let removed = match path.symlink_metadata() {
            Err(e) => Err(e),
            Ok(there) if there.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
        };
        match removed {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::Write { path, source: e }),
            _ => Ok(()),
        }
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

    /// Adds a line to [`METRICS`]. A line that said the same epoch before, or was half written, goes: a run that goes on says some again.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn append_metrics(&self, record: &EpochRecord) -> Result<(), StoreError> {
        self.append(METRICS, record, &record.stage, record.epoch)
    }

    /// Adds a line to [`CURVE`], as [`Store::append_metrics`] does.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn append_point(&self, point: &CurvePoint) -> Result<(), StoreError> {
        self.append(CURVE, point, &point.stage, point.epoch)
    }

    /// All of [`CURVE`]; nothing where nobody measured.
    ///
    /// # Errors
    /// A damaged line.
    pub fn curve(&self) -> Result<Vec<CurvePoint>, StoreError> {
        let text = if self.has(CURVE) { self.read(CURVE)? } else { String::new() };
        let damaged = |line, e: serde_json::Error| StoreError::Damaged { path: self.path(CURVE), line, why: e.to_string() };
        (1..).zip(text.lines()).map(|(line, text)| serde_json::from_str(text).map_err(|e| damaged(line, e))).collect()
    }

    fn append(&self, file: &str, record: &impl Serialize, stage: &str, epoch: usize) -> Result<(), StoreError> {
        let failed = |e: serde_json::Error| StoreError::Encode { path: self.path(file), why: e.to_string() };
        let line = serde_json::to_string(record).map_err(failed)?;
        let said = if self.has(file) { self.read(file)? } else { String::new() };
        let other =
            |line: &&str| serde_json::from_str::<Tag>(line).is_ok_and(|tag| (tag.stage.as_str(), tag.epoch) != (stage, epoch));
        let kept: String = said.lines().filter(other).map(|line| format!("{line}\n")).collect();
        self.write(file, format!("{kept}{line}\n").as_bytes())
    }

    /// Adds to what `stage` has taken in `part`. What it took in another part is forgotten: a stage that is run again counts once.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn add_seconds(&self, part: Subtask, stage: &str, seconds: f64) -> Result<(), StoreError> {
        let (settings, mut run) = self.read_run()?;
        match run.stages.iter_mut().find(|earlier| earlier.name == stage) {
            Some(earlier) if earlier.part == part => earlier.seconds += seconds,
            Some(earlier) => (earlier.part, earlier.seconds) = (part, seconds),
            None => run.stages.push(StageTime { name: stage.into(), seconds, part }),
        }
        self.write_run(&settings, &run)
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
        read_run(&self.root)
    }

    /// Writes what reads back as the same, as JSON.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn write_json(&self, file: &str, value: &impl Serialize) -> Result<(), StoreError> {
        let failed = |e: serde_json::Error| StoreError::Encode { path: self.path(file), why: e.to_string() };
        self.write(file, (serde_json::to_string(value).map_err(failed)? + "\n").as_bytes())
    }

    /// Reads what [`Store::write_json`] wrote.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn read_json<T: DeserializeOwned>(&self, file: &str) -> Result<T, StoreError> {
        let damaged = |e: serde_json::Error| StoreError::Damaged { path: self.path(file), line: e.line(), why: e.to_string() };
        serde_json::from_str(&self.read(file)?).map_err(damaged)
    }
}

fn read_run(root: &Path) -> Result<(Table, Provenance), StoreError> {
    let path = root.join(RUN);
    let text = fs::read_to_string(&path).map_err(|source| StoreError::Read { path: path.clone(), source })?;
    let damaged = |e: toml::de::Error| StoreError::Damaged {
        path: path.clone(),
        line: e.span().map_or(1, |span| text[..span.start].lines().count().max(1)),
        why: e.message().to_string(),
    };
    let run: RunTable = toml::from_str(&text).map_err(damaged)?;
    let mut settings: Table = toml::from_str(&text).map_err(damaged)?;
    settings.remove("run");
    Ok((settings, run.run))
}

/// Where a link at `root` leads; without one, `root`.
fn led(root: &Path) -> std::io::Result<PathBuf> {
    // Without a slash at its end, which would follow it already.
    let root: PathBuf = root.components().collect();
    if root.is_symlink() { root.canonicalize() } else { Ok(root) }
}

/// Gives the folder the first free name of `root.1`, `root.2`, ...
fn set_aside(root: &Path) -> Result<(), StoreError> {
    let aside = |n: usize| {
        let mut name = root.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    let free = (1..).map(aside).find(|place| !place.exists()).unwrap_or_else(|| aside(0));
    fs::rename(root, &free).map_err(|source| StoreError::Write { path: free, source })
}

#[derive(Deserialize)]
struct Tag {
    stage: String,
    epoch: usize,
}

#[derive(Serialize, Deserialize)]
struct RunTable {
    run: Provenance,
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
