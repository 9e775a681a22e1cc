//! Anti-Backdoor Learning (Li et al., 2021): poisoned images are learned first, so the images of the least loss after a few epochs are
//! held to be poisoned; then the network learns the rest, and last forgets the isolated images by gradient ascent.
//!
//! The authors' code takes the sign of a batch's mean loss, whose gradient is flooding's; the paper's formula takes it image by image, and then
//! poisoned images are held at the level as all others are, and do not stand out.
//!
//! After the recipe of the authors' code, but for: a cosine schedule in each of the three trainings, with the batch and the weight decay of
//! the victim's, in the first two with its peak learning rate, in the last with the authors' rate as its mean; as many epochs on the rest as
//! the victim had; no cutout. The last has the number of steps that the authors' five epochs are with 500 isolated images in batches of 64:
//! five epochs of fewer images are so few steps that next to nothing is forgotten (47 of 5,000 photographs: 5 steps, docs/results.md).

use serde_json::json;

use super::{Defense, Detection, Given, Lab, Split, equal_steps};
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
const UNLEARN_STEPS: OptionSpec = OptionSpec {
    name: "abl_unlearn_steps",
    help: "steps of gradient ascent on the isolated images, in whole epochs",
    kind: Kind::Number {
        default: 40.0,
        allowed: |x| (1.0..=1e6).contains(&x) && x.fract() == 0.0,
        words: "a whole number from 1 to 1000000",
    },
};
const UNLEARN_LR: OptionSpec = OptionSpec {
    name: "abl_unlearn_lr",
    help: "mean learning rate of gradient ascent, whose schedule is a cosine",
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
        &[UNLEARN_STEPS, UNLEARN_LR]
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
        let config = unlearning(lab.options, lab.training, isolated.len());
        lab.trained("abl-unlearned", || Ok(learned), &data.subset(&isolated), &config)
    }
}

/// Gradient ascent on so many `isolated` images, at least one.
fn unlearning(options: &Options, training: &TrainConfig, isolated: usize) -> TrainConfig {
    let batch = equal_steps(isolated, training.batch);
    TrainConfig {
        stage: "unlearn".into(),
        loss: LossKind::GradientAscent,
        epochs: options.count(&UNLEARN_STEPS).div_ceil(isolated.div_ceil(batch)),
        batch,
        // A cosine's mean is half of its peak.
        lr: 2.0 * options.number(&UNLEARN_LR),
        sgd: as_they_are(training),
        ..training.clone()
    }
}

/// Training on images without augmentation, as the authors isolate and unlearn.
fn as_they_are(training: &TrainConfig) -> SgdConfig {
    SgdConfig { crop_pad: 0, flip: false, ..training.sgd }
}

/// A fresh network, trained so that what is learned easily stands out by its loss.
fn isolating(lab: &Lab, given: &Given) -> Result<Network, TrainError> {
    let Given { train, victim, .. } = given;
    let config = TrainConfig {
        stage: "isolate".into(),
        loss: isolation_loss(lab.options),
        epochs: lab.options.count(&ISOLATION_EPOCHS),
        sgd: as_they_are(lab.training),
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
    use crate::train::cosine;

    #[test]
    fn isolates_the_images_of_the_least_loss() {
        assert_eq!(lowest(&[0.3, 0.01, 2.0, 0.02, 0.01], 3), [1, 4, 3]);
    }

    /// The authors': five epochs of 500 images in batches of 64 at 5e-4.
    #[test]
    fn few_isolated_images_are_forgotten_as_thoroughly_as_many() {
        let sgd = SgdConfig { crop_pad: 4, flip: true, ..SgdConfig::default() };
        let (loss, learns) = (LossKind::CrossEntropy, vec![]);
        let training = TrainConfig { stage: "train".into(), loss, epochs: 7, batch: 64, lr: 0.1, sgd, learns, rho: 0.0, seed: 5 };
        for (isolated, epochs, batch) in [(500, 5, 63), (47, 40, 47), (65, 20, 33), (1, 40, 1)] {
            let config = unlearning(&Options::default(), &training, isolated);
            assert_eq!((config.epochs, config.batch), (epochs, batch), "{isolated} images");
            let steps = epochs * isolated.div_ceil(batch);
            let mean = (0..steps).map(|step| cosine(config.lr, step, steps)).sum::<f64>() / steps as f64;
            assert!((mean / 5e-4 - 1.0).abs() < 0.03, "{isolated} images: {mean}");
            assert!(!config.sgd.flip && config.sgd.crop_pad == 0);
        }
    }

    #[test]
    fn the_isolating_loss_is_held_at_the_level() {
        let options = Options::from([("abl_level", 0.25.into())]);
        assert_eq!(isolation_loss(&options), LossKind::Flooding { level: 0.25 });
        let options = Options::from([("abl_loss", "lga".into())]);
        assert_eq!(isolation_loss(&options), LossKind::LocalAscent { level: 0.5 });
    }
}
