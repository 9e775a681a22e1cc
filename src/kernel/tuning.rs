//! Which way to run them was measured fastest for which class of shapes, kept from one start to the next.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::SHADERS;
use crate::files::write_atomic;
use crate::gpu::{Candidate, Gpu};

/// Measured choices, and the file that they are kept in.
pub struct Tuning {
    file: PathBuf,
    adapter: String,
    kernels: String,
    chosen: Mutex<BTreeMap<String, Candidate>>,
    /// Whether a class was asked for that had been measured.
    used: AtomicBool,
}

/// The file's content; the adapter is for people who look into it.
#[derive(Serialize, Deserialize)]
struct Kept {
    adapter: String,
    /// Of what the choices are good for: [`fingerprint`].
    kernels: String,
    chosen: BTreeMap<String, String>,
}

/// Why a file of measured choices is of no use.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum TuningError {
    #[error("cannot read {}: {source}; `dau tune` measures and writes such a file", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is no file of `dau tune`, or a damaged one: {why}", path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("{} holds no measured way that this start could take: `dau tune` again", path.display())]
    Empty { path: PathBuf },
    #[error("{} was measured on {theirs}, and this is {ours}: choose that adapter, or `dau tune` this one", path.display())]
    Adapter { path: PathBuf, theirs: String, ours: String },
    #[error("{} was measured with another version of the kernels, driver or precision: `dau tune` again", path.display())]
    Stale { path: PathBuf },
}

/// Of adapter, driver, precision and shaders: what is fastest for one need not be for another.
fn fingerprint(gpu: &Gpu) -> String {
    let mut hasher = DefaultHasher::new();
    (gpu.caps().matrix.map(|m| m.planes), gpu.describe(), &gpu.info().driver, SHADERS, env!("CARGO_PKG_VERSION"))
        .hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

impl Tuning {
    /// Where choices for this adapter are kept under `folder`.
    pub fn place(folder: &Path, gpu: &Gpu) -> PathBuf {
        folder.join(format!("staging-{}.json", fingerprint(gpu)))
    }

    /// No choices yet, to be kept in `file`.
    pub fn none(file: &Path, gpu: &Gpu) -> Tuning {
        Tuning {
            file: file.into(),
            adapter: gpu.describe(),
            kernels: fingerprint(gpu),
            chosen: Mutex::default(),
            used: AtomicBool::new(false),
        }
    }

    /// What `file` holds for this adapter. A way that this start does not offer (`--limits default`) is left out: the rule holds there.
    ///
    /// # Errors
    /// A file that cannot be read, is of another adapter, driver, precision or version, or holds nothing.
    pub fn read(file: &Path, gpu: &Gpu) -> Result<Tuning, TuningError> {
        let path = || file.to_path_buf();
        let text = std::fs::read_to_string(file).map_err(|source| TuningError::Read { path: path(), source })?;
        let kept: Kept = serde_json::from_str(&text).map_err(|e| TuningError::Damaged { path: path(), why: e.to_string() })?;
        let none = Tuning::none(file, gpu);
        if kept.adapter != none.adapter {
            return Err(TuningError::Adapter { path: path(), theirs: kept.adapter, ours: none.adapter });
        }
        if kept.kernels != none.kernels {
            return Err(TuningError::Stale { path: path() });
        }
        let offered = gpu.caps().candidates();
        let found = |(class, name): (String, String)| Some((class, *offered.iter().find(|c| c.name() == name)?));
        let chosen: BTreeMap<String, Candidate> = kept.chosen.into_iter().filter_map(found).collect();
        if chosen.is_empty() {
            return Err(TuningError::Empty { path: path() });
        }
        Ok(Tuning { chosen: Mutex::new(chosen), ..none })
    }

    /// The fastest way for a class, if it was measured.
    pub fn chosen(&self, class: &str) -> Option<Candidate> {
        let chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner).get(class).copied();
        match chosen {
            Some(_) => self.used.store(true, Ordering::Relaxed),
            None => log::info!("{} has no measurement of: {class}", self.file.display()),
        }
        chosen
    }

    /// Whether any class was [chosen](Tuning::chosen) since the start.
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// The fastest way by class, as far as they were measured.
    pub fn all(&self) -> BTreeMap<String, Candidate> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds measured choices, and to the file as well, which another process may have added to.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn add(&self, measured: BTreeMap<String, Candidate>) -> std::io::Result<()> {
        let _held = self.hold()?;
        let (adapter, kernels) = (self.adapter.clone(), self.kernels.clone());
        let there = std::fs::read(&self.file).ok().and_then(|text| serde_json::from_slice::<Kept>(&text).ok());
        let there = there.filter(|kept| kept.adapter == adapter && kept.kernels == kernels);
        let mut chosen = there.map(|kept| kept.chosen).unwrap_or_default();
        chosen.extend(measured.iter().map(|(class, candidate)| (class.clone(), candidate.name())));
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner).extend(measured);
        let text = serde_json::to_string_pretty(&Kept { adapter, kernels, chosen })?;
        write_atomic(&self.file, text.as_bytes())
    }

    /// Keeps other processes from changing the file until it is dropped; makes its folder.
    ///
    /// # Errors
    /// A folder where nothing can be written.
    pub fn hold(&self) -> std::io::Result<File> {
        if let Some(folder) = self.file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let lock = File::options().create(true).append(true).open(self.file.with_extension("lock"))?;
        // Some network file systems know no locks.
        let _ = lock.lock();
        Ok(lock)
    }

    /// Where the choices are kept.
    pub fn file(&self) -> &Path {
        &self.file
    }
}
