//! Whole trainings, which can be left and gone on with.

use std::path::Path;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::batch::stream_until;
use super::{
    Batch, EpochRecord, Network, Observer, Part, SgdConfig, StepConfig, Teacher, TrainError, TrainState, TrainStep, cosine,
    images_at_once,
};
use crate::data::Dataset;
use crate::kernel::Kernels;
use crate::ops::LossKind;
use crate::rng;

/// A whole training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// What it is called where it is reported.
    pub stage: String,
    /// Its mean over a batch is minimised.
    pub loss: LossKind,
    /// How often all images are seen.
    pub epochs: usize,
    /// Images a step. Where the adapter cannot hold so many at once, they go through in equal parts (see [`images_at_once`]).
    pub batch: usize,
    /// The peak of a cosine schedule over all steps.
    pub lr: f64,
    /// The optimizer, and how images are augmented.
    pub sgd: SgdConfig,
    /// Parameters learn whose names begin with one of these; all of them where there is none.
    #[serde(default)]
    pub learns: Vec<String>,
    /// Radius of sharpness-aware minimisation ([`StepConfig::rho`]), 0 for none.
    #[serde(default)]
    pub rho: f32,
    /// Of order and augmentation.
    pub seed: u64,
}

/// A training is saved at least so often.
pub(crate) const SAVED_EVERY: Duration = Duration::from_secs(60);

/// Where a training is: all that its state needs beside tensors, for order and augmentation follow from the seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Position {
    config: TrainConfig,
    /// Training images.
    images: usize,
    /// SHA-256 of the samples' weights, where they have some.
    #[serde(default)]
    weights: Option<String>,
    /// Epochs done.
    epoch: usize,
    /// Steps done of the next.
    step: usize,
    /// Of these steps: sum of losses, images that got their label, images, seconds.
    loss: f64,
    hits: usize,
    seen: usize,
    seconds: f64,
    /// Steps that the network has taken in its life.
    steps: u64,
}

/// A training of a network with one loss, the mean over a batch, on all of a data set, whose samples may have weights.
pub struct Trainer<'a> {
    kernels: &'a Kernels,
    network: &'a Network,
    data: &'a Dataset,
    step: TrainStep,
    /// One a sample; all weigh 1 where it is empty.
    weights: Vec<f32>,
    order: Vec<usize>,
    shuffle: ChaCha8Rng,
    /// How often the order was shuffled.
    shuffled: usize,
    at: Position,
}

