//! Entropy pruning (Zheng, Tang, Li and Liu 2022, "Pre-activation Distributions Expose Backdoor Neurons"): channels are switched off whose
//! activations, over training images of which some are poisoned, are spread much less evenly than those of their layer's other channels.
//! A channel that answers to a trigger has values close together for clean images and others, far off, for poisoned ones.
//!
//! As in the authors' code, an image's activation is the greatest input of the batch norm over the pixels, standardised over the images;
//! its entropy is that of a histogram with bins of .01 deviations; a channel is switched off by its batch norm's weight, and the shift
//! stays. Their code looks at one batch of images, this at more.

use super::{Defense, Given, Lab, Split, outliers};
use crate::options::{Kind, OptionSpec};
use crate::rng;
use crate::train::{LayerExtremes, Network, TrainError, extremes};

/// The defense, as it is listed.
pub struct EntropyPruning;

const DEVIATIONS: OptionSpec = OptionSpec {
    name: "ep_deviations",
    help: "standard deviations under its layer's mean entropy from which a channel is switched off",
    kind: Kind::Number { default: 3.0, allowed: |x| x > 0.0 && x.is_finite(), words: "a number above 0" },
};
const IMAGES: OptionSpec = OptionSpec {
    name: "ep_images",
    help: "training images that are looked at, drawn by the seed",
    kind: Kind::Number {
        default: 5000.0,
        allowed: |x| x >= 2.0 && x.fract() == 0.0 && x < 1e9,
        words: "a whole number of at least 2",
    },
};
/// Width of the histogram's bins, deviations.
const BIN: f64 = 0.01;

impl Defense for EntropyPruning {
    fn name(&self) -> &'static str {
        "EP"
    }

    fn summary(&self) -> &'static str {
        "entropy pruning: switches off channels whose activations fall into two kinds, without clean images"
    }

    fn purify_options(&self) -> &'static [OptionSpec] {
        &[DEVIATIONS, IMAGES]
    }

    fn purify(&self, lab: &Lab, given: &Given, _: &Split) -> Result<Network, TrainError> {
        let mut order: Vec<usize> = (0..given.train.len()).collect();
        rng::shuffle(&mut rng::stream(lab.training.seed, "entropy pruning"), &mut order);
        order.truncate(lab.options.count(&IMAGES));
        let seen = given.train.subset(&order);
        let network = given.victim.duplicate(lab.kernels)?;
        let layers = extremes(lab.kernels, &network, &seen, lab.training.batch, lab.observer, "activations")?;
        let params = network.params.read()?;
        let mut off = 0;
        for layer in &layers {
            let below = uneven(layer, lab.options.number(&DEVIATIONS));
            let name = format!("{}.weight", layer.name);
            let Some((param, weights)) = params.iter().find(|(param, _)| param.name == name) else { continue };
            let mut weights = weights.clone();
            below.iter().for_each(|channel| weights[*channel] = 0.0);
            network.params.write(param, &weights);
            off += below.len();
        }
        log::info!("{off} of {} channels switched off", layers.iter().map(|layer| layer.channels).sum::<usize>());
        Ok(network)
    }
}

/// The channels whose entropy lies under the layer's mean by more than so many standard deviations.
fn uneven(layer: &LayerExtremes, deviations: f64) -> Vec<usize> {
    let lacking: Vec<f64> = entropies(layer).iter().map(|entropy| -entropy).collect();
    outliers(&lacking, deviations)
}

/// Of each channel, in nats. The bins of all channels of a layer begin at the least standardised value of them all; a channel that does
/// not vary has the entropy 0.
fn entropies(layer: &LayerExtremes) -> Vec<f64> {
    let n = layer.high.len() / layer.channels.max(1);
    let standardised = |channel: usize| {
        let values: Vec<f64> = (0..n).map(|i| f64::from(layer.high[i * layer.channels + channel])).collect();
        let mean = values.iter().sum::<f64>() / n as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1).max(1) as f64;
        values.iter().map(|v| (v - mean) / variance.sqrt().max(1e-12)).collect::<Vec<f64>>()
    };
    let channels: Vec<Vec<f64>> = (0..layer.channels).map(standardised).collect();
    let least = channels.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let entropy = |values: &Vec<f64>| {
        let mut bins: Vec<i64> = values.iter().map(|v| ((v - least) / BIN) as i64).collect();
        bins.sort_unstable();
        let shares = bins.chunk_by(|a, b| a == b).map(|bin| bin.len() as f64 / n as f64);
        shares.map(|p| -p * p.ln()).sum()
    };
    channels.iter().map(entropy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NumPy: `s = (h - h.mean(0)) / h.std(0, ddof=1)`, then of each column
    /// `c = np.bincount(((s - s.min()) / .01).astype(int)); p = c[c > 0] / len(h); -(p * np.log(p)).sum()`.
    #[test]
    fn a_channels_entropy_is_that_of_its_histogram() {
        let high = vec![0.1, 5.0, 3.0, 0.1, 5.0, 1.0, 0.1, 5.002, 2.0, 9.0, 5.0, 4.0, 0.1, 5.0, 7.0, 0.11, 4.0, 0.5];
        let layer = LayerExtremes { name: "bn".into(), channels: 3, low: high.clone(), high };
        let expected = [0.450_561_2, 0.867_563_2, 1.791_759_5];
        for (got, expected) in entropies(&layer).iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{got} for {expected}");
        }
        let still = LayerExtremes { name: "bn".into(), channels: 1, high: vec![2.0; 5], low: vec![2.0; 5] };
        assert_eq!(entropies(&still), [0.0]);
    }

    /// Of twenty channels one has two kinds of values, a tenth of them far off, and one has values spread evenly.
    #[test]
    fn a_channel_of_two_kinds_of_values_is_uneven_and_an_even_one_is_not() {
        let (images, channels) = (400, 20);
        let mut noise = rng::stream(1, "activations");
        let of = |i: usize, channel: usize, noise: f64| match channel {
            7 => noise * 0.05 + if i.is_multiple_of(10) { 9.0 } else { 0.0 },
            9 => i as f64,
            _ => noise,
        };
        let high: Vec<f32> =
            (0..images * channels).map(|k| of(k / channels, k % channels, rng::normal(&mut noise)) as f32).collect();
        let layer = LayerExtremes { name: "bn".into(), channels, low: high.clone(), high };
        assert_eq!(uneven(&layer, 3.0), [7]);
    }
}
