//! Decoupled Adversarial Unlearning, in two stages.
//!
//! Stage 1, `scan`, of a network that was trained on everything: let the images say which set, if any, is separate from everything else;
//! freeze the features, and draw the border between poisoned and clean samples with them. Stage 2, `unlearn`: complementary
//! cross-entropy on the poisoned part together with cross-entropy on the clean part.

mod answer;
mod candidates;
mod defense;
mod discriminator;
mod duplicates;
mod evidence;
mod features;
mod products;
mod recut;
mod ridge;
mod split;
mod statistics;
mod transplant;
mod trigger;
mod unlearn;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use answer::{Answer, Doubt};
pub use defense::{Dau, FINDINGS};
use discriminator::Discriminator;
pub use discriminator::DiscriminatorConfig;
use evidence::Evidence;
pub use evidence::{ClassEvidence, Finding, PooledEvidence, RATIO, SEPARATE};
use ridge::Ridge;
pub use split::Border;
use statistics::Moments;
pub use unlearn::{UnlearnConfig, UnlearnLoss, unlearn};

use super::Split;
use crate::data::Dataset;
use crate::kernel::Kernels;
use crate::train::{Network, Observer, Predictor, SAVED_EVERY, TrainError};

/// What stage 1 found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// Whether there is a backdoor.
    pub answer: Answer,
    /// Why there is too little to say; empty with another answer.
    pub doubts: Vec<Doubt>,
    /// The verdict on every sample.
    pub split: Split,
    /// How far each sample lies on the side of its class's most separate set, times that set's separation, in data order; also where the
    /// set is not held to be poison: so that there is an order to look at.
    pub suspicion: Vec<f32>,
    /// What was seen of each class, by label.
    pub classes: Vec<ClassEvidence>,
    /// None where there are too few images.
    pub pooled: Option<PooledEvidence>,
    /// Whether the poison goes through all classes.
    pub all_to_all: bool,
}

impl Findings {
    /// What `split` says, without any evidence.
    #[cfg(test)]
    pub(crate) fn of(split: Split) -> Findings {
        let (answer, doubts) = answer::answer(split.flagged.contains(&true), split.flagged.len(), &[], None);
        let suspicion = vec![0.0; split.flagged.len()];
        Findings { answer, doubts, split, suspicion, classes: Vec::new(), pooled: None, all_to_all: false }
    }
}

/// Stage 1, beside training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageOneConfig {
    /// Images at a time when features are computed.
    pub batch: usize,
    /// Of the discriminator's weights.
    pub seed: u64,
    /// What sets the border of a set that is held to be poison.
    pub border: Border,
    /// Share of the samples that the discriminator begins with.
    pub prefilter_share: f64,
    /// Of [`Border::Classifier`].
    pub discriminator: DiscriminatorConfig,
}

/// Splits the data that `network` was trained on, and leaves the network as it is. Sees images and given labels only. Features are kept
/// in the file `state` while they come, and not made again where it is there.
///
/// # Errors
/// Images of another size; features that are not finite; a wish to stop; the driver's.
pub fn scan(
    kernels: &Kernels,
    network: &Network,
    data: &Dataset,
    config: &StageOneConfig,
    observer: &dyn Observer,
    state: &Path,
) -> Result<Findings, TrainError> {
    network.check_size(data.size)?;
    let mut predictor = Predictor::new(kernels, network, config.batch.min(data.len()))?;
    observer.begin("features", data.len() as u64);
    let (class, features) = predictor.features(data, observer, state, SAVED_EVERY)?;
    judge(kernels, &features, data, config, observer, Some((&mut predictor, &class)))
}

/// Splits the data by its images and the frozen `features` [N, D] that a network trained on it has of them; with the `network` itself
/// and the classes [N] that it takes the images for, a group of images is also accused for working as a trigger.
///
/// # Errors
/// Features that are not finite or over the adapter's limits; a wish to stop; the driver's.
pub fn judge(
    kernels: &Kernels,
    features: &[f32],
    data: &Dataset,
    config: &StageOneConfig,
    observer: &dyn Observer,
    network: Option<(&mut Predictor, &[u32])>,
) -> Result<Findings, TrainError> {
    let ridge = Ridge::new(data, features, observer)?;
    let mut evidence = evidence::find(&ridge, data, observer)?;
    evidence.confirm(&ridge);
    if let Some((network, said)) = network {
        transplant::try_all(&mut evidence, &ridge, data, (network, said), observer)?;
    }
    let images = split::by_images(&evidence, data.len());
    let accused = images.iter().any(|o| *o > 0.0);
    let odds = match config.border {
        _ if !accused => images,
        Border::Images => images,
        Border::Features => split::by_features(&evidence, &ridge),
        Border::Classifier => {
            let discriminator = Discriminator::new(kernels, features, data, &config.discriminator, config.seed)?;
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
        let [inside, _] = Moments::of_groups(&class.score, &class.set);
        let scale = (class.seen.separation / inside.mean.max(1e-6)) as f32;
        class.members.iter().zip(&class.score).for_each(|(i, s)| suspicion[*i] = scale * s);
        // Near-duplicates are to be looked at first where they are more separate than the class's set.
        let copies = class.members.iter().zip(&class.duplicates).filter(|(_, d)| **d);
        copies.for_each(|(i, _)| suspicion[*i] = suspicion[*i].max(class.seen.duplicates_separation as f32));
    }
    if let Some(pooled) = evidence.pooled.as_ref().filter(|_| evidence.pooled_accused) {
        suspicion.clone_from(&pooled.score);
    }
    let split = split::cut(odds);
    let classes: Vec<ClassEvidence> = evidence.classes.into_iter().map(|c| c.seen).collect();
    let (pooled, all_to_all) = (evidence.pooled.map(|p| p.seen), evidence.pooled_accused);
    let (answer, doubts) = answer::answer(split.flagged.contains(&true), data.len(), &classes, pooled.as_ref());
    Findings { answer, doubts, split, suspicion, classes, pooled, all_to_all }
}
