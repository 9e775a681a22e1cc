//! Which way to run them was measured fastest for which class of shapes, kept from one start to the next.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::SHADERS;
use crate::files::write_atomic;
use crate::gpu::{Candidate, Gpu};

/// Measured choices, and the file that they are kept in.
pub struct Tuning {
    file: PathBuf,
    adapter: String,
    chosen: Mutex<BTreeMap<String, Candidate>>,
}

/// The file's content; the adapter is for people who look into it.
#[derive(Serialize, Deserialize)]
struct Kept {
    adapter: String,
    chosen: BTreeMap<String, String>,
}

impl Tuning {
    /// What was measured earlier with this adapter, driver and these shaders: in a file of its own under `folder`, which need
    /// not exist. A file that cannot be read counts as none.
    pub fn load(folder: &Path, gpu: &Gpu) -> Tuning {
        let adapter = gpu.describe();
        let mut hasher = DefaultHasher::new();
        // Precisions have files of their own: what is fastest in one may not be offered in the other.
        (gpu.caps().matrix.is_some(), &adapter, &gpu.info().driver, SHADERS, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
        let file = folder.join(format!("staging-{:016x}.json", hasher.finish()));
        let offered = gpu.caps().candidates();
        let mut chosen = BTreeMap::new();
        match std::fs::read(&file).map(|bytes| serde_json::from_slice::<Kept>(&bytes)) {
            Ok(Ok(kept)) => {
                for (class, name) in kept.chosen {
                    // One that this start does not offer (--limits default) is measured anew.
                    if let Some(candidate) = offered.iter().find(|c| c.name() == name) {
                        chosen.insert(class, *candidate);
                    }
                }
            }
            Ok(Err(e)) => log::warn!("{}: {e}; measuring anew", file.display()),
            Err(e) => log::debug!("{}: {e}", file.display()),
        }
        Tuning { file, adapter, chosen: Mutex::new(chosen) }
    }

    /// The fastest way for a class, if it was measured.
    pub fn chosen(&self, class: &str) -> Option<Candidate> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner).get(class).copied()
    }

    /// The fastest way by class, as far as they were measured.
    pub fn all(&self) -> BTreeMap<String, Candidate> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds measured choices and writes the file. Not being able to only costs the next start its time: it is logged.
    pub fn add(&self, measured: BTreeMap<String, Candidate>) {
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        chosen.extend(measured);
        let named = chosen.iter().map(|(class, candidate)| (class.clone(), candidate.name())).collect();
        let kept = Kept { adapter: self.adapter.clone(), chosen: named };
        let written = serde_json::to_vec_pretty(&kept).map_err(std::io::Error::from).and_then(|bytes| {
            std::fs::create_dir_all(self.file.parent().unwrap_or(Path::new(".")))?;
            write_atomic(&self.file, &bytes)
        });
        if let Err(e) = written {
            log::warn!("{}: {e}; the next start will measure again", self.file.display());
        }
    }

    /// Where the choices are kept.
    pub fn file(&self) -> &Path {
        &self.file
    }
}
