//! Images that no step sees: they say which step's network is kept, how much of it, and when to stop.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::super::trigger::Trigger;
use super::parts::hold_out;
use crate::data::Dataset;
use crate::kernel::Kernels;
use crate::nn::Param;
use crate::train::{Network, Observer, Predictions, Predictor, TrainError, Wanted};

/// At most so many clean images are held out, and so many flagged ones.
const MOST: [usize; 2] = [256, 128];
/// Fewer of either say too little: nothing is held out then, and the last step's network is kept.
const LEAST: usize = 8;
/// Checks in a row without a better network end the steps.
const PATIENCE: usize = 2;
/// Shares of the unlearned weights in the mixtures with the weights before that are tried at the end.
///
/// Between a network and its fine-tuned form the mean of the weights is a network too, and often one that keeps more of both (Wortsman et
/// al. 2022, Robust fine-tuning of zero-shot models). Forgetting is reached early on this way, the last of it costs accuracy.
const MIXTURES: [f32; 3] = [0.25, 0.5, 0.75];

/// What the losses weigh.
#[derive(Clone, Debug)]
pub(super) struct Balance {
    /// CE of a clean sample, by its label.
    pub(super) kept: Vec<f32>,
    /// CE of clean samples with the trigger.
    pub(super) restore: f32,
}

/// A check's outcome, the better the less: what is not forgotten yet counts first, then the losses.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// By how much more flagged images than [`RIGHT`] and one in K still get their label, a share.
    unforgotten: f64,
    /// Mean kept x CE of the clean + restore x mean CE of the triggered.
    loss: f64,
    /// Flagged images that still get their label, a share.
    remembered: f64,
}

/// So many flagged images may have their label by right, beside the one in K that poison labels so by chance.
const RIGHT: f64 = 0.05;

/// What a check says of the network.
pub(super) struct Checked {
    pub(super) loss: f64,
    /// Percent of the clean images that get their label.
    pub(super) accuracy: f64,
    /// It has long not become better.
    pub(super) enough: bool,
}

/// A network's parameters.
type Values = Vec<(Param, Vec<f32>)>;

/// Which network is the best so far.
struct Best {
    outcome: Outcome,
    check: usize,
    values: Values,
}

