//! Images that no step sees: they say which step's network is kept, and when to stop.

use super::parts::hold_out;
use super::trigger::Trigger;
use crate::data::Dataset;
use crate::kernel::Kernels;
use crate::nn::Param;
use crate::train::{Network, Observer, Predictions, Predictor, TrainError};

/// At most so many clean images are held out, and so many flagged ones.
const MOST: [usize; 2] = [256, 128];
/// Fewer of either say too little: nothing is held out then, and the last step's network is kept.
const LEAST: usize = 8;
/// Checks in a row that do not better the objective end the steps.
const PATIENCE: usize = 2;

/// Weights of the objective's parts.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    /// CE of a clean sample, by its label.
    pub(super) kept: Vec<f32>,
    /// Complementary CE of flagged samples.
    pub(super) forget: f32,
    /// CE of clean samples with the trigger.
    pub(super) restore: f32,
}

/// A check's outcome.
pub(super) struct Checked {
    pub(super) objective: f64,
    /// Percent of the clean images that get their label.
    pub(super) accuracy: f64,
    /// The objective has long not fallen.
    pub(super) enough: bool,
}

/// Which network is the best so far.
struct Best {
    objective: f64,
    check: usize,
    values: Vec<(Param, Vec<f32>)>,
}

/// The held-out images, clean, flagged, and clean with the trigger, one part after another.
pub(super) struct HeldOut {
    data: Dataset,
    /// Where the flagged images begin, and where those with the trigger do.
    borders: [usize; 2],
    weights: Weights,
    predictor: Predictor,
    checks: usize,
    best: Option<Best>,
}

/// Takes the images to hold out away from `clean` and `flagged`; none where either has too few.
pub(super) fn take(clean: &mut Vec<usize>, flagged: &mut Vec<usize>, seed: u64) -> Option<[Vec<usize>; 2]> {
    let (mut rest, mut bad) = (clean.clone(), flagged.clone());
    let held = [
        hold_out(&mut rest, MOST[0], seed, "unlearn held-out clean"),
        hold_out(&mut bad, MOST[1], seed, "unlearn held-out poisoned"),
    ];
    if held.iter().any(|held| held.len() < LEAST) {
        return None;
    }
    (*clean, *flagged) = (rest, bad);
    Some(held)
}

impl HeldOut {
    /// # Errors
    /// A batch over the adapter's limits.
    pub(super) fn new(
        kernels: &Kernels,
        network: &Network,
        data: &Dataset,
        [clean, flagged]: &[Vec<usize>; 2],
        trigger: Option<&Trigger>,
        weights: Weights,
        batch: usize,
    ) -> Result<HeldOut, TrainError> {
        let triggered = if trigger.is_some() { &clean[..] } else { &[] };
        let mut held = data.subset(&[clean, flagged, triggered].concat());
        let borders = [clean.len(), clean.len() + flagged.len()];
        if let Some(trigger) = trigger {
            let image = data.size * data.size * 3;
            held.pixels[borders[1] * image..].chunks_exact_mut(image).for_each(|pixels| trigger.put(pixels));
        }
        let predictor = Predictor::new(kernels, network, batch.min(held.len()))?;
        Ok(HeldOut { data: held, borders, weights, predictor, checks: 0, best: None })
    }

    pub(super) fn len(&self) -> usize {
        self.data.len()
    }

    /// Judges the network as it is, and remembers it if it is the best so far.
    ///
    /// # Errors
    /// An objective that is no number; a wish to stop; the driver's.
    pub(super) fn check(&mut self, network: &Network, observer: &dyn Observer) -> Result<Checked, TrainError> {
        let said = self.predictor.run(&self.data, observer)?;
        let (objective, accuracy) = judge(&said, &self.data.labels, self.borders, &self.weights);
        if !objective.is_finite() {
            return Err(TrainError::Data(format!(
                "unlearning made the loss of held-out images {objective}; try a smaller --unlearn-lr"
            )));
        }
        self.checks += 1;
        if self.best.as_ref().is_none_or(|best| objective < best.objective) {
            self.best = Some(Best { objective, check: self.checks, values: network.params.read()? });
        }
        let since = self.checks - self.best.as_ref().map_or(0, |best| best.check);
        Ok(Checked { objective, accuracy, enough: since >= PATIENCE })
    }

