//! DAU as it is listed among the defenses: its options, and its two stages.

use serde_json::json;

use super::super::{Defense, Detection, Given, Lab, Split};
use super::recut::recut;
use super::{Border, DiscriminatorConfig, Findings, StageOneConfig, UnlearnConfig, UnlearnLoss, scan, unlearn};
use crate::options::{Kind, OptionSpec, Options};
use crate::train::{Network, TrainConfig, TrainError, Wanted, predict};

/// The defense, as it is listed.
pub struct Dau;

/// All that stage 1 found, [`Findings`] as JSON.
pub const FINDINGS: &str = "findings.json";
/// The network's classes and features of the images, while stage 1 is at work.
const FEATURES: &str = "features.safetensors";

const fn count(name: &'static str, help: &'static str, default: f64) -> OptionSpec {
    let allowed = |x: f64| x >= 1.0 && x.fract() == 0.0 && x < 1e9;
    OptionSpec { name, help, kind: Kind::Number { default, allowed, words: "a whole number of at least 1" } }
}

const BORDER: OptionSpec = OptionSpec {
    name: "border",
    help: "what sets the border between poisoned and clean images of an accused class: images, features (images and frozen features in one \
           regression) or classifier (images and the classifier retrained on frozen features)",
    kind: Kind::Word { default: "features", among: &["images", "features", "classifier"] },
};
const PREFILTER_SHARE: OptionSpec = OptionSpec {
    name: "prefilter_share",
    help: "of border classifier: share of the images taken as surely poisoned to begin with",
    kind: Kind::Number { default: 0.01, allowed: |x| x > 0.0 && x < 1.0, words: "a share between 0 and 1" },
};
const ROUNDS: OptionSpec = count("rounds", "of border classifier: rounds of the discriminator", 4.0);
const LOSS: OptionSpec = OptionSpec {
    name: "unlearn_loss",
    help: "loss on the poisoned part, cce or gga (gradient ascent)",
    kind: Kind::Word { default: "cce", among: &["cce", "gga"] },
};
const STEPS: OptionSpec = count("unlearn_steps", "steps; held-out images may end them earlier", 100.0);
const LR: OptionSpec = OptionSpec {
    name: "unlearn_lr",
    help: "peak learning rate",
    kind: Kind::Number { default: 0.003, allowed: |x| x > 0.0 && x.is_finite(), words: "a number above 0" },
};
const BATCH_CLEAN: OptionSpec = count("unlearn_batch_clean", "clean images a step", 64.0);
const BATCH_POISON: OptionSpec = count("unlearn_batch_poison", "poisoned images a step", 16.0);
const LAMBDA: OptionSpec = OptionSpec {
    name: "unlearn_lambda",
    help: "weight of the loss on the poisoned part",
    kind: Kind::Number { default: 1.0, allowed: |x| x >= 0.0 && x.is_finite(), words: "0 or more" },
};
const RESTORE: OptionSpec = OptionSpec {
    name: "unlearn_restore",
    help: "also learn clean images with the estimated trigger and their own labels",
    kind: Kind::Flag { default: true },
};

const RECUT: OptionSpec = OptionSpec {
    name: "unlearn_recut",
    help: "first draw the border between flagged and other images anew, from the split that is there: for splits that may be poor",
    kind: Kind::Flag { default: false },
};

impl StageOneConfig {
    /// What the options say.
    pub fn of(options: &Options, training: &TrainConfig) -> StageOneConfig {
        StageOneConfig {
            batch: training.batch,
            seed: training.seed,
            border: match options.word(&BORDER) {
                "images" => Border::Images,
                "classifier" => Border::Classifier,
                _ => Border::Features,
            },
            prefilter_share: options.number(&PREFILTER_SHARE),
            discriminator: DiscriminatorConfig { rounds: options.count(&ROUNDS), ..Default::default() },
        }
    }
}

impl UnlearnConfig {
    /// What the options say.
    pub fn of(options: &Options, training: &TrainConfig) -> UnlearnConfig {
        UnlearnConfig {
            steps: options.count(&STEPS),
            lr: options.number(&LR),
            batch_clean: options.count(&BATCH_CLEAN),
            batch_poison: options.count(&BATCH_POISON),
            lambda: options.number(&LAMBDA) as f32,
            loss: if options.word(&LOSS) == "gga" { UnlearnLoss::Gga } else { UnlearnLoss::Cce },
            restore: options.flag(&RESTORE),
            sgd: training.sgd,
            seed: training.seed,
        }
    }
}

impl Defense for Dau {
    fn name(&self) -> &'static str {
        "DAU"
    }

    fn summary(&self) -> &'static str {
        "finds what is separate from everything else, unlearns it by complementary cross-entropy"
    }

    fn detect_options(&self) -> &'static [OptionSpec] {
        &[BORDER, PREFILTER_SHARE, ROUNDS]
    }

    fn purify_options(&self) -> &'static [OptionSpec] {
        &[LOSS, STEPS, LR, BATCH_CLEAN, BATCH_POISON, LAMBDA, RESTORE, RECUT]
    }

    fn largest_batch(&self, options: &Options, training: &TrainConfig) -> usize {
        UnlearnConfig::of(options, training).batch()
    }

    fn detects(&self) -> bool {
        true
    }

    fn detect(&self, lab: &Lab, given: &Given) -> Result<Detection, TrainError> {
        let config = StageOneConfig::of(lab.options, lab.training);
        let found: Findings = lab.once(FINDINGS, || {
            let state = lab.scratch(FEATURES)?;
            scan(lab.kernels, given.victim, given.train, &config, lab.observer, &state)
        })?;
        lab.tidy(FEATURES);
        Ok(Detection { evidence: json!(found.classes), split: found.split })
    }

    fn purify(&self, lab: &Lab, given: &Given, split: &Split) -> Result<Network, TrainError> {
        let config = UnlearnConfig::of(lab.options, lab.training);
        let anew;
        let split = if lab.options.flag(&RECUT) && split.flagged.contains(&true) {
            let Given { train, victim, .. } = given;
            let features =
                predict(lab.kernels, victim, train, lab.training.batch, &[Wanted::Features], lab.observer, "features")?.features;
            anew = recut(train, &features, split, lab.observer)?;
            &anew
        } else {
            split
        };
        // Where there are suspects alone, nothing clean is at hand.
        let batch_clean = if split.flagged.contains(&false) { config.batch_clean } else { 0 };
        let network = given.victim.duplicate(lab.kernels)?;
        let state = lab.scratch("unlearning.safetensors")?;
        let config = UnlearnConfig { batch_clean, ..config };
        unlearn(lab.kernels, &network, given.train, split, &config, lab.observer, Some(&state))?;
        Ok(network)
    }
}
