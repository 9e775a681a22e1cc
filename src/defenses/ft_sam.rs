//! FT-SAM (Zhu et al. 2023): fine-tuning on images that are surely clean, with sharpness-aware minimisation, which moves the large weights
//! that a backdoor lives in further than fine-tuning alone does.
//!
//! The gradient of each step is taken at w + rho w^2 g / ||w g||, g being the gradient at the weights w (Kwon et al. 2021, ASAM, with eta = 0 and
//! for all parameters, as BackdoorBench has it). After that recipe but for: the weight decay of the victim's training, and its batch, in equal
//! steps; no label smoothing.

use super::{Defense, Given, Lab, Split, equal_steps};
use crate::options::{Kind, OptionSpec};
use crate::train::{Network, TrainConfig, TrainError};

/// The defense, as it is listed.
pub(super) struct SharpnessAware;

const RHO: OptionSpec = OptionSpec {
    name: "sam_rho",
    help: "how far each step looks for a higher loss: norm of the relative change of all weights; 0 is plain fine-tuning",
    kind: Kind::Number { default: 2.0, allowed: |x| (0.0..1e6).contains(&x), words: "a number from 0 on" },
};
const EPOCHS: OptionSpec = OptionSpec {
    name: "sam_epochs",
    help: "epochs on the clean images, of two passes a step",
    kind: Kind::Number {
        default: 100.0,
        allowed: |x| x >= 1.0 && x.fract() == 0.0 && x < 1e9,
        words: "a whole number of at least 1",
    },
};
const LR: OptionSpec = OptionSpec {
    name: "sam_lr",
    help: "peak learning rate on the clean images",
    kind: Kind::Number { default: 0.01, allowed: |x| x > 0.0 && x.is_finite(), words: "a number above 0" },
};

impl Defense for SharpnessAware {
    fn name(&self) -> &'static str {
        "FT-SAM"
    }

    fn summary(&self) -> &'static str {
        "trains on, with images that are surely clean, towards where the loss is flat"
    }

    fn purify_options(&self) -> &'static [OptionSpec] {
        &[RHO, EPOCHS, LR]
    }

    fn needs_clean(&self) -> bool {
        true
    }

    fn purify(&self, lab: &Lab, given: &Given, _: &Split) -> Result<Network, TrainError> {
        let clean = given.clean()?;
        let config = TrainConfig {
            stage: "fine-tune".into(),
            batch: equal_steps(clean.len(), lab.training.batch),
            epochs: lab.options.count(&EPOCHS),
            lr: lab.options.number(&LR),
            rho: lab.options.number(&RHO) as f32,
            ..lab.training.clone()
        };
        lab.trained("ft-sam", || given.victim.duplicate(lab.kernels), clean, &config)
    }
}