/// The held-out images, clean, flagged, and clean with the trigger, one part after another.
pub(super) struct HeldOut {
    data: Dataset,
    /// Where the flagged images begin, and where those with the trigger do.
    borders: [usize; 2],
    balance: Balance,
    predictor: Predictor,
    /// The network before the first step.
    old: Values,
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
        balance: Balance,
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
        Ok(HeldOut { data: held, borders, balance, predictor, old: network.params.read()?, checks: 0, best: None })
    }

    pub(super) fn len(&self) -> usize {
        self.data.len()
    }

    /// Judges the network as it is, and remembers it if it is the best so far.
    ///
    /// # Errors
    /// A loss that is no number; a wish to stop; the driver's.
    pub(super) fn check(&mut self, network: &Network, observer: &dyn Observer) -> Result<Checked, TrainError> {
        let (outcome, accuracy) = self.look(observer)?;
        self.checks += 1;
        if self.best.as_ref().is_none_or(|best| outcome < best.outcome) {
            self.best = Some(Best { outcome, check: self.checks, values: network.params.read()? });
        }
        let since = self.checks - self.best.as_ref().map_or(0, |best| best.check);
        Ok(Checked { loss: outcome.loss, accuracy, enough: since >= PATIENCE })
    }

    /// Looks taken, and of the best its outcome and number.
    pub(super) fn position(&self) -> (usize, Option<(Outcome, usize)>) {
        (self.checks, self.best.as_ref().map(|best| (best.outcome, best.check)))
    }

    /// The best network's parameters; empty before the first look.
    pub(super) fn best_values(&self) -> &[(Param, Vec<f32>)] {
        self.best.as_ref().map_or(&[], |best| &best.values)
    }

    /// Takes over what [`HeldOut::position`] and [`HeldOut::best_values`] said.
    pub(super) fn resume(
        &mut self,
        checks: usize,
        best: Option<(Outcome, usize)>,
        mut values: impl FnMut(&Param) -> Option<Vec<f32>>,
    ) {
        self.checks = checks;
        self.best = best.map(|(outcome, check)| {
            let of = |(param, _): &(Param, Vec<f32>)| Some((param.clone(), values(param)?));
            Best { outcome, check, values: self.old.iter().filter_map(of).collect() }
        });
    }

    /// Brings the best network back, or its best mixture with the network before.
    ///
    /// # Errors
    /// As [`HeldOut::check`].
    pub(super) fn keep_best(mut self, network: &Network, observer: &dyn Observer) -> Result<(), TrainError> {
        let Some(Best { mut outcome, values: new, .. }) = self.best.take() else { return Ok(()) };
        let old = std::mem::take(&mut self.old);
        let mix = |share: f32| {
            for ((param, old), (_, new)) in old.iter().zip(&new) {
                let mean: Vec<f32> = old.iter().zip(new).map(|(old, new)| old + share * (new - old)).collect();
                network.params.write(param, &mean);
            }
        };
        // A mixture may win by what it keeps, not by what it forgets less.
        let (mut share, remembered) = (1.0, outcome.remembered);
        for mixture in MIXTURES {
            mix(mixture);
            let (mixed, _) = self.look(observer)?;
            log::info!("{mixture} of the unlearned weights: {mixed:?}, best so far {outcome:?}");
            if mixed.loss < outcome.loss && mixed.remembered <= remembered {
                (outcome, share) = (mixed, mixture);
            }
        }
        if share < 1.0 {
            mix(share);
        } else {
            new.iter().for_each(|(param, values)| network.params.write(param, values));
        }
        Ok(())
    }

    /// What the images say of the network as it is on the device, and the percentage of the clean that get their label.
    fn look(&mut self, observer: &dyn Observer) -> Result<(Outcome, f64), TrainError> {
        let said = self.predictor.run(&self.data, &[Wanted::Loss], observer)?;
        let (outcome, accuracy) = judge(&said, &self.data.labels, self.borders, &self.balance);
        if !outcome.loss.is_finite() {
            let value = outcome.loss;
            return Err(TrainError::Data(format!(
                "unlearning made the loss of held-out images {value}; try a smaller --unlearn-lr"
            )));
        }
        Ok((outcome, accuracy))
    }
}

