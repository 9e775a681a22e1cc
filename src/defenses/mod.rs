//! Defenses: training data in, a verdict on every sample and a clean network out. They see data and labels as a victim has
//! them: no attack, no ground truth, no test set (tests/floors.rs holds them to it).
//!
//! To add one: a file here, which declares its options too, and a line in [`DEFENSES`].

mod abl;
mod anp;
mod cbd;
mod clp;
mod clustering;
pub mod dau;
mod entropy_pruning;
mod fine_tuning;
mod flare;
mod ft_sam;
mod lab;
mod nad;
mod none;
mod principal;
mod retraining;
mod spectral;
mod split;

pub use lab::{Lab, SCRATCH};
pub use none::Nothing;
pub(crate) use principal::projections;
pub use split::Split;

use serde_json::Value;

use crate::data::Dataset;
use crate::options::{OptionSpec, Options};
use crate::train::{Network, TrainConfig, TrainError};

/// What a defense works on.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    /// The training images, some of them perhaps poisoned.
    pub train: &'a Dataset,
    /// A network that was trained on all of `train`.
    pub victim: &'a Network,
    /// Further images, surely clean; there where the defense asks for some.
    pub clean: Option<&'a Dataset>,
}

impl<'a> Given<'a> {
    /// The clean images, for a defense that asks for some.
    fn clean(&self) -> Result<&'a Dataset, TrainError> {
        self.clean.ok_or_else(|| TrainError::Data("images that are surely clean are needed: set some aside by --reserve".into()))
    }
}

/// What a defense says of the training images.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// The verdict on every image.
    pub split: Split,
    /// What it saw, for a record; null where there is nothing to say.
    pub evidence: Value,
}

/// A defense, in two halves: tell which images are poisoned, then make a clean network.
pub trait Defense: Sync {
    /// What it is called on the command line and in records.
    fn name(&self) -> &'static str;

    /// One line for help texts.
    fn summary(&self) -> &'static str;

    /// Options of [`Defense::detect`].
    fn detect_options(&self) -> &'static [OptionSpec] {
        &[]
    }

    /// Options of [`Defense::purify`].
    fn purify_options(&self) -> &'static [OptionSpec] {
        &[]
    }

    /// Whether it needs images that are surely clean.
    fn needs_clean(&self) -> bool {
        false
    }

    /// Images of its largest step that cannot go through the device in parts; asked before anything is written.
    fn largest_batch(&self, _options: &Options, _training: &TrainConfig) -> usize {
        1
    }

    /// Whether [`Defense::detect`] says anything: a defense that works on the network alone flags no image, and nothing is to be reported of it.
    fn detects(&self) -> bool {
        false
    }

    /// Says which images are poisoned; of a defense that [detects](Defense::detects) nothing, none.
    ///
    /// # Errors
    /// What stops training or prediction; a wish to stop; a disk that refuses.
    fn detect(&self, _lab: &Lab, given: &Given) -> Result<Detection, TrainError> {
        Ok(Detection { split: Split::clean(given.train.len()), evidence: Value::Null })
    }

    /// Makes a network without the backdoor, `split` being the verdict.
    ///
    /// # Errors
    /// As [`Defense::detect`].
    fn purify(&self, lab: &Lab, given: &Given, split: &Split) -> Result<Network, TrainError>;
}

/// The defenses that `dau` knows; the first is the default.
pub static DEFENSES: &[&dyn Defense] = &[
    &dau::Dau,
    &abl::Abl,
    &anp::NeuronPruning,
    &cbd::Cbd,
    &clustering::ActivationClustering,
    &clp::ChannelLipschitz,
    &entropy_pruning::EntropyPruning,
    &fine_tuning::FinePruning,
    &fine_tuning::FineTuning,
    &flare::Flare,
    &ft_sam::SharpnessAware,
    &nad::AttentionDistillation,
    &retraining::Retraining,
    &spectral::SpectralSignatures,
    &none::Nothing,
];

/// Of each class its members, and their rows of `features` [N, D].
fn by_class<'a>(data: &Dataset, features: &'a [f32]) -> Vec<(Vec<usize>, Vec<&'a [f32]>)> {
    let wide = features.len() / data.len().max(1);
    let mut classes = vec![(Vec::new(), Vec::new()); data.classes.len()];
    for (i, label) in data.labels.iter().enumerate() {
        let (members, rows) = &mut classes[*label as usize];
        members.push(i);
        rows.push(&features[i * wide..(i + 1) * wide]);
    }
    classes
}

