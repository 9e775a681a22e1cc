//! Stage 2: forget the poisoned part, keep the clean one, bring home what bears the trigger, in joint batches.

mod held_out;
mod parts;
mod steps;

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::super::Split;
use super::trigger::Trigger;
use crate::data::Dataset;
use crate::kernel::Kernels;
use crate::train::{EpochRecord, Network, Observer, SAVED_EVERY, SgdConfig, TrainError, TrainState, cosine};
use held_out::{Balance, HeldOut, Outcome};
use steps::{Round, Steps};

/// The loss of the poisoned part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnlearnLoss {
    /// Complementary cross-entropy, -log(1 - p_y).
    #[default]
    Cce,
    /// Global gradient ascent, -CE (Li et al. 2021, ABL): for comparison.
    Gga,
}

/// Stage 2. The objective is CE(clean) + lambda x loss(poisoned) + CE(restored) / 2.
///
/// The first CE weighs 1 + lambda s for a clean sample whose label a share s of the poisoned samples has. Restored are clean images
/// with the estimated trigger and their own labels, and poisoned ones that the network by now surely calls something else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UnlearnConfig {
    /// At most so many; held-out images may end them earlier.
    pub steps: usize,
    /// The peak of a cosine schedule.
    pub lr: f64,
    /// 0: nothing clean is at hand, lambda x loss(poisoned) is all; batch norm then sees poisoned samples only.
    pub batch_clean: usize,
    /// Flagged images a step, and as many restored ones.
    pub batch_poison: usize,
    /// Weight of the loss on flagged images.
    pub lambda: f32,
    /// The loss on flagged images.
    pub loss: UnlearnLoss,
    /// Learn clean images with the estimated trigger and their own labels, as many as poisoned ones, and poisoned ones by the names that
    /// the network is sure of.
    pub restore: bool,
    /// The optimizer, and how images are augmented.
    pub sgd: SgdConfig,
    /// Of all drawing: images held out, the order of steps, augmentation.
    pub seed: u64,
}

impl UnlearnConfig {
    /// Images a step.
    pub fn batch(&self) -> usize {
        let restored = if self.restore && self.batch_clean > 0 { self.batch_poison } else { 0 };
        self.batch_clean + self.batch_poison + restored
    }
}

const STAGE: &str = "unlearn";
/// Weight of the CE of clean images with the estimated trigger, and of flagged ones that got a name.
const RESTORE: f32 = 0.5;
/// The same where held-out images say what is kept: in use, images with the trigger are rare.
const RESTORED: f32 = 0.125;
/// Steps between two looks at the held-out images.
const CHECK: usize = 25;

/// Where unlearning is: all that its state needs beside tensors.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Position {
    config: UnlearnConfig,
    /// Clean and poisoned images that steps draw from.
    counts: [usize; 2],
    /// Rounds done.
    round: usize,
    /// No step is to come.
    ended: bool,
    /// The round under way, or the last.
    under_way: Round,
    /// Looks at the held-out images, and the best of them.
    checks: usize,
    best: Option<(Outcome, usize)>,
    /// Steps that the network has taken in its life.
    steps: u64,
}

/// The best network's values in the state.
fn of_best(name: &str) -> String {
    format!("best/{name}")
}

impl Position {
    fn save(&self, steps: &Steps, held: Option<&HeldOut>, network: &Network, path: &Path) -> Result<(), TrainError> {
        let (checks, best) = held.map_or((0, None), HeldOut::position);
        let position = Position { under_way: steps.round.clone(), checks, best, steps: network.steps(), ..self.clone() };
        let mut state = steps.state(position)?;
        let best = held.map_or(&[][..], HeldOut::best_values);
        state.tensors.extend(best.iter().map(|(param, values)| (of_best(&param.name), values.clone())));
        state.write(path)
    }

    /// The position that [`Position::save`] wrote, with all else as it was then.
    fn resume(
        self,
        data: &Dataset,
        steps: &mut Steps,
        held: Option<&mut HeldOut>,
        network: &Network,
        path: &Path,
    ) -> Result<Position, TrainError> {
        let mut state = TrainState::<Position>::read(path)?;
        let at = state.position.clone();
        if (&at.config, at.counts) != (&self.config, self.counts) {
            let why = format!("it is the state of unlearning {} images with {:?}", at.counts[1], at.config);
            return Err(TrainError::Checkpoint { path: path.into(), why });
        }
        if let Some(held) = held {
            held.resume(at.checks, at.best, |param| state.tensors.remove(&of_best(&param.name)));
        }
        steps.restore(&state, path)?;
        network.set_steps(at.steps);
        steps.resume(data, at.under_way.clone());
        Ok(at)
    }
}

