//! No defense: what every other one is compared with.

use super::{Defense, Given, Lab, Split};
use crate::train::{Network, TrainError};

/// The defense, as it is listed.
pub struct Nothing;

impl Defense for Nothing {
    fn name(&self) -> &'static str {
        "none"
    }

    fn summary(&self) -> &'static str {
        "leaves the network as it is, for comparison"
    }

    fn purify(&self, lab: &Lab, given: &Given, _: &Split) -> Result<Network, TrainError> {
        given.victim.duplicate(lab.kernels)
    }
}
