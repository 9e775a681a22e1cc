//! Stage 2: forget the poisoned part, keep the clean one, bring home what bears the trigger, in joint batches.

mod held_out;
mod parts;
mod steps;
mod trigger;

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Split;
use crate::data::Dataset;
use crate::kernel::Kernels;
use crate::train::{EpochRecord, Network, Observer, SgdConfig, TrainError, cosine};
use held_out::{Balance, HeldOut};
use steps::Steps;
use trigger::Trigger;

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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnlearnConfig {
    /// At most so many; held-out images may end them earlier.
    pub steps: usize,
    /// The peak of a cosine schedule.
    pub lr: f64,
    /// 0: nothing clean is at hand, lambda x loss(poisoned) is all; batch norm then sees poisoned samples only.
    pub batch_clean: usize,
    pub batch_poison: usize,
    pub lambda: f32,
    pub loss: UnlearnLoss,
    /// Learn clean images with the estimated trigger and their own labels, as many as poisoned ones, and poisoned ones by the names that
    /// the network is sure of.
    pub restore: bool,
    pub sgd: SgdConfig,
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
/// Steps between two looks at the held-out images.
const CHECK: usize = 25;

/// Unlearns what `split` flags from `network` as stage 1 left it; what is flagged in doubt only is in neither part, unless all is. With
/// nothing flagged there is nothing to do.
///
/// Every 25 steps the network is looked at with flagged and clean images that were held out. Of those that have forgotten, the one of
/// the least loss on clean images, bare and with the trigger, is kept. Two looks in a row without a better network end the steps. The weights
/// kept at last are those or, if the held-out images are better off so, a mean of those and of the weights before.
///
/// # Errors
/// Everything flagged; a loss that is not finite; a wish to stop; the driver's.
pub fn unlearn(
    kernels: &Kernels,
    network: &Network,
    data: &Dataset,
    split: &Split,
    config: &UnlearnConfig,
    observer: &dyn Observer,
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
            let balance = Balance { kept: kept.clone(), restore: RESTORE };
            Some(HeldOut::new(kernels, network, data, &held, trigger.as_ref(), balance, config.batch())?)
        }
        None => None,
    };
    let mut steps = Steps::new(kernels, network, config, kept, trigger, [clean, poisoned])?;
    let rounds = config.steps.div_ceil(CHECK);
    for round in 0..rounds {
        let (first, last) = (round * CHECK, config.steps.min((round + 1) * CHECK));
        let start = Instant::now();
        let (mut loss, mut accuracy) = steps.run(kernels, data, first..last, observer)?;
        let mut enough = false;
        if let Some(held) = &mut held {
            let checked = held.check(network, observer)?;
            (loss, accuracy, enough) = (checked.loss, checked.accuracy, checked.enough);
        }
        let seconds = start.elapsed().as_secs_f64();
        let images = (last - first) * config.batch() + held.as_ref().map_or(0, HeldOut::len);
        observer.epoch(&EpochRecord {
            stage: STAGE.into(),
            epoch: round + 1,
            epochs: rounds,
            loss,
            accuracy,
            lr: cosine(config.lr, first, config.steps),
            seconds,
            images_per_second: images as f64 / seconds,
        });
        if enough {
            break;
        }
    }
    if let Some(held) = held {
        held.keep_best(network, observer)?;
    }
    Ok(())
}
