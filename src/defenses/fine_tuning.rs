//! Fine-tuning on images that are surely clean, and fine-pruning (Liu, Dolan-Gavitt and Garg 2018), which first switches off the channels
//! that clean images use least.

use super::{Defense, Given, Lab, Split, equal_steps};
use crate::data::Dataset;
use crate::nn::{Param, ParamKind};
use crate::options::{Kind, OptionSpec};
use crate::train::{Network, Predictions, TrainConfig, TrainError, Wanted, fit, predict};

/// Fine-tuning, as it is listed.
pub struct FineTuning;

/// Fine-pruning, as it is listed.
pub struct FinePruning;

const EPOCHS: OptionSpec = OptionSpec {
    name: "tuning_epochs",
    help: "epochs on the clean images",
    kind: Kind::Number {
        default: 100.0,
        allowed: |x| x >= 1.0 && x.fract() == 0.0 && x < 1e9,
        words: "a whole number of at least 1",
    },
};
const LR: OptionSpec = OptionSpec {
    name: "tuning_lr",
    help: "peak learning rate on the clean images",
    kind: Kind::Number { default: 0.01, allowed: |x| x > 0.0 && x.is_finite(), words: "a number above 0" },
};
const PRUNED_EPOCHS: OptionSpec =
    OptionSpec { name: "pruning_epochs", help: "epochs on the clean images after channels are off", ..EPOCHS };
const PRUNED_LR: OptionSpec = OptionSpec { name: "pruning_lr", help: "peak learning rate after channels are off", ..LR };
const LOST: OptionSpec = OptionSpec {
    name: "pruning_lost",
    help: "points of accuracy on the clean images that switching channels off may cost",
    kind: Kind::Number { default: 4.0, allowed: |x| (0.0..=100.0).contains(&x), words: "points from 0 to 100" },
};

impl Defense for FineTuning {
    fn name(&self) -> &'static str {
        "fine-tuning"
    }

    fn summary(&self) -> &'static str {
        "trains on, with images that are surely clean"
    }

    fn purify_options(&self) -> &'static [OptionSpec] {
        &[EPOCHS, LR]
    }

    fn needs_clean(&self) -> bool {
        true
    }

    fn purify(&self, lab: &Lab, given: &Given, _: &Split) -> Result<Network, TrainError> {
        let clean = given.clean()?;
        lab.trained("fine-tuned", || given.victim.duplicate(lab.kernels), clean, &config(lab, clean, [&EPOCHS, &LR]))
    }
}

impl Defense for FinePruning {
    fn name(&self) -> &'static str {
        "fine-pruning"
    }

    fn summary(&self) -> &'static str {
        "switches off what surely clean images use least, then trains on with these"
    }

    fn purify_options(&self) -> &'static [OptionSpec] {
        &[LOST, PRUNED_EPOCHS, PRUNED_LR]
    }

    fn needs_clean(&self) -> bool {
        true
    }

    /// A channel of the last layer is switched off by its column of the classifier: features are means of its activations.
    fn purify(&self, lab: &Lab, given: &Given, _: &Split) -> Result<Network, TrainError> {
        let clean = given.clean()?;
        let network = given.victim.duplicate(lab.kernels)?;
        let wanted = [Wanted::Logits, Wanted::Features];
        let said = predict(lab.kernels, &network, clean, lab.training.batch, &wanted, lab.observer, "features")?;
        let params = network.params.read()?;
        let Some((head, weights)) = params.iter().rev().find(|(param, _)| matches!(param.kind, ParamKind::Matrix { .. })) else {
            return Err(TrainError::Data("fine-pruning: the network has no classifier".into()));
        };
        let off = dormant(&said, &clean.labels, weights, lab.options.number(&LOST));
        log::info!("{} of {} channels switched off", off.len(), said.features.len() / clean.len().max(1));
        network.params.write(head, &without(weights, &off, head));
        fit(
            lab.kernels,
            &network,
            clean,
            &config(lab, clean, [&PRUNED_EPOCHS, &PRUNED_LR]),
            lab.observer,
            Some(&lab.scratch("fine-pruning.state.safetensors")?),
        )?;
        // What is off stays off, though gradients reach the classifier.
        let params = network.params.read()?;
        if let Some((_, weights)) = params.iter().find(|(param, _)| param.name == head.name) {
            network.params.write(head, &without(weights, &off, head));
        }
        Ok(network)
    }
}