impl<'a> Trainer<'a> {
    /// # Errors
    /// A batch over the adapter's limits.
    pub fn new(
        kernels: &'a Kernels,
        network: &'a Network,
        data: &'a Dataset,
        config: &TrainConfig,
    ) -> Result<Trainer<'a>, TrainError> {
        Trainer::taught(kernels, network, data, config, None)
    }

    /// The same with a teacher: what is minimised is the loss and the difference of the network's attention from the teacher's.
    ///
    /// # Errors
    /// As [`Trainer::new`]; a teacher that the network cannot have.
    pub fn taught(
        kernels: &'a Kernels,
        network: &'a Network,
        data: &'a Dataset,
        config: &TrainConfig,
        teacher: Option<&Teacher>,
    ) -> Result<Trainer<'a>, TrainError> {
        let images = data.len();
        let [loss, seconds] = [0.0; 2];
        let [epoch, step, hits, seen] = [0; 4];
        let at = Position { config: config.clone(), images, weights: None, epoch, step, loss, hits, seen, seconds, steps: 0 };
        let batch = config.batch.min(images.max(1));
        let at_once = images_at_once(kernels, &network.spec, batch)?;
        if at_once < batch {
            log::warn!(
                "a batch of {batch} does not fit the adapter: {at_once} images go through it at once, batch norm sees as many"
            );
        }
        let TrainConfig { rho, .. } = *config;
        let step =
            StepConfig { at_once, learns: config.learns.clone(), rho, ..StepConfig::new(batch, &[config.loss], &config.sgd) };
        Ok(Trainer {
            kernels,
            network,
            data,
            step: TrainStep::taught(kernels, network, &step, teacher)?,
            weights: Vec::new(),
            order: (0..images).collect(),
            shuffle: rng::stream(config.seed, "shuffle"),
            shuffled: 0,
            at,
        })
    }

    /// The same training in which each sample's loss has a weight, one for each of the data: what is minimised is
    /// sum(weight_i loss_i) / images of the batch.
    ///
    /// # Errors
    /// Another number of weights; a weight that is negative or not finite.
    pub fn weighed(mut self, weights: Vec<f32>) -> Result<Trainer<'a>, TrainError> {
        if weights.len() != self.at.images {
            return Err(TrainError::Data(format!("{} weights for {} training images", weights.len(), self.at.images)));
        }
        if let Some((i, weight)) = weights.iter().enumerate().find(|(_, w)| !w.is_finite() || **w < 0.0) {
            return Err(TrainError::Data(format!("training image {i} weighs {weight}: weights are 0 or more")));
        }
        self.at.weights = Some(format!("{:x}", Sha256::digest(bytemuck::cast_slice::<f32, u8>(&weights))));
        self.weights = weights;
        Ok(self)
    }

    /// Epochs done.
    pub fn epoch(&self) -> usize {
        self.at.epoch
    }

    /// Whether all epochs are over.
    pub fn done(&self) -> bool {
        self.at.epoch >= self.at.config.epochs
    }

    /// Writes all that is needed to go on; `path` holds this state or the one before it, whole.
    ///
    /// # Errors
    /// The driver's; a disk that refuses.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        let position = Position { steps: self.network.steps(), ..self.at.clone() };
        TrainState::of(self.network, &self.step, position)?.write(path)
    }

    /// Goes on from what [`Trainer::save`] wrote: every later step is the same to the bit as if nothing had been between.
    ///
    /// # Errors
    /// A damaged file; the state of another training.
    pub fn load(&mut self, path: &Path) -> Result<(), TrainError> {
        let state = TrainState::<Position>::read(path)?;
        let at = &state.position;
        if (&at.config, at.images, &at.weights) != (&self.at.config, self.at.images, &self.at.weights) {
            let weights = if at.weights.is_some() { ", which have weights," } else { "" };
            let why = format!("it is the state of a training of {} images{weights} with {:?}", at.images, at.config);
            return Err(TrainError::Checkpoint { path: path.into(), why });
        }
        state.restore(self.network, &self.step, path)?;
        self.network.set_steps(at.steps);
        self.at = state.position;
        Ok(())
    }

    /// Trains on until the epoch has ended, `limit` is over or the observer wants to stop.
    ///
    /// # Errors
    /// A loss that is not finite, naming epoch and step; the driver's.
    pub fn advance(&mut self, limit: Duration, observer: &dyn Observer) -> Result<(), TrainError> {
        let Position { config, epoch, step: first, .. } = self.at.clone();
        if self.done() {
            return Ok(());
        }
        while self.shuffled <= epoch {
            rng::shuffle(&mut self.shuffle, &mut self.order);
            self.shuffled += 1;
        }
        let Trainer { kernels, network, data, step, weights, order, at, .. } = self;
        let steps_per_epoch = data.len().div_ceil(config.batch);
        let total = steps_per_epoch * config.epochs;
        let left = &order[first * config.batch..];
        observer.begin(&format!("{} {}/{}", config.stage, epoch + 1, config.epochs), left.len() as u64);
        let start = Instant::now();
        let batches = left.chunks(config.batch).map(|indices| {
            // Reweighed shares a batch out itself, by weights as they are.
            let weight = if config.loss == LossKind::Reweighed { 1.0 } else { 1.0 / indices.len() as f32 };
            Batch::new(data, &[Part { indices, weight }]).weighed(0, |sample| weights.get(sample).copied().unwrap_or(1.0))
        });
        let submit = |index: usize, batch: &Batch| {
            let at = epoch * steps_per_epoch + first + index;
            let seed = (config.seed as u32).wrapping_mul(0x9e37_79b9).wrapping_add(at as u32);
            step.run(network, batch, cosine(config.lr, at, total), seed)
        };
        let collect = |index: usize, batch: &Batch, parts: &[Vec<u8>]| {
            let Some((classes, values)) = parts.split_last() else { return Ok(()) };
            let classes: Vec<u32> = bytemuck::pod_collect_to_vec(classes);
            let images = batch.indices.len();
            let losses: Vec<f32> =
                values.iter().flat_map(|v| bytemuck::pod_collect_to_vec::<u8, f32>(v).into_iter().take(images)).collect();
            if let Some(&value) = losses.iter().find(|l| !l.is_finite()) {
                let (epoch, step, lr) = (epoch + 1, first + index + 1, config.lr);
                return Err(TrainError::NotFinite { stage: config.stage.clone(), epoch, step, value, lr });
            }
            at.loss += losses.iter().map(|l| f64::from(*l)).sum::<f64>();
            at.hits += batch.labels.iter().zip(&classes).filter(|(l, c)| l == c).count();
            at.seen += images;
            at.step += 1;
            Ok(())
        };
        let enough = || observer.cancelled() || start.elapsed() >= limit;
        stream_until(kernels.gpu(), observer, enough, batches, submit, collect)?;
        at.seconds += start.elapsed().as_secs_f64();
        if at.step == steps_per_epoch {
            let seen = at.seen.max(1) as f64;
            let record = EpochRecord {
                stage: config.stage.clone(),
                epoch: epoch + 1,
                epochs: config.epochs,
                loss: at.loss / seen,
                accuracy: 100.0 * at.hits as f64 / seen,
                lr: cosine(config.lr, epoch * steps_per_epoch, total),
                seconds: at.seconds,
                images_per_second: seen / at.seconds,
            };
            observer.epoch(&record)?;
            observer.look(&record, network)?;
            *at = Position { epoch: epoch + 1, step: 0, loss: 0.0, hits: 0, seen: 0, seconds: 0.0, ..at.clone() };
        }
        Ok(())
    }

    /// Trains until all epochs are over. With `state`, a file, it goes on from there if the file exists, and saves itself there after
    /// every epoch and every minute.
    ///
    /// # Errors
    /// A loss that is not finite, naming epoch and step; a wish to stop, once the state is saved; a disk that refuses; the driver's.
    pub fn finish(mut self, observer: &dyn Observer, state: Option<&Path>) -> Result<(), TrainError> {
        if let Some(path) = state.filter(|path| path.is_file()) {
            self.load(path)?;
        }
        while !self.done() {
            self.advance(SAVED_EVERY, observer)?;
            if let Some(path) = state {
                self.save(path)?;
            }
            observer.go_on()?;
        }
        Ok(())
    }
}

/// Trains `network` on all of `data`, as [`Trainer::finish`] does.
///
/// # Errors
/// As there; a batch over the adapter's limits.
pub fn fit(
    kernels: &Kernels,
    network: &Network,
    data: &Dataset,
    config: &TrainConfig,
    observer: &dyn Observer,
    state: Option<&Path>,
) -> Result<(), TrainError> {
    Trainer::new(kernels, network, data, config)?.finish(observer, state)
}

#[cfg(test)]
#[path = "trainer_tests.rs"]
mod tests;
