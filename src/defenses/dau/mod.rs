//! Decoupled Adversarial Unlearning, in two stages.
//!
//! Stage 1, `anti_learn`: train on everything; let the images say which set, if any, is separate from everything else; freeze the
//! features, retrain the classifier into a discriminator of poisoned and clean samples, split. Stage 2, `unlearn`: complementary
//! cross-entropy on the poisoned part together with cross-entropy on the clean part.

mod candidates;
mod discriminator;
mod duplicates;
mod evidence;
mod features;
mod ridge;
mod split;
mod statistics;
mod unlearn;

use serde::{Deserialize, Serialize};

use discriminator::Discriminator;
pub use discriminator::DiscriminatorConfig;
use evidence::Evidence;
pub use evidence::{ClassEvidence, Finding, PooledEvidence};
use ridge::Ridge;
pub use split::{Border, Split};
pub use unlearn::{UnlearnConfig, UnlearnLoss, unlearn};

use crate::data::Dataset;
use crate::kernel::Kernels;
use crate::train::{Network, Observer, Predictor, TrainConfig, TrainError, fit};

/// What stage 1 found.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    pub split: Split,
    /// How far each sample lies on the side of its class's most separate set, in data order, also where that set is not held to be
    /// poison: so that there is an order to look at.
    pub suspicion: Vec<f32>,
    pub classes: Vec<ClassEvidence>,
    /// None where there are too few images.
    pub pooled: Option<PooledEvidence>,
    /// Whether the poison goes through all classes.
    pub all_to_all: bool,
}

/// Stage 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AntiLearnConfig {
    pub train: TrainConfig,
    /// What sets the border of a set that is held to be poison.
    pub border: Border,
    /// Share of the samples that the discriminator begins with.
    pub prefilter_share: f64,
    pub discriminator: DiscriminatorConfig,
}

/// Trains `network` on everything and splits the data. Sees images and given labels only.
///
/// # Errors
/// As `fit` and [`scan`].
pub fn anti_learn(
    kernels: &Kernels,
    network: &Network,
    data: &Dataset,
    config: &AntiLearnConfig,
    observer: &dyn Observer,
) -> Result<Findings, TrainError> {
    fit(kernels, network, data, &config.train, observer, |_| Ok(()))?;
    scan(kernels, network, data, config, observer)
}

/// Splits the data that `network` was trained on, and leaves the network as it is. Sees images and given labels only.
///
/// # Errors
/// Images of another size; features that are not finite; a wish to stop; the driver's.
pub fn scan(
    kernels: &Kernels,
    network: &Network,
    data: &Dataset,
    config: &AntiLearnConfig,
    observer: &dyn Observer,
) -> Result<Findings, TrainError> {
    network.check_size(data.size)?;
    let mut predictor = Predictor::new(kernels, network, config.train.batch.min(data.len()))?;
    observer.begin("features", data.len() as u64);
    let features = predictor.run(data, observer)?.features;
    judge(kernels, &features, data, config, observer)
}

/// Splits the data by its images and the frozen `features` [N, D] that a network trained on it has of them.
///
/// # Errors
/// Features that are not finite or over the adapter's limits; a wish to stop; the driver's.
pub fn judge(
    kernels: &Kernels,
    features: &[f32],
    data: &Dataset,
    config: &AntiLearnConfig,
    observer: &dyn Observer,
) -> Result<Findings, TrainError> {
    let ridge = Ridge::new(data, features, observer)?;
    let evidence = evidence::find(&ridge, data, observer)?;
    let images = split::by_images(&evidence, data.len());
    let accused = images.iter().any(|o| *o > 0.0);
    let odds = match config.border {
        _ if !accused => images,
        Border::Images => images,
        Border::Features => split::by_features(&evidence, &ridge),
        Border::Classifier => {
            let discriminator = Discriminator::new(kernels, features, data, &config.discriminator, config.train.seed)?;
            let count = ((config.prefilter_share * data.len() as f64).round() as usize).max(1);
            split::by_classifier(&images, discriminator, count, config.discriminator.rounds, observer)?
        }
    };
    Ok(findings(data, evidence, &odds))
}

/// Splits the data by its images alone: no network is needed. Sees images and given labels only.
///
/// # Errors
/// A wish to stop; fewer than two images.
pub fn examine(data: &Dataset, observer: &dyn Observer) -> Result<Findings, TrainError> {
    let ridge = Ridge::new(data, &[], observer)?;
    let evidence = evidence::find(&ridge, data, observer)?;
    let odds = split::by_images(&evidence, data.len());
    Ok(findings(data, evidence, &odds))
}

fn findings(data: &Dataset, evidence: Evidence, odds: &[f32]) -> Findings {
    let mut suspicion = vec![0.0; data.len()];
    for class in &evidence.classes {
        class.members.iter().zip(&class.score).for_each(|(i, s)| suspicion[*i] = *s);
    }
    if let Some(pooled) = evidence.pooled.as_ref().filter(|_| evidence.pooled_accused) {
        suspicion.clone_from(&pooled.score);
    }
    Findings {
        split: split::cut(data, odds),
        suspicion,
        classes: evidence.classes.into_iter().map(|c| c.seen).collect(),
        pooled: evidence.pooled.map(|p| p.seen),
        all_to_all: evidence.pooled_accused,
    }
}
