//! FLARE (Hou et al. 2025, "FLARE: Toward Universal Dataset Purification against Backdoor Attacks"): images whose activations are unusual in
//! the same way, over all layers, are taken out, and a network is trained anew on the rest.
//!
//! Of each batch norm an image has one number, the least log-likelihood of any of its inputs under a normal distribution with the batch
//! norm's running mean and variance. These numbers are laid out in two dimensions by UMAP, and the points clustered by HDBSCAN; the last
//! layers are left out one by one until the largest cluster is stable: its density grows by [`STABLE`] from its birth until it falls apart.
//! There the tree is cut; the largest cluster is clean, and so is noise; the other clusters are poison.
//!
//! After the paper and the authors' code (BackdoorBox). Deviations: a cluster needs 100 images, as there, but no more than a fiftieth of all;
//! UMAP begins with principal components; a largest cluster that never falls apart is cut at its birth, where their code fails.

mod density;
mod umap;

use serde_json::json;

use super::principal::projections;
use super::{Defense, Detection, Given, Lab, Split, retrained};
use crate::nn::ParamKind;
use crate::options::{Kind, OptionSpec};
use crate::train::{LayerExtremes, Network, TrainError, extremes};
use density::{Cluster, condensed, cut, linkage};

/// The defense, as it is listed.
pub struct Flare;

/// Of UMAP, a point itself included.
const NEIGHBOURS: usize = 40;
/// Points of a cluster at least, and neighbours that make a place dense.
const LEAST: usize = 100;
/// A cluster has no more than one in so many of the images at the least.
const ONE_IN: usize = 50;
/// Partings of the largest cluster that are looked at.
const DEPTH: usize = 3;
/// Of batch norms.
const EPS: f64 = 1e-5;

const STABLE: OptionSpec = OptionSpec {
    name: "flare_stable",
    help: "growth of the largest cluster's density from one parting to the next from which it is stable",
    kind: Kind::Number { default: 0.02, allowed: |x| x > 0.0 && x.is_finite(), words: "a number above 0" },
};

impl Defense for Flare {
    fn name(&self) -> &'static str {
        "FLARE"
    }

    fn summary(&self) -> &'static str {
        "clusters images by how unusual their activations are in every layer, keeps the largest cluster, trains anew"
    }

    fn detect_options(&self) -> &'static [OptionSpec] {
        &[STABLE]
    }

    fn detects(&self) -> bool {
        true
    }

    fn detect(&self, lab: &Lab, given: &Given) -> Result<Detection, TrainError> {
        let n = given.train.len();
        let layers = extremes(lab.kernels, given.victim, given.train, lab.training.batch, lab.observer, "activations")?;
        let columns = likelihoods(&layers, given.victim)?;
        let least = LEAST.min(n / ONE_IN).max(2);
        lab.observer.begin("clusters", columns.len() as u64);
        for kept in (1..=columns.len()).rev() {
            let rows: Vec<Vec<f64>> = (0..n).map(|i| columns[..kept].iter().map(|column| column[i]).collect()).collect();
            let single: Vec<Vec<f32>> = rows.iter().map(|row| row.iter().map(|x| *x as f32).collect()).collect();
            let start = projections(&single.iter().map(Vec::as_slice).collect::<Vec<_>>(), 2)?;
            if start.ncols() < 2 {
                break;
            }
            let points = umap::layout(&rows, NEIGHBOURS, &start, lab.training.seed, lab.observer)?;
            let merges = linkage(&points, least);
            lab.observer.advance(1);
            let Some(density) = stable(&condensed(&merges, least), lab.options.number(&STABLE)) else { continue };
            let clusters = cut(&merges, 1.0 / density.max(1e-9), least);
            let flagged = outside_the_largest(&clusters);
            let score = flagged.iter().map(|f| f32::from(u8::from(*f))).collect();
            return Ok(Detection { split: Split { flagged, score }, evidence: json!({ "layers": kept, "density": density }) });
        }
        Ok(Detection { split: Split::clean(n), evidence: json!({ "layers": 0 }) })
    }

    fn purify(&self, lab: &Lab, given: &Given, split: &Split) -> Result<Network, TrainError> {
        retrained(lab, given, split)
    }
}

