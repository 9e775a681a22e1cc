//! Decoupled Adversarial Unlearning, in two stages.
//!
//! Stage 1, `anti_learn`: train on everything, pre-filter the samples that are learned first, freeze the features, retrain the
//! classifier into a discriminator of poisoned and clean samples, split. Stage 2, `unlearn`: complementary cross-entropy on the
//! poisoned part together with cross-entropy on the clean part.

mod discriminator;
mod halves;
mod prefilter;
mod ridge;
mod shallow;
mod transfer;
mod unlearn;
mod within_class;

use serde::{Deserialize, Serialize};

use discriminator::Discriminator;
pub use discriminator::DiscriminatorConfig;
pub use halves::{ClassEvidence, Finding};
use ridge::{Ridge, View};
use transfer::Transfer;
pub use unlearn::{UnlearnConfig, UnlearnLoss, unlearn};

use crate::data::Dataset;
use crate::kernel::Kernels;
use crate::train::{Network, Observer, Predictions, Predictor, TrainConfig, TrainError, fit};

/// The verdict on every training sample, in data order.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Not to be learned as it is: held to be poisoned or, by evidence, too doubtful (D(x) over [`DOUBT`]).
    pub flagged: Vec<bool>,
    /// D(x), 0 to 1: the discriminator's belief that the sample is poisoned.
    pub score: Vec<f32>,
}

impl Split {
    /// Whether sample `i` is flagged though it is more likely clean than poisoned.
    pub fn doubtful(&self, i: usize) -> bool {
        self.flagged[i] && self.score[i] <= MAJORITY
    }
}

/// A sample of a class with a backdoor is flagged from this belief on: a poisoned image that is kept does more harm than seven clean
/// ones that are not.
const DOUBT: f32 = 1.0 / 8.0;
/// Belief over which a sample is more likely poisoned than not.
const MAJORITY: f32 = 0.5;

/// What stage 1 found.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    pub split: Split,
    /// How far each sample lies on the suspect side of its class, in data order: about -1 to 1, also where no backdoor was
    /// confirmed, so that there is an order to look at. By loss: the score.
    pub suspicion: Vec<f32>,
    /// By class; empty by loss.
    pub classes: Vec<ClassEvidence>,
}

/// Where stage 1's first suspects come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prefilter {
    /// Halves of a class by left-out ridge regression, confirmed by leaving each half out and by what it does to other classes; may find
    /// nothing.
    #[default]
    Ridge,
    /// The samples of lowest loss during training; always finds some.
    Loss,
}

/// Stage 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AntiLearnConfig {
    pub train: TrainConfig,
    pub prefilter: Prefilter,
    /// By ridge: a class is flagged only if a model that has not seen its suspect half calls it by many other classes' names, or what
    /// sets that half apart takes other classes' images along. Without, two distinct halves are enough, which varieties of clean
    /// classes are, too.
    pub confirm: bool,
    /// Share of the samples that the pre-filter takes.
    pub prefilter_share: f64,
    /// By loss: share of the epochs whose losses do not count.
    pub burn_in: f64,
    pub discriminator: DiscriminatorConfig,
    /// By loss: look for two groups within a class of which much was flagged.
    pub within_class: bool,
}

/// Evidence of the images weighs so much beside the discriminator's log-odds.
const EVIDENCE: f32 = 10.0;

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
) -> Result<Findings, TrainError> {
    let count = prefilter::count(config.prefilter_share, data.len())?;
    if config.prefilter == Prefilter::Ridge {
        fit(kernels, network, data, &config.train, observer, |_| Ok(()))?;
        return scan(kernels, network, data, config, observer);
    }
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
    let discriminator = Discriminator::new(kernels, &features, data, &config.discriminator, config.train.seed)?;
    let first = prefilter::lowest(&loss_sum, data, count);
    let split = split_by_loss(discriminator, &features, data, &first, &loss_sum, config, observer)?;
    Ok(Findings { suspicion: split.score.clone(), split, classes: Vec::new() })
}

