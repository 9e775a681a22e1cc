//! The verdict on every training sample.

use serde::{Deserialize, Serialize};

/// The verdict on every training sample, in data order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// Not to be learned as it is: held to be poisoned or, by evidence, too doubtful.
    pub flagged: Vec<bool>,
    /// 0 to 1: the belief that the sample is poisoned.
    pub score: Vec<f32>,
}

/// Belief over which a sample is more likely poisoned than not.
const MAJORITY: f32 = 0.5;

impl Split {
    /// Nothing of `n` samples flagged.
    pub fn clean(n: usize) -> Split {
        Split { flagged: vec![false; n], score: vec![0.0; n] }
    }

    /// Whether sample `i` is flagged though it is more likely clean than poisoned.
    pub fn doubtful(&self, i: usize) -> bool {
        self.flagged[i] && self.score[i] <= MAJORITY
    }
}
