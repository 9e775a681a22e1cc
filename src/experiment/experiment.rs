//! A defense on training images, in a folder: what `run`, `demo`, `defend`, `scan`, `unlearn` and the subtasks share.

use anyhow::{Result, anyhow};

use super::evaluate::Count;
use super::{DEFENDED, Host, Protocol, Recorder, Store, Subtask, TRAINING};
use crate::data::Dataset;
use crate::defenses::{Defense, Detection, Given, Lab, SCRATCH, Split};
use crate::kernel::Kernels;
use crate::nn::ModelSpec;
use crate::options::Options;
use crate::train::{
    Attention, Network, Observer, Predictions, TrainConfig, Wanted, attention, check_batch, fit, images_at_once, predict,
};

/// A defense on training images. Each stage takes from the store what the one before left there; what is there is not made again.
pub struct Experiment<'a> {
    protocol: &'a Protocol,
    kernels: &'a Kernels,
    train: &'a Dataset,
    clean: Option<&'a Dataset>,
    store: &'a Store,
    observer: &'a dyn Observer,
    defense: &'static dyn Defense,
    options: Options,
    training: TrainConfig,
}

impl<'a> Experiment<'a> {
    /// # Errors
    /// A defense that is unknown.
    pub fn new(
        protocol: &'a Protocol,
        kernels: &'a Kernels,
        train: &'a Dataset,
        store: &'a Store,
        observer: &'a dyn Observer,
    ) -> Result<Experiment<'a>> {
        let (defense, options, training) = (protocol.defense()?, protocol.defense_options(), protocol.train_config());
        Ok(Experiment { protocol, kernels, train, clean: None, store, observer, defense, options, training })
    }

    /// The same with further images that are surely clean.
    pub fn with_clean(mut self, clean: Option<&'a Dataset>) -> Experiment<'a> {
        self.clean = clean;
        self
    }

    /// The network that is trained on all images, kept in the store's `file`.
    ///
    /// # Errors
    /// What stops training, or a disk that refuses.
    pub fn victim(&self, file: &str) -> Result<Network> {
        let (path, model) = (self.store.path(file), self.protocol.model_spec(self.train));
        let network = if path.is_file() {
            Network::load_as(self.kernels, &path, &model)?
        } else {
            let network = Network::new(self.kernels, &model, &self.protocol.normalisation()?, self.protocol.seed)?;
            let state = self.store.path(TRAINING);
            self.recorded(Subtask::AntiLearning, |observer| {
                Ok(fit(self.kernels, &network, self.train, &self.training, observer, Some(&state))?)
            })?;
            if let Some(tuning) = self.kernels.tuning().filter(|tuning| !tuning.is_used()) {
                log::warn!(
                    "{} has no measurement of this network's convolutions at these sizes: all ran by the rule. `dau tune` with this --model, \
                     --width, --image-size and --batch measures them",
                    tuning.file().display()
                );
            }
            network.save(&path)?;
            network
        };
        self.store.remove(TRAINING)?;
        Ok(network)
    }

    /// Which images are poisoned.
    ///
    /// # Errors
    /// What stops the search, or a disk that refuses.
    pub fn detect(&self, victim: &Network) -> Result<Detection> {
        let given = self.given(victim);
        self.recorded(Subtask::AntiLearning, |observer| Ok(self.defense.detect(&self.lab(observer), &given)?))
    }

    /// The clean network, kept in [`DEFENDED`].
    ///
    /// # Errors
    /// What stops training, or a disk that refuses.
    pub fn purify(&self, victim: &Network, split: &Split) -> Result<Network> {
        let path = self.store.path(DEFENDED);
        let network = if path.is_file() {
            Network::load_as(self.kernels, &path, &victim.spec)?
        } else {
            let given = self.given(victim);
            let network =
                self.recorded(Subtask::Unlearning, |observer| Ok(self.defense.purify(&self.lab(observer), &given, split)?))?;
            network.save(&path)?;
            network
        };
        self.store.remove(SCRATCH)?;
        Ok(network)
    }

    /// What `network` says of `data`, with what is `wanted`: a stage called `stage`.
    ///
    /// # Errors
    /// What stops prediction, or a disk that refuses.
    pub fn predict(&self, network: &Network, data: &Dataset, wanted: &[Wanted], stage: &str) -> Result<Predictions> {
        let batch = self.protocol.batch();
        self.recorded(Subtask::Test, |observer| Ok(predict(self.kernels, network, data, batch, wanted, observer, stage)?))
    }

    /// Where `network` looks in images of `data`, a stage called `stage`.
    ///
    /// # Errors
    /// As [`Experiment::predict`].
    pub(super) fn attention(&self, network: &Network, data: &Dataset, stage: &str) -> Result<Attention> {
        self.recorded(Subtask::Test, |observer| Ok(attention(self.kernels, network, data, observer, stage)?))
    }

    /// The training images.
    pub(super) fn train(&self) -> &'a Dataset {
        self.train
    }

    /// The images of `data` that `network` gives their label.
    ///
    /// # Errors
    /// As [`Experiment::predict`].
    pub fn accuracy(&self, network: &Network, data: &Dataset, stage: &str) -> Result<Count> {
        let said = self.predict(network, data, &[], stage)?.class;
        Ok(Count::of(said.iter().zip(&data.labels).map(|(said, label)| said == label)))
    }

    fn given<'b>(&'b self, victim: &'b Network) -> Given<'b> {
        Given { train: self.train, victim, clean: self.clean }
    }

    fn lab<'b>(&'b self, observer: &'b dyn Observer) -> Lab<'b> {
        let Experiment { kernels, training, options, store, .. } = self;
        Lab { kernels, training, options, folder: store.root(), observer }
    }

    /// Does `job`, of `part`, with an observer that writes what it sees to the store.
    fn recorded<T>(&self, part: Subtask, job: impl FnOnce(&dyn Observer) -> Result<T>) -> Result<T> {
        let recorder = Recorder::new(self.store, part, self.observer);
        let done = job(&recorder)?;
        recorder.finish()?;
        Ok(done)
    }
}

/// Opens the adapter for a job and asks whether the batches of training and defense fit.
///
/// # Errors
/// No such adapter; a batch over its limits.
pub fn open_for(protocol: &Protocol, model: &ModelSpec, host: &Host) -> Result<Kernels> {
    let kernels = (host.open)(protocol.precision)?;
    images_at_once(&kernels, model, protocol.batch())?;
    let defense = protocol.defense()?;
    let batch = defense.largest_batch(&protocol.defense_options(), &protocol.train_config());
    check_batch(&kernels, model, batch)
        .map_err(|e| anyhow!("{}'s largest step, {batch} images, in its own settings: {e}", defense.name()))?;
    Ok(kernels)
}