/// Unlearns what `split` flags from `network` as stage 1 left it; what is flagged in doubt only is in neither part, unless all is. With
/// nothing flagged there is nothing to do.
///
/// Every 25 steps the network is looked at with flagged and clean images that were held out. Of those that have forgotten, the one of
/// the least loss on clean images, bare and with the trigger, is kept. Two looks in a row without a better network end the steps. The weights
/// kept at last are those or, if the held-out images are better off so, a mean of those and of the weights before.
///
/// With `state`, a file, it goes on from there if the file exists (`network` being the one that was unlearned from), and saves itself there
/// after every round and every minute.
///
/// # Errors
/// Everything flagged; a loss that is not finite; a wish to stop, once the state is saved; a disk that refuses; the driver's.
pub fn unlearn(
    kernels: &Kernels,
    network: &Network,
    data: &Dataset,
    split: &Split,
    config: &UnlearnConfig,
    observer: &dyn Observer,
    state: Option<&Path>,
) -> Result<(), TrainError> {
    let (flagged, mut clean): (Vec<usize>, Vec<usize>) = (0..data.len()).partition(|&i| split.flagged[i]);
    if flagged.is_empty() {
        return Ok(());
    }
    let sure: Vec<usize> = flagged.iter().copied().filter(|&i| !split.doubtful(i)).collect();
    let mut poisoned = if sure.is_empty() { flagged } else { sure };
    if clean.is_empty() && config.batch_clean > 0 {
        return Err(TrainError::Data(format!("all {} training samples are flagged: nothing clean to learn from", data.len())));
    }
    observer.begin(STAGE, (config.steps * config.batch()) as u64);
    // Forgetting says "not t" of images of every class. Where the network does not see the trigger, the least of CE + lambda CCE lies at
    // p_t = q / (1 + lambda), q the share of class t among such images: the accused class would pay. With 1 + lambda before its CE,
    // p_t = (1 + lambda) q / (1 + lambda + lambda q).
    let mut kept = vec![1.0f32; data.classes.len()];
    poisoned.iter().for_each(|&i| kept[data.labels[i] as usize] += config.lambda / poisoned.len() as f32);
    let held = if config.batch_clean > 0 { held_out::take(&mut clean, &mut poisoned, config.seed) } else { None };
    let restore = config.restore && config.batch_clean > 0;
    let trigger = if restore { Trigger::estimate(data, &poisoned, &clean) } else { None };
    let mut held = match held {
        Some(held) => {
            let balance = Balance { kept: kept.clone(), restore: RESTORED };
            Some(HeldOut::new(kernels, network, data, &held, trigger.as_ref(), balance, config.batch())?)
        }
        None => None,
    };
    let counts = [clean.len(), poisoned.len()];
    let mut steps = Steps::new(kernels, network, config, kept, trigger, [clean, poisoned])?;
    let rounds = config.steps.div_ceil(CHECK);
    let mut at = Position { config: config.clone(), counts, ..Position::default() };
    match state.filter(|path| path.is_file()) {
        Some(path) => at = at.resume(data, &mut steps, held.as_mut(), network, path)?,
        None => steps.begin(data, 0..config.steps.min(CHECK), observer)?,
    }
    while !at.ended {
        steps.run(kernels, data, SAVED_EVERY, observer)?;
        if steps.round.done() {
            let round = &steps.round;
            let start = Instant::now();
            let (mut loss, mut accuracy) = (round.loss(), round.accuracy(config.batch_clean));
            if let Some(held) = &mut held {
                let checked = held.check(network, observer)?;
                (loss, accuracy, at.ended) = (checked.loss, checked.accuracy, checked.enough);
            }
            let seconds = round.seconds + start.elapsed().as_secs_f64();
            let images = round.range.len() * config.batch() + held.as_ref().map_or(0, HeldOut::len);
            at.round += 1;
            let record = EpochRecord {
                stage: STAGE.into(),
                epoch: at.round,
                epochs: rounds,
                loss,
                accuracy,
                lr: cosine(config.lr, round.range.start, config.steps),
                seconds,
                images_per_second: images as f64 / seconds,
            };
            observer.epoch(&record)?;
            observer.look(&record, network)?;
            at.ended |= at.round == rounds;
            if !at.ended {
                let first = at.round * CHECK;
                steps.begin(data, first..config.steps.min(first + CHECK), observer)?;
            }
        }
        if let Some(path) = state {
            at.save(&steps, held.as_ref(), network, path)?;
        }
        observer.go_on()?;
    }
    if let Some(held) = held {
        held.keep_best(network, observer)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "unlearn_tests.rs"]
mod tests;
