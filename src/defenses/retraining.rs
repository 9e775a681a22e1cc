//! DAU's first stage, and a network trained anew on what it leaves: what its second stage saves.

use super::dau::Dau;
use super::{Defense, Detection, Given, Lab, Split, retrained};
use crate::train::{Network, TrainError};

/// The defense, as it is listed.
pub struct Retraining;

impl Defense for Retraining {
    fn name(&self) -> &'static str {
        "retraining"
    }

    fn summary(&self) -> &'static str {
        "DAU's split with its usual options, and a network trained anew on the clean part"
    }

    fn detects(&self) -> bool {
        true
    }

    fn detect(&self, lab: &Lab, given: &Given) -> Result<Detection, TrainError> {
        Dau.detect(lab, given)
    }

    fn purify(&self, lab: &Lab, given: &Given, split: &Split) -> Result<Network, TrainError> {
        retrained(lab, given, split)
    }
}