/// Images a step, at most `batch`, so that the steps of an epoch have nearly as many: in a rest of two images batch norm
/// has nothing to go by.
fn equal_steps(images: usize, batch: usize) -> usize {
    images.div_ceil(images.div_ceil(batch).max(1)).max(1)
}

/// Which lie over the mean by more than so many standard deviations (of a sample, as PyTorch's).
fn outliers(values: &[f64], deviations: f64) -> Vec<usize> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0)).sqrt();
    (0..values.len()).filter(|&i| values[i] > mean + deviations * deviation).collect()
}

/// A fresh network, trained as the victim was on what is not flagged; the victim where nothing is.
fn retrained(lab: &Lab, given: &Given, split: &Split) -> Result<Network, TrainError> {
    let Given { train, victim, .. } = given;
    let kept: Vec<usize> = (0..train.len()).filter(|&i| !split.flagged[i]).collect();
    if kept.len() == train.len() {
        return victim.duplicate(lab.kernels);
    }
    let config = TrainConfig { stage: "train anew".into(), ..lab.training.clone() };
    let start = || Network::new(lab.kernels, &victim.spec, &victim.norm, config.seed);
    lab.trained("retrained", start, &train.subset(&kept), &config)
}

/// The defense called `name`; upper and lower case are the same.
///
/// # Errors
/// An unknown name; the message lists the defenses.
pub fn find(name: &str) -> Result<&'static dyn Defense, UnknownDefense> {
    let known = || DEFENSES.iter().map(|defense| defense.name()).collect::<Vec<_>>().join(", ");
    DEFENSES
        .iter()
        .find(|defense| defense.name().eq_ignore_ascii_case(name))
        .copied()
        .ok_or_else(|| UnknownDefense { name: name.into(), known: known() })
}

/// All options of a defense.
pub fn options_of(defense: &dyn Defense) -> impl Iterator<Item = &'static OptionSpec> + Clone {
    defense.detect_options().iter().chain(defense.purify_options())
}

/// A name that is none of [`DEFENSES`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("unknown defense `{name}`; known are {known}")]
pub struct UnknownDefense {
    name: String,
    known: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_defense_is_found_in_any_case_and_an_unknown_one_answered_with_the_list() {
        for defense in DEFENSES {
            assert_eq!(find(&defense.name().to_lowercase()).expect("known").name(), defense.name());
        }
        let message = find("Mona").err().expect("not known").to_string();
        let known: Vec<&str> = DEFENSES.iter().map(|defense| defense.name()).collect();
        assert_eq!(message, format!("unknown defense `Mona`; known are {}", known.join(", ")));
    }

    #[test]
    fn a_defense_says_whether_it_flags_images() {
        let named = |detects| DEFENSES.iter().filter(|d| d.detects() == detects).map(|d| d.name()).collect::<Vec<_>>();
        assert_eq!(named(true), ["DAU", "ABL", "clustering", "FLARE", "retraining", "spectral"]);
        let options = |defense: &&&dyn Defense| !defense.detect_options().is_empty();
        assert_eq!(DEFENSES.iter().filter(options).filter(|defense| !defense.detects()).count(), 0);
    }

    #[test]
    fn outliers_lie_over_the_mean_by_so_many_deviations() {
        let mut bounds = vec![1.0, 1.2, 0.9, 1.1, 0.8, 1.0, 1.05, 0.95, 1.0, 1.0, 1.0, 1.0, 9.0, 1.0];
        assert_eq!(outliers(&bounds, 3.0), [12]);
        assert_eq!(outliers(&bounds, 4.0), [0; 0]);
        bounds[12] = 0.0;
        assert_eq!(outliers(&bounds, 3.0), [0; 0], "what lies far below is none");
    }

    #[test]
    fn no_step_of_few_images_has_next_to_none() {
        assert_eq!(
            [(66, 64), (64, 64), (12, 64), (2500, 128), (0, 64)].map(|(n, batch)| equal_steps(n, batch)),
            [33, 64, 12, 125, 1]
        );
    }

    #[test]
    fn every_option_belongs_to_one_defense_and_its_default_is_allowed() {
        let mut seen = std::collections::HashSet::new();
        for defense in DEFENSES {
            let all = Options::default().complete(defense.name(), options_of(*defense)).expect("the defaults are allowed");
            assert!(all.complete(defense.name(), options_of(*defense)).is_ok(), "{}", defense.name());
            for option in options_of(*defense) {
                assert!(seen.insert(option.name), "{} is declared twice", option.name);
                assert!(option.name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{}", option.name);
            }
        }
    }
}