/// Of each batch norm [N]: the least log-likelihood of an image's inputs.
fn likelihoods(layers: &[LayerExtremes], network: &Network) -> Result<Vec<Vec<f64>>, TrainError> {
    let params = network.params.read()?;
    let of = |layer: &LayerExtremes, what: &str, kind: ParamKind| {
        let name = format!("{}.{what}", layer.name);
        let found = params.iter().find(|(param, _)| param.name == name && param.kind == kind);
        found.map(|(_, values)| values.as_slice()).ok_or_else(|| TrainError::Data(format!("the network has no {name}")))
    };
    let column = |layer: &LayerExtremes| {
        let mean = of(layer, "running_mean", ParamKind::RunningMean(layer.channels))?;
        let variance = of(layer, "running_var", ParamKind::RunningVar(layer.channels))?;
        let images = layer.high.chunks_exact(layer.channels).zip(layer.low.chunks_exact(layer.channels));
        Ok(images.map(|(high, low)| likelihood([high, low], mean, variance)).collect())
    };
    layers.iter().map(column).collect()
}

/// The least over channels of the log-likelihood of what is farthest from the channel's mean.
fn likelihood([high, low]: [&[f32]; 2], mean: &[f32], variance: &[f32]) -> f64 {
    let of = |c: usize| {
        let deviation = (f64::from(variance[c]) + EPS).sqrt();
        let far = [high[c], low[c]].map(|x| (f64::from(x) - f64::from(mean[c])).abs()).into_iter().fold(0.0, f64::max);
        -0.5 * (far / deviation).powi(2) - deviation.ln() - 0.5 * std::f64::consts::TAU.ln()
    };
    (0..mean.len()).map(of).fold(f64::INFINITY, f64::min)
}

/// From the largest cluster downwards, the first that is stable: its density grows by more than `least` until it falls apart or ends. Gives
/// the density just before it falls apart; of one that never does, just after its birth.
fn stable(clusters: &[Cluster], least: f64) -> Option<f64> {
    const JUST: f64 = 1e-4;
    let larger = |parts: [usize; 2]| if clusters[parts[1]].size > clusters[parts[0]].size { parts[1] } else { parts[0] };
    let mut at = larger(clusters.first()?.parts?);
    for _ in 0..DEPTH {
        let Cluster { born, ends, parts, .. } = clusters[at];
        if ends - born > least {
            return Some(if parts.is_some() { ends - JUST } else { born + JUST });
        }
        at = larger(parts?);
    }
    None
}

/// Who is in a cluster, and not in the largest.
fn outside_the_largest(clusters: &[Option<usize>]) -> Vec<bool> {
    let mut sizes = std::collections::BTreeMap::new();
    clusters.iter().flatten().for_each(|cluster| *sizes.entry(*cluster).or_insert(0) += 1);
    let largest = sizes.into_iter().max_by_key(|(_, size)| *size).map(|(cluster, _)| cluster);
    clusters.iter().map(|cluster| cluster.is_some() && *cluster != largest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    /// SciPy: `norm.logpdf(x, mean, sqrt(variance + 1e-5)).min()` over both extremes of each channel.
    #[test]
    fn an_images_likelihood_is_that_of_its_least_likely_activation() {
        let found = likelihood([&[1.5, 2.0, 0.1], &[-0.5, -4.0, 0.0]], &[0.5, -1.0, 0.0], &[1.0, 4.0, 0.01]);
        assert!((found + 2.737_084_2).abs() < 1e-6, "{found}");
        let other = likelihood([&[1.5, 2.0, 0.1], &[-0.5, -4.0, 0.0]], &[0.5, -1.0, 0.0], &[0.04, 4.0, 0.01]);
        assert!((other + 11.806_501_4).abs() < 1e-5, "{other}");
    }

    /// Three groups of points in the plane: the farthest parts from the two others first, at about 25, and these part at about 6.
    #[test]
    fn what_lies_apart_from_the_first_stable_cluster_is_flagged() {
        let mut noise = rng::stream(3, "groups");
        let group = |at: [f64; 2], count: usize| (0..count).map(move |_| at).collect::<Vec<_>>();
        let mut points = [group([0.0, 0.0], 200), group([9.0, 0.0], 40), group([0.0, 30.0], 40)].concat();
        points.iter_mut().flatten().for_each(|x| *x += rng::normal(&mut noise));
        points.push([100.0, 100.0]);
        let merges = linkage(&points, 10);
        for (least, flagged) in [(0.02, [false, false, true]), (0.3, [false, true, true])] {
            let density = stable(&condensed(&merges, 30), least).expect("a stable cluster");
            let found = outside_the_largest(&cut(&merges, 1.0 / density, 30));
            for (group, expected) in [0..200, 200..240, 240..280].into_iter().zip(flagged) {
                // Now and then a point is too far from its group.
                let other = group.clone().filter(|&i| found[i] != expected).count();
                assert!(10 * other <= group.len(), "{least}: {other} of {group:?}");
            }
            assert!(!found[280], "a lonely point is noise");
        }
        assert_eq!(stable(&condensed(&merges, 30), 1e3), None);
    }
}
