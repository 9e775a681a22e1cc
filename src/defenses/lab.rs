//! What a defense works with.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::data::Dataset;
use crate::files::write_atomic;
use crate::kernel::Kernels;
use crate::options::Options;
use crate::train::{Network, Observer, TrainConfig, TrainError, Trainer};

/// The folder of scratch files, in [`Lab::folder`].
pub const SCRATCH: &str = "work";

/// What a defense works with. What it keeps in the folder is there when it is asked the same again after a kill.
#[derive(Clone, Copy)]
pub struct Lab<'a> {
    /// The device.
    pub kernels: &'a Kernels,
    /// How the victim was trained.
    pub training: &'a TrainConfig,
    /// The defense's options, all of them.
    pub options: &'a Options,
    /// The run's folder: names begin with the defense's, or are its own.
    pub folder: &'a Path,
    /// Who is told of progress, and may wish to stop.
    pub observer: &'a dyn Observer,
}

impl Lab<'_> {
    /// A file in the folder.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// What `make` makes; it is kept as JSON in `file`, and not made again where the file is there.
    ///
    /// # Errors
    /// What `make` returns; a file that is damaged, a disk that refuses.
    pub fn once<T: Serialize + DeserializeOwned>(
        &self,
        file: &str,
        make: impl FnOnce() -> Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        let path = self.path(file);
        let failed = |why: String| TrainError::Checkpoint { path: path.clone(), why };
        if path.is_file() {
            let text = std::fs::read_to_string(&path).map_err(|e| failed(e.to_string()))?;
            return serde_json::from_str(&text)
                .map_err(|e| failed(format!("line {}: {e}; remove it to make it again", e.line())));
        }
        let made = make()?;
        let text = serde_json::to_string(&made).map_err(|e| failed(e.to_string()))? + "\n";
        write_atomic(&path, text.as_bytes()).map_err(|e| failed(format!("cannot be written: {e}")))?;
        Ok(made)
    }

    /// A file for what is needed to go on after a kill, and no longer once the clean network is there.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub fn scratch(&self, file: &str) -> Result<PathBuf, TrainError> {
        let folder = self.path(SCRATCH);
        let failed = |e: std::io::Error| TrainError::Checkpoint { path: folder.clone(), why: format!("cannot be made: {e}") };
        std::fs::create_dir_all(&folder).map_err(failed)?;
        Ok(folder.join(file))
    }

    /// Removes a scratch file that is of no more use, and the folder with the last one.
    pub fn tidy(&self, file: &str) {
        let folder = self.path(SCRATCH);
        // What cannot be removed, or is not there, harms nobody.
        let _ = std::fs::remove_file(folder.join(file));
        let _ = std::fs::remove_dir(folder);
    }

    /// The network that `start` gives, trained on `data`. It is kept as a scratch file, `name`.safetensors, and not trained again where
    /// the file is there.
    ///
    /// # Errors
    /// What `start` returns; what stops training; a file that is damaged, a disk that refuses.
    pub fn trained(
        &self,
        name: &str,
        start: impl FnOnce() -> Result<Network, TrainError>,
        data: &Dataset,
        config: &TrainConfig,
    ) -> Result<Network, TrainError> {
        self.trained_weighed(name, start, data, None, config)
    }

    /// The same with a weight for each sample, where there are some ([`Trainer::weighed`]).
    ///
    /// # Errors
    /// As [`Lab::trained`]; a weight that is negative or not finite.
    pub fn trained_weighed(
        &self,
        name: &str,
        start: impl FnOnce() -> Result<Network, TrainError>,
        data: &Dataset,
        weights: Option<Vec<f32>>,
        config: &TrainConfig,
    ) -> Result<Network, TrainError> {
        let path = self.scratch(&format!("{name}.safetensors"))?;
        if path.is_file() {
            return Network::load(self.kernels, &path);
        }
        let network = start()?;
        let state = self.scratch(&format!("{name}.state.safetensors"))?;
        let mut trainer = Trainer::new(self.kernels, &network, data, config)?;
        if let Some(weights) = weights {
            trainer = trainer.weighed(weights)?;
        }
        trainer.finish(self.observer, Some(&state))?;
        network.save(&path)?;
        Ok(network)
    }
}
