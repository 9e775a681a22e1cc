//! Decoupled Adversarial Unlearning, in two stages.
//!
//! Stage 1, `anti_learn`: train on everything, pre-filter the samples that are learned first, freeze the features, retrain the
//! classifier into a discriminator of poisoned and clean samples, split. Stage 2, `unlearn`: complementary cross-entropy on the
//! poisoned part together with cross-entropy on the clean part.

mod discriminator;
mod prefilter;
mod unlearn;
mod within_class;

use serde::{Deserialize, Serialize};

use discriminator::Discriminator;
pub use discriminator::DiscriminatorConfig;
pub use unlearn::{UnlearnConfig, UnlearnLoss, unlearn};

use crate::data::Dataset;
use crate::kernel::Kernels;
use crate::train::{Network, Observer, Predictor, TrainConfig, TrainError, fit};

/// The verdict on every training sample, in data order.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    pub flagged: Vec<bool>,
    /// D(x), 0 to 1: the discriminator's belief that the sample is poisoned.
    pub score: Vec<f32>,
}

/// Stage 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AntiLearnConfig {
    pub train: TrainConfig,
    /// Share of the samples that the pre-filter takes.
    pub prefilter_share: f64,
    /// Share of the epochs whose losses do not count.
    pub burn_in: f64,
    pub discriminator: DiscriminatorConfig,
    /// Look for two groups within a class of which much was flagged.
    pub within_class: bool,
}

/// Trains `network` on everything and splits the data. Sees images and given labels only.
///
/// # Errors
/// As `fit`; or too few samples to pre-filter.
pub fn anti_learn(
    kernels: &Kernels,
    network: &Network,
    data: &Dataset,
    config: &AntiLearnConfig,
    observer: &dyn Observer,
) -> Result<Split, TrainError> {
    let mut predictor = Predictor::new(kernels, network, config.train.batch.min(data.len()))?;
    let skipped = (config.burn_in * config.train.epochs as f64).floor() as usize;
    let mut loss_sum = vec![0.0f64; data.len()];
    fit(kernels, network, data, &config.train, observer, |epoch| {
        if epoch > skipped {
            observer.begin("record losses", data.len() as u64);
            for (sum, loss) in loss_sum.iter_mut().zip(predictor.run(data, observer)?.loss) {
                *sum += f64::from(loss);
            }
        }
        Ok(())
    })?;
    observer.begin("features", data.len() as u64);
    let features = predictor.run(data, observer)?.features;
    let mut discriminator = Discriminator::new(kernels, &features, data, &config.discriminator, config.train.seed)?;
    let mut score = Vec::new();
    let mut flagged = prefilter::lowest(&loss_sum, data, config.prefilter_share)?;
    for _ in 0..config.discriminator.rounds {
        score = discriminator.round(&flagged, observer)?;
        flagged = verdict(&score);
    }
    if config.within_class && within_class::refine(&mut flagged, &features, data, &loss_sum, config.train.seed) {
        // The groups know which side is which, the discriminator where the border runs.
        score = discriminator.round(&flagged, observer)?;
        flagged = verdict(&score);
    }
    Ok(Split { flagged, score })
}

fn verdict(score: &[f32]) -> Vec<bool> {
    score.iter().map(|d| *d > 0.5).collect()
}