    /// Brings the best network back.
    pub(super) fn keep_best(&self, network: &Network) {
        if let Some(best) = self.best.as_ref().filter(|best| best.check < self.checks) {
            best.values.iter().for_each(|(param, values)| network.params.write(param, values));
        }
    }
}

/// The objective: mean kept x CE of the clean + forget x mean complementary CE of the flagged + restore x mean CE of the triggered;
/// and the percentage of the clean that get their label.
fn judge(said: &Predictions, labels: &[u32], [flagged, triggered]: [usize; 2], weights: &Weights) -> (f64, f64) {
    let mean = |range: std::ops::Range<usize>, value: &dyn Fn(usize) -> f64| {
        let count = range.len().max(1) as f64;
        range.map(value).sum::<f64>() / count
    };
    let ce = |i: usize| f64::from(said.loss[i]);
    let kept = |i: usize| f64::from(weights.kept[labels[i] as usize]) * ce(i);
    let classes = said.logits.len() / labels.len();
    let cce = |i: usize| complementary(&said.logits[i * classes..][..classes], labels[i] as usize);
    let objective = mean(0..flagged, &kept)
        + f64::from(weights.forget) * mean(flagged..triggered, &cce)
        + f64::from(weights.restore) * mean(triggered..labels.len(), &ce);
    let hit = |i: usize| f64::from(u8::from(said.class[i] == labels[i]));
    (objective, 100.0 * mean(0..flagged, &hit))
}

/// -log(1 - p_y) = softplus(z_y - lse of the others).
fn complementary(logits: &[f32], label: usize) -> f64 {
    let others = || logits.iter().enumerate().filter(|(k, _)| *k != label).map(|(_, z)| f64::from(*z));
    let most = others().fold(f64::NEG_INFINITY, f64::max);
    let lse = most + others().map(|z| (z - most).exp()).sum::<f64>().ln();
    let ahead = f64::from(logits[label]) - lse;
    ahead.max(0.0) + (-ahead.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn the_objective_is_the_steps_own() {
        let logits = [[1.0f32, 2.0, 0.0], [0.5, -1.0, 3.0], [40.0, 1.0, 2.0], [0.0, 1.0, -2.0]];
        let labels = [1u32, 0, 0, 2];
        let p = |i: usize| {
            let e: Vec<f64> = logits[i].iter().map(|z| f64::from(*z).exp()).collect();
            e[labels[i] as usize] / e.iter().sum::<f64>()
        };
        let said = Predictions {
            class: vec![1, 2, 0, 1],
            loss: (0..4).map(|i| -p(i).ln() as f32).collect(),
            logits: logits.concat(),
            ..Predictions::default()
        };
        let weights = Weights { kept: vec![2.0, 1.0, 1.0], forget: 0.5, restore: 3.0 };
        let (objective, accuracy) = judge(&said, &labels, [2, 3], &weights);
        // Where p_y is 1 up to rounding, -log(1 - p_y) is z_y less the others' log-sum-exp.
        let sure = 40.0 - (1f64.exp() + 2f64.exp()).ln();
        let expected = (-p(0).ln() - 2.0 * p(1).ln()) / 2.0 + 0.5 * sure - 3.0 * p(3).ln();
        assert_relative_eq!(objective, expected, max_relative = 1e-6);
        assert_relative_eq!(accuracy, 50.0);
        assert_relative_eq!(complementary(&logits[1], 0), -(1.0 - p(1)).ln(), max_relative = 1e-9);
    }
}
