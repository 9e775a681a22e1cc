//! No defense: what every other one is compared with.

use serde_json::Value;

use super::{Defense, Detection, Given, Lab, Split};
use crate::options::{OptionSpec, Options};
use crate::train::{Network, TrainConfig, TrainError};

/// The defense, as it is listed.
pub struct Nothing;

impl Defense for Nothing {
    fn name(&self) -> &'static str {
        "none"
    }

    fn summary(&self) -> &'static str {
        "leaves the network as it is, for comparison"
    }

    fn detect_options(&self) -> &'static [OptionSpec] {
        &[]
    }

    fn purify_options(&self) -> &'static [OptionSpec] {
        &[]
    }

    fn largest_batch(&self, _: &Options, _: &TrainConfig) -> usize {
        1
    }

    fn detect(&self, _: &Lab, given: &Given) -> Result<Detection, TrainError> {
        Ok(Detection { split: Split::clean(given.train.len()), evidence: Value::Null })
    }

    fn purify(&self, lab: &Lab, given: &Given, _: &Split) -> Result<Network, TrainError> {
        given.victim.duplicate(lab.kernels)
    }
}
