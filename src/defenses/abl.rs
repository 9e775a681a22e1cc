//! Anti-Backdoor Learning (Li et al., 2021): poisoned images are learned first, so the images of the least loss after a few epochs are
//! held to be poisoned; then the network learns the rest, and last forgets the isolated images by gradient ascent.
//!
//! The authors' code takes the sign of a batch's mean loss, whose gradient is flooding's; the paper's formula takes it image by image, and then
//! poisoned images are held at the level as all others are, and do not stand out.
//!
//! After the recipe of the authors' code, but for: a cosine schedule in each of the three trainings, with the batch, the weight decay and
//! the peak learning rate of the victim's training; as many epochs on the rest as the victim had; no cutout.

use serde_json::json;

use super::{Defense, Detection, Given, Lab, Split};
use crate::ops::LossKind;
use crate::options::{Kind, OptionSpec, Options};
use crate::train::{Network, SgdConfig, TrainConfig, TrainError, Wanted, predict};

/// The defense, as it is listed.
pub(super) struct Abl;

const LOSS: OptionSpec = OptionSpec {
    name: "abl_loss",
    help: "loss of the training that isolates: flooding, |CE - level| + level of a batch's mean CE, or lga, sign(CE - level) CE of each image",
    kind: Kind::Word { default: "flooding", among: &["flooding", "lga"] },
};
const LEVEL: OptionSpec = OptionSpec {
    name: "abl_level",
    help: "level that the loss is held at while isolating",
    kind: Kind::Number { default: 0.5, allowed: |x| x >= 0.0 && x.is_finite(), words: "a loss of 0 or more" },
};
const ISOLATION_EPOCHS: OptionSpec = OptionSpec {
    name: "abl_isolation_epochs",
    help: "epochs of the training that isolates",
    kind: Kind::Number {
        default: 10.0,
        allowed: |x| (1.0..=1e6).contains(&x) && x.fract() == 0.0,
        words: "a whole number from 1 to 1000000",
    },
};
const SHARE: OptionSpec = OptionSpec {
    name: "abl_share",
    help: "share of the training images to isolate, those of the least loss",
    kind: Kind::Number { default: 0.01, allowed: |x| x > 0.0 && x < 1.0, words: "a share between 0 and 1" },
};
const UNLEARN_EPOCHS: OptionSpec = OptionSpec {
    name: "abl_unlearn_epochs",
    help: "epochs of gradient ascent on the isolated images",
    kind: Kind::Number {
        default: 5.0,
        allowed: |x| (1.0..=1e6).contains(&x) && x.fract() == 0.0,
        words: "a whole number from 1 to 1000000",
    },
};
const UNLEARN_LR: OptionSpec = OptionSpec {
    name: "abl_unlearn_lr",
    help: "peak learning rate of gradient ascent",
    kind: Kind::Number { default: 5e-4, allowed: |x| x > 0.0 && x.is_finite(), words: "a number above 0" },
};

/// The network after isolation, and after it has learned the rest.
const ISOLATING: &str = "abl-isolating";
const LEARNED: &str = "abl-learned";

/// The loss of the training that isolates.
fn isolation_loss(options: &Options) -> LossKind {
    let level = options.number(&LEVEL) as f32;
    match options.word(&LOSS) {
        "lga" => LossKind::LocalAscent { level },
        _ => LossKind::Flooding { level },
    }
}

impl Defense for Abl {
    fn name(&self) -> &'static str {
        "ABL"
    }

    fn summary(&self) -> &'static str {
        "isolates what is learned first, learns the rest, forgets the isolated by gradient ascent"
    }

    fn detect_options(&self) -> &'static [OptionSpec] {
        &[LOSS, LEVEL, ISOLATION_EPOCHS, SHARE]
    }

    fn purify_options(&self) -> &'static [OptionSpec] {
        &[UNLEARN_EPOCHS, UNLEARN_LR]
    }

    fn largest_batch(&self, options: &Options, training: &TrainConfig) -> usize {
        // Flooding asks for the mean loss of the whole batch; all else can go in parts.
        if matches!(isolation_loss(options), LossKind::Flooding { .. }) { training.batch } else { 1 }
    }

    fn detects(&self) -> bool {
        true
    }

    fn detect(&self, lab: &Lab, given: &Given) -> Result<Detection, TrainError> {
        let data = given.train;
        let network = isolating(lab, given)?;
        let loss = predict(lab.kernels, &network, data, lab.training.batch, &[Wanted::Loss], lab.observer, "losses")?.loss;
        let count = ((lab.options.number(&SHARE) * data.len() as f64) as usize).clamp(1, data.len());
        let isolated = lowest(&loss, count);
        let (least, most) = (isolated.first().map(|i| loss[*i]), isolated.last().map(|i| loss[*i]));
        let mut flagged = vec![false; data.len()];
        isolated.iter().for_each(|i| flagged[*i] = true);
        let score = loss.iter().map(|loss| (-loss).exp()).collect();
        Ok(Detection { split: Split { flagged, score }, evidence: json!({"isolated": count, "losses": [least, most]}) })
    }

    fn purify(&self, lab: &Lab, given: &Given, split: &Split) -> Result<Network, TrainError> {
        let data = given.train;
        let (isolated, rest): (Vec<usize>, Vec<usize>) = (0..data.len()).partition(|&i| split.flagged[i]);
        let config = TrainConfig { stage: "learn the rest".into(), ..lab.training.clone() };
        let start = || isolating(lab, given);
        let learned = lab.trained(LEARNED, start, &data.subset(&rest), &config)?;
        if isolated.is_empty() {
            return Ok(learned);
        }
        let config = TrainConfig {
            stage: "unlearn".into(),
            loss: LossKind::GradientAscent,
            epochs: lab.options.count(&UNLEARN_EPOCHS),
            lr: lab.options.number(&UNLEARN_LR),
            ..lab.training.clone()
        };
        lab.trained("abl-unlearned", || Ok(learned), &data.subset(&isolated), &config)
    }
}

/// A fresh network, trained so that what is learned easily stands out by its loss. Without augmentation, as the authors do.
fn isolating(lab: &Lab, given: &Given) -> Result<Network, TrainError> {
    let Given { train, victim, .. } = given;
    let config = TrainConfig {
        stage: "isolate".into(),
        loss: isolation_loss(lab.options),
        epochs: lab.options.count(&ISOLATION_EPOCHS),
        sgd: SgdConfig { crop_pad: 0, flip: false, ..lab.training.sgd },
        ..lab.training.clone()
    };
    lab.trained(ISOLATING, || Network::new(lab.kernels, &victim.spec, &victim.norm, config.seed), train, &config)
}

/// The `count` indices of the least values, the least first.
fn lowest(values: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn isolates_the_images_of_the_least_loss() {
        assert_eq!(lowest(&[0.3, 0.01, 2.0, 0.02, 0.01], 3), [1, 4, 3]);
    }

    #[test]
    fn the_isolating_loss_is_held_at_the_level() {
        let options = Options::from([("abl_level", 0.25.into())]);
        assert_eq!(isolation_loss(&options), LossKind::Flooding { level: 0.25 });
        let options = Options::from([("abl_loss", "lga".into())]);
        assert_eq!(isolation_loss(&options), LossKind::LocalAscent { level: 0.5 });
    }
}