/// Splits the data that `network` was trained on, by [`Prefilter::Ridge`], and leaves the network as it is. Sees images and given
/// labels only.
///
/// # Errors
/// Images of another size; too few samples to pre-filter; a wish to stop; the driver's.
pub fn scan(
    kernels: &Kernels,
    network: &Network,
    data: &Dataset,
    config: &AntiLearnConfig,
    observer: &dyn Observer,
) -> Result<Findings, TrainError> {
    let count = prefilter::count(config.prefilter_share, data.len())?;
    network.check_size(data.size)?;
    let mut predictor = Predictor::new(kernels, network, config.train.batch.min(data.len()))?;
    observer.begin("features", data.len() as u64);
    let Predictions { class: called, features, .. } = predictor.run(data, observer)?;
    observer.begin("ridge regression", 1);
    let ridge = Ridge::new(&shallow::features(data), &features, data.len())?;
    let mut transfer = Transfer { predictor, data, called: &called };
    let halves = halves::find(&ridge, data, config.confirm, |class, half, rest| transfer.share(class, half, rest), observer)?;
    let mut suspicion = vec![0.0; data.len()];
    halves.iter().flat_map(|h| &h.members).for_each(|(i, m)| suspicion[*i] = *m);
    let classes: Vec<ClassEvidence> = halves.into_iter().map(|h| h.seen).collect();
    let discriminator = Discriminator::new(kernels, &features, data, &config.discriminator, config.train.seed)?;
    let split = split_by_evidence(discriminator, &ridge, data, (&classes, &suspicion), count, config, observer)?;
    Ok(Findings { split, suspicion, classes })
}

/// From each class with a poisoned half the surest samples begin; then every round both discriminators, the network's and the
/// images', learn the last verdict, and their log-odds add up to the next. Classes without one stay unflagged.
fn split_by_evidence(
    mut discriminator: Discriminator,
    ridge: &Ridge,
    data: &Dataset,
    (classes, suspicion): (&[ClassEvidence], &[f32]),
    count: usize,
    config: &AntiLearnConfig,
    observer: &dyn Observer,
) -> Result<Split, TrainError> {
    let mut split = Split { flagged: vec![false; data.len()], score: vec![0.0; data.len()] };
    let poisoned: Vec<u32> = classes.iter().filter(|c| c.finding == Finding::Backdoor).map(|c| c.class).collect();
    if poisoned.is_empty() {
        return Ok(split);
    }
    let mut surest: Vec<usize> = (0..data.len()).filter(|&i| poisoned.contains(&data.labels[i]) && suspicion[i] > 0.0).collect();
    surest.iter().for_each(|i| split.flagged[*i] = true);
    surest.sort_by(|&a, &b| suspicion[b].total_cmp(&suspicion[a]));
    let mut believed = vec![false; data.len()];
    surest.iter().take(count).for_each(|i| believed[*i] = true);
    for _ in 0..config.discriminator.rounds {
        let belief = discriminator.round(&believed, observer)?;
        for class in &poisoned {
            let members: Vec<usize> = (0..data.len()).filter(|&i| data.labels[i] == *class).collect();
            let evidence = halves::evidence(ridge, View::Shallow, &split.flagged, &members);
            for (&i, e) in members.iter().zip(evidence) {
                let d = belief[i].clamp(1e-6, 1.0 - 1e-6);
                split.score[i] = 1.0 / (1.0 + (1.0 - d) / d * (-EVIDENCE * e).exp());
            }
        }
        split.flagged = over(MAJORITY, &split.score);
        believed.clone_from(&split.flagged);
    }
    split.flagged = over(DOUBT, &split.score);
    Ok(split)
}

/// The samples of lowest loss begin; each round the discriminator learns its last verdict.
fn split_by_loss(
    mut discriminator: Discriminator,
    features: &[f32],
    data: &Dataset,
    first: &[bool],
    loss: &[f64],
    config: &AntiLearnConfig,
    observer: &dyn Observer,
) -> Result<Split, TrainError> {
    let mut split = Split { flagged: first.to_vec(), score: Vec::new() };
    let mut round = |split: &mut Split| -> Result<(), TrainError> {
        split.score = discriminator.round(&split.flagged, observer)?;
        split.flagged = over(MAJORITY, &split.score);
        Ok(())
    };
    for _ in 0..config.discriminator.rounds {
        round(&mut split)?;
    }
    if config.within_class && within_class::refine(&mut split.flagged, features, data, loss, config.train.seed) {
        // The groups know which side is which, the discriminator where the border runs.
        round(&mut split)?;
    }
    Ok(split)
}

fn over(belief: f32, score: &[f32]) -> Vec<bool> {
    score.iter().map(|d| *d > belief).collect()
}
