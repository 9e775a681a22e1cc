//! Spectral signatures (Tran, Li and Madry 2018): in each class, the images whose features lie farthest along the first principal
//! component are taken out, and a network is trained anew on the rest.
//!
//! The paper takes out 1.5 times the share of poison that it assumes, in every class; so is it here, clean classes included.

use serde_json::json;

use super::principal::projections;
use super::{Defense, Detection, Given, Lab, Split, by_class, retrained};
use crate::options::{Kind, OptionSpec};
use crate::train::{Network, TrainError, Wanted, predict};

/// The defense, as it is listed.
pub struct SpectralSignatures;

const SHARE: OptionSpec = OptionSpec {
    name: "spectral_share",
    help: "share of each class that is taken out; the paper's is 1.5 times the share of poison that is assumed",
    kind: Kind::Number { default: 0.15, allowed: |x| x > 0.0 && x < 1.0, words: "a share between 0 and 1" },
};

impl Defense for SpectralSignatures {
    fn name(&self) -> &'static str {
        "spectral"
    }

    fn summary(&self) -> &'static str {
        "spectral signatures: takes what lies farthest along each class's first principal component out, trains anew"
    }

    fn detect_options(&self) -> &'static [OptionSpec] {
        &[SHARE]
    }

    fn detects(&self) -> bool {
        true
    }

    fn detect(&self, lab: &Lab, given: &Given) -> Result<Detection, TrainError> {
        let said =
            predict(lab.kernels, given.victim, given.train, lab.training.batch, &[Wanted::Features], lab.observer, "features")?;
        let share = lab.options.number(&SHARE);
        let mut split = Split::clean(given.train.len());
        for (members, rows) in by_class(given.train, &said.features) {
            if rows.len() < 2 {
                continue;
            }
            let score: Vec<f64> = projections(&rows, 1)?.col_as_slice(0).iter().map(|p| p * p).collect();
            let out = farthest(&score, share);
            let most = score.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
            members.iter().zip(&score).for_each(|(i, s)| split.score[*i] = (s / most) as f32);
            out.iter().for_each(|k| split.flagged[members[*k]] = true);
        }
        Ok(Detection { evidence: json!({ "share": share }), split })
    }

    fn purify(&self, lab: &Lab, given: &Given, split: &Split) -> Result<Network, TrainError> {
        retrained(lab, given, split)
    }
}

/// The share of the greatest scores.
fn farthest(score: &[f64], share: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..score.len()).collect();
    order.sort_by(|&a, &b| score[b].total_cmp(&score[a]));
    order.truncate((share * score.len() as f64).round() as usize);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_share_that_lies_farthest() {
        assert_eq!(farthest(&[0.1, 4.0, 0.2, 9.0, 1.0, 0.0], 0.34), [3, 1]);
        assert_eq!(farthest(&[0.1, 4.0], 0.1), [0; 0]);
    }
}