fn config(lab: &Lab, clean: &Dataset, [epochs, lr]: [&OptionSpec; 2]) -> TrainConfig {
    TrainConfig {
        stage: "fine-tune".into(),
        epochs: lab.options.count(epochs),
        lr: lab.options.number(lr),
        batch: equal_steps(clean.len(), lab.training.batch),
        ..lab.training.clone()
    }
}

/// The classifier without some of its inputs.
fn without(weights: &[f32], off: &[usize], head: &Param) -> Vec<f32> {
    let ParamKind::Matrix { inputs, .. } = head.kind else { return weights.to_vec() };
    let mut weights = weights.to_vec();
    weights.chunks_exact_mut(inputs).for_each(|row| off.iter().for_each(|channel| row[*channel] = 0.0));
    weights
}

/// The channels that are used least, in ascending order of their mean: as many as can be switched off before the accuracy on these images
/// has fallen by more than `lost` points.
fn dormant(said: &Predictions, labels: &[u32], weights: &[f32], lost: f64) -> Vec<usize> {
    let (n, classes) = (labels.len(), said.logits.len() / labels.len().max(1));
    let inputs = said.features.len() / n.max(1);
    let mut order: Vec<(f64, usize)> =
        (0..inputs).map(|c| (said.features.chunks_exact(inputs).map(|row| f64::from(row[c])).sum(), c)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut logits = said.logits.clone();
    let accuracy = |logits: &[f32]| {
        let right = |(row, label): (&[f32], &u32)| {
            let best = (0..classes).max_by(|a, b| row[*a].total_cmp(&row[*b]));
            best == Some(*label as usize)
        };
        100.0 * logits.chunks_exact(classes).zip(labels).filter(|pair| right(*pair)).count() as f64 / n.max(1) as f64
    };
    let least = accuracy(&logits) - lost;
    for (count, (_, channel)) in order.iter().enumerate() {
        for (row, features) in logits.chunks_exact_mut(classes).zip(said.features.chunks_exact(inputs)) {
            row.iter_mut().enumerate().for_each(|(k, z)| *z -= weights[k * inputs + channel] * features[*channel]);
        }
        if accuracy(&logits) < least {
            return order[..count].iter().map(|(_, channel)| *channel).collect();
        }
    }
    // Never the last one.
    order[..inputs.saturating_sub(1)].iter().map(|(_, channel)| *channel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four images of two classes by three channels: the first says which class, the second is used little and misleads none, the third
    /// is not used.
    #[test]
    fn channels_go_from_the_least_used_until_accuracy_falls() {
        let features = [4.0, 0.5, 0.0, 4.0, 0.4, 0.0, 0.0, 0.5, 0.1, 0.0, 0.6, 0.0];
        let weights = [1.0, 0.0, 5.0, -1.0, 0.2, -5.0];
        let bias = [-1.0, 1.0];
        let logits = features
            .chunks_exact(3)
            .flat_map(|f: &[f32]| [0, 1].map(|k| bias[k] + (0..3).map(|c| weights[k * 3 + c] * f[c]).sum::<f32>()));
        let said = Predictions { logits: logits.collect(), features: features.to_vec(), ..Predictions::default() };
        assert_eq!(dormant(&said, &[0, 0, 1, 1], &weights, 4.0), [2, 1], "the class's channel stays");
        assert_eq!(dormant(&said, &[0, 0, 1, 1], &weights, 100.0), [2, 1], "and so does the last one whatever it costs");
        let head = Param { name: "linear.weight".into(), kind: ParamKind::Matrix { out: 2, inputs: 3 } };
        assert_eq!(without(&weights, &[2, 1], &head), [1.0, 0.0, 0.0, -1.0, 0.0, 0.0]);
    }
}
