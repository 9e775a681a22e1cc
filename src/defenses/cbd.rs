//! CBD (Zhang et al. 2023, "Backdoor Defense via Deconfounded Representation Learning"): a network that was trained for a few epochs has
//! learned the backdoor and little else; a second one is trained with the images counting most that the first finds hard.
//!
//! As in the authors' code with its defaults, which leaves out the paper's adversarial and information terms: the weight of an image is
//! b / (b + c) over the batch's mean of these, b and c being its cross-entropies in the first and in the second network. Deviations: b is
//! taken once, of the image without augmentation; both trainings have the cosine schedule, the batch and the peak learning rate of the
//! victim's, and the second has its epochs.

use super::{Defense, Given, Lab, Split};
use crate::ops::LossKind;
use crate::options::{Kind, OptionSpec, Options};
use crate::train::{Network, TrainConfig, TrainError, Wanted, predict};

/// The defense, as it is listed.
pub struct Cbd;

const BIASED_EPOCHS: OptionSpec = OptionSpec {
    name: "cbd_biased_epochs",
    help: "epochs of the first network, which is meant to learn the backdoor and little else",
    kind: Kind::Number {
        default: 5.0,
        allowed: |x| (1.0..=1e6).contains(&x) && x.fract() == 0.0,
        words: "a whole number from 1 to 1000000",
    },
};

impl Defense for Cbd {
    fn name(&self) -> &'static str {
        "CBD"
    }

    fn summary(&self) -> &'static str {
        "trains anew with the images counting most that a briefly trained network finds hard"
    }

    fn purify_options(&self) -> &'static [OptionSpec] {
        &[BIASED_EPOCHS]
    }

    fn largest_batch(&self, _: &Options, training: &TrainConfig) -> usize {
        // Weights are shared out over a whole batch.
        training.batch
    }

    fn purify(&self, lab: &Lab, given: &Given, _: &Split) -> Result<Network, TrainError> {
        let Given { train, victim, .. } = given;
        let fresh = |seed| move || Network::new(lab.kernels, &victim.spec, &victim.norm, seed);
        let seed = lab.training.seed;
        let config = TrainConfig { stage: "bias".into(), epochs: lab.options.count(&BIASED_EPOCHS), ..lab.training.clone() };
        let biased = lab.trained("cbd-biased", fresh(seed), train, &config)?;
        let losses = predict(lab.kernels, &biased, train, lab.training.batch, &[Wanted::Loss], lab.observer, "losses")?.loss;
        let config = TrainConfig { stage: "deconfound".into(), loss: LossKind::Reweighed, ..lab.training.clone() };
        lab.trained_weighed("cbd-clean", fresh(seed.wrapping_add(1)), train, Some(losses), &config)
    }
}
