//! Activation clustering (Chen et al. 2018): the features of each class, reduced to ten dimensions, fall into two clusters; the smaller one
//! is taken for poison where it is small enough, and a network is trained anew on the rest.
//!
//! The reduction is by principal components; the paper's is by independent components. The paper's "relative size" decides: a class
//! without poison falls into two clusters of about the same size.

use faer::Mat;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::principal::projections;
use super::{Defense, Detection, Given, Lab, Split, by_class, retrained};
use crate::options::{Kind, OptionSpec};
use crate::rng;
use crate::train::{Network, TrainError, Wanted, predict};

/// The defense, as it is listed.
pub struct ActivationClustering;

/// Dimensions that features are reduced to, as in the paper.
const DIMENSIONS: usize = 10;
/// Starts of the clustering, of which the best is kept.
const STARTS: usize = 10;
/// Rounds of a clustering at most.
const ROUNDS: usize = 100;

const SMALL: OptionSpec = OptionSpec {
    name: "clustering_small",
    help: "share of its class below which the smaller cluster is taken for poison",
    kind: Kind::Number { default: 0.35, allowed: |x| x > 0.0 && x <= 0.5, words: "a share above 0, .5 at most" },
};

impl Defense for ActivationClustering {
    fn name(&self) -> &'static str {
        "clustering"
    }

    fn summary(&self) -> &'static str {
        "activation clustering: takes the smaller of each class's two clusters of features out, trains anew"
    }

    fn detect_options(&self) -> &'static [OptionSpec] {
        &[SMALL]
    }

    fn detects(&self) -> bool {
        true
    }

    fn detect(&self, lab: &Lab, given: &Given) -> Result<Detection, TrainError> {
        let said =
            predict(lab.kernels, given.victim, given.train, lab.training.batch, &[Wanted::Features], lab.observer, "features")?;
        let small = lab.options.number(&SMALL);
        let mut split = Split::clean(given.train.len());
        let mut sizes = Vec::new();
        for (members, rows) in by_class(given.train, &said.features) {
            if rows.len() < 2 {
                sizes.push(0.5);
                continue;
            }
            let side = two_means(&projections(&rows, DIMENSIONS)?, lab.training.seed);
            let ones = side.iter().filter(|s| **s).count();
            let smaller = 2 * ones <= side.len();
            let share = ones.min(side.len() - ones) as f64 / side.len() as f64;
            sizes.push(share);
            for (i, _) in members.iter().zip(&side).filter(|(_, s)| **s == smaller) {
                // The smaller the cluster, the surer.
                split.score[*i] = (1.0 - share) as f32;
                split.flagged[*i] = share < small;
            }
        }
        Ok(Detection { evidence: json!({ "smaller cluster, share of each class": sizes }), split })
    }

    fn purify(&self, lab: &Lab, given: &Given, split: &Split) -> Result<Network, TrainError> {
        retrained(lab, given, split)
    }
}

/// Two clusters of the rows [n, d] by Lloyd's iterations from starts drawn as by k-means++; the best of several.
fn two_means(rows: &Mat<f64>, seed: u64) -> Vec<bool> {
    let (n, d) = (rows.nrows(), rows.ncols());
    let distance = |i: usize, centre: &[f64]| (0..d).map(|j| (rows[(i, j)] - centre[j]).powi(2)).sum::<f64>();
    let row = |i: usize| (0..d).map(|j| rows[(i, j)]).collect::<Vec<f64>>();
    let mut rng = rng::stream(seed, "two means");
    let mut best: (f64, Vec<bool>) = (f64::INFINITY, vec![false; n]);
    for _ in 0..STARTS {
        let first = row(rng.random_range(0..n));
        let far: Vec<f64> = (0..n).map(|i| distance(i, &first)).collect();
        let mut centres = [first, row(drawn(&far, &mut rng))];
        let mut side = vec![false; n];
        for _ in 0..ROUNDS {
            let now: Vec<bool> = (0..n).map(|i| distance(i, &centres[1]) < distance(i, &centres[0])).collect();
            let settled = now == side;
            side = now;
            for (k, centre) in centres.iter_mut().enumerate() {
                let members: Vec<usize> = (0..n).filter(|&i| usize::from(side[i]) == k).collect();
                if !members.is_empty() {
                    *centre = (0..d).map(|j| members.iter().map(|&i| rows[(i, j)]).sum::<f64>() / members.len() as f64).collect();
                }
            }
            if settled {
                break;
            }
        }
        let within: f64 = (0..n).map(|i| distance(i, &centres[usize::from(side[i])])).sum();
        if within < best.0 {
            best = (within, side);
        }
    }
    best.1
}

/// An index, each as likely as its weight says.
fn drawn(weights: &[f64], rng: &mut ChaCha8Rng) -> usize {
    let mut left = rng.random::<f64>() * weights.iter().sum::<f64>();
    let at = weights.iter().position(|w| {
        left -= w;
        left < 0.0
    });
    at.unwrap_or(weights.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clusters_come_apart_whatever_their_sizes() {
        for small in [3, 20, 50] {
            let mut noise = rng::stream(small as u64, "clusters");
            let rows = Mat::from_fn(100, 4, |i, j| rng::normal(&mut noise) + if i < small && j == 2 { 8.0 } else { 0.0 });
            let side = two_means(&rows, 1);
            let wrong = (0..100).filter(|&i| side[i] != side[0] && i < small || side[i] == side[0] && i >= small).count();
            assert_eq!(wrong, 0, "{small}: {side:?}");
        }
    }
}