/// The outcome, and the percentage of the clean that get their label.
fn judge(said: &Predictions, labels: &[u32], [flagged, triggered]: [usize; 2], balance: &Balance) -> (Outcome, f64) {
    let mean = |range: Range<usize>, value: &dyn Fn(usize) -> f64| {
        let count = range.len().max(1) as f64;
        range.map(value).sum::<f64>() / count
    };
    let ce = |i: usize| f64::from(said.loss[i]);
    let kept = |i: usize| f64::from(balance.kept[labels[i] as usize]) * ce(i);
    let hit = |i: usize| f64::from(u8::from(said.class[i] == labels[i]));
    let allowed = RIGHT + 1.0 / balance.kept.len() as f64;
    let remembered = mean(flagged..triggered, &hit);
    let unforgotten = (remembered - allowed).max(0.0);
    let loss = mean(0..flagged, &kept) + f64::from(balance.restore) * mean(triggered..labels.len(), &ce);
    (Outcome { unforgotten, loss, remembered }, 100.0 * mean(0..flagged, &hit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{LoadOptions, Spec, load};
    use crate::gpu::{AdapterChoice, Gpu};
    use crate::nn::ModelSpec;
    use crate::train::{Normalisation, Silent};
    use approx::assert_relative_eq;

    #[test]
    fn the_best_network_comes_back_and_two_worse_ones_are_enough() {
        let data = load(&Spec::find("digits").unwrap(), &LoadOptions::default()).unwrap().train;
        let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).unwrap());
        let model = ModelSpec::new("resnet18", 4, 10, data.size);
        let network = Network::new(&kernels, &model, &Normalisation { mean: [0.3; 3], std: [0.3; 3] }, 5).unwrap();
        let (mut clean, mut flagged): (Vec<usize>, Vec<usize>) = ((0..200).collect(), (200..300).collect());
        let lists = take(&mut clean, &mut flagged, 3).expect("enough to hold some out");
        assert_eq!((lists[0].len(), lists[1].len(), clean.len(), flagged.len()), (20, 10, 180, 90));
        let balance = Balance { kept: vec![1.0; 10], restore: 0.5 };
        let mut held = HeldOut::new(&kernels, &network, &data, &lists, None, balance, 32).unwrap();

        let good = network.params.read().unwrap();
        assert!(!held.check(&network, &Silent).unwrap().enough);
        // A network that is sure of every image being a 7 errs more than one that knows nothing.
        let bias = good.iter().find(|(param, _)| param.name == "linear.bias").expect("a bias");
        network.params.write(&bias.0, &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 50.0, 0.0, 0.0]);
        assert!(!held.check(&network, &Silent).unwrap().enough);
        assert!(held.check(&network, &Silent).unwrap().enough);
        let (mut old, new) = (good.clone(), good.clone());
        held.old.clone_from(&old);
        held.keep_best(&network, &Silent).unwrap();
        assert_eq!(network.params.read().unwrap(), good);

        // From a network that is sure of a 7 to one that knows nothing every step is a gain; so it is to one that is sure of the right
        // class, but half of the way to one that overshoots is better than all of it.
        let at = old.iter().position(|(param, _)| param.name == "linear.bias").expect("a bias");
        old[at].1[7] = 50.0;
        let settled = |old: &Values, new: &Values| {
            let balance = Balance { kept: vec![1.0; 10], restore: 0.5 };
            let mut held = HeldOut::new(&kernels, &network, &data, &lists, None, balance, 32).unwrap();
            held.old.clone_from(old);
            new.iter().for_each(|(param, values)| network.params.write(param, values));
            held.check(&network, &Silent).unwrap();
            held.keep_best(&network, &Silent).unwrap();
            network.params.read().unwrap()[at].1.clone()
        };
        assert_eq!(settled(&old, &new), new[at].1);
        let mut beyond = new.clone();
        beyond[at].1[7] = -50.0;
        let half: Vec<f32> = old[at].1.iter().zip(&beyond[at].1).map(|(old, new)| old + 0.5 * (new - old)).collect();
        assert_eq!(settled(&old, &beyond), half);
    }

    #[test]
    fn forgetting_counts_first_and_then_the_losses() {
        let said =
            |class: &[u32], loss: &[f32]| Predictions { class: class.to_vec(), loss: loss.to_vec(), ..Predictions::default() };
        let balance = Balance { kept: vec![2.0, 1.0, 1.0, 1.0], restore: 0.5 };
        // Two clean images, four flagged ones, one with the trigger.
        let labels = [1, 0, 0, 0, 0, 0, 2];
        let of = |class: &[u32], loss: &[f32]| judge(&said(class, loss), &labels, [2, 6], &balance);

        let (bad, accuracy) = of(&[1, 3, 0, 0, 0, 1, 2], &[0.1, 0.2, 9.0, 9.0, 9.0, 9.0, 0.6]);
        assert_relative_eq!(accuracy, 50.0);
        assert_relative_eq!(bad.unforgotten, 0.75 - 0.25 - RIGHT);
        assert_relative_eq!(bad.loss, (0.1 + 2.0 * 0.2) / 2.0 + 0.5 * 0.6, max_relative = 1e-6);
        // One flagged image in four classes has its label by right.
        let (good, _) = of(&[1, 3, 0, 1, 1, 1, 2], &[0.3, 0.3, 0.0, 0.0, 0.0, 0.0, 3.0]);
        assert_eq!(good.unforgotten, 0.0);
        assert!(good < bad && good.loss > bad.loss);
        let (better, _) = of(&[1, 3, 2, 1, 1, 1, 2], &[0.3, 0.3, 0.0, 0.0, 0.0, 0.0, 1.0]);
        assert!(better < good);
    }
}
