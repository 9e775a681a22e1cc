//! How a network is trained, as options: each is declared here once, and flags, keys, help, checks and defaults follow. A data set's file
//! may have other defaults.

use crate::options::{Kind, OptionSpec};

/// Of epochs, images a batch and channels: more than anyone needs, and few enough to count steps.
const MOST: f64 = 1e9;

const fn count(name: &'static str, help: &'static str, default: f64) -> OptionSpec {
    let allowed = |x: f64| x >= 1.0 && x.fract() == 0.0 && x <= MOST;
    OptionSpec { name, help, kind: Kind::Number { default, allowed, words: "a whole number from 1 to 1000000000" } }
}

pub(crate) const WIDTH: OptionSpec = count(
    "width",
    "channels of the network's first stage, a multiple of 4; 64 is the standard network. Of a wide ResNet the factor: 10 for WRN-28-10",
    64.0,
);
pub(super) const EPOCHS: OptionSpec = count("epochs", "of training", 10.0);
pub(super) const BATCH: OptionSpec = count("batch", "images a training step", 64.0);
pub(super) const LR: OptionSpec = OptionSpec {
    name: "lr",
    help: "peak learning rate of training",
    kind: Kind::Number { default: 0.03, allowed: |x| x > 0.0 && x.is_finite(), words: "a number above 0" },
};
pub(super) const MOMENTUM: OptionSpec = OptionSpec {
    name: "momentum",
    help: "Nesterov's, of SGD in both stages",
    kind: Kind::Number { default: 0.9, allowed: |x| (0.0..1.0).contains(&x), words: "a share from 0 to below 1" },
};
pub(super) const WEIGHT_DECAY: OptionSpec = OptionSpec {
    name: "weight_decay",
    help: "of SGD in both stages",
    kind: Kind::Number { default: 5e-4, allowed: |x| x >= 0.0 && x.is_finite(), words: "0 or more" },
};
pub(super) const CROP_PAD: OptionSpec = OptionSpec {
    name: "crop_pad",
    help: "augmentation: pixels to zero-pad by before a random crop; 0: no crop",
    kind: Kind::Number {
        default: 0.0,
        allowed: |x| x >= 0.0 && x.fract() == 0.0 && x <= MOST,
        words: "a whole number, 0 or more",
    },
};
pub(super) const FLIP: OptionSpec =
    OptionSpec { name: "flip", help: "augmentation: mirror at random", kind: Kind::Flag { default: false } };

pub(crate) const RESERVE: OptionSpec = OptionSpec {
    name: "reserve",
    help: "share of the training images that is set aside before any is poisoned, for defenses that need images which are surely clean; 0: none, and .05 \
           for such a defense",
    kind: Kind::Number { default: 0.0, allowed: |x| (0.0..=0.5).contains(&x), words: "a share from 0 to .5" },
};

/// All of them.
pub const TRAINING_OPTIONS: &[OptionSpec] = &[WIDTH, EPOCHS, BATCH, LR, MOMENTUM, WEIGHT_DECAY, CROP_PAD, FLIP, RESERVE];
