//! The steps themselves: joint batches through one plan.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::trigger::Trigger;
use super::parts::Cycle;
use super::{RESTORE, STAGE, UnlearnConfig, UnlearnLoss};
use crate::data::Dataset;
use crate::kernel::Kernels;
use crate::ops::LossKind;
use crate::train::{
    Batch, Network, Observer, Part, Predictor, StepConfig, TrainError, TrainState, TrainStep, cosine, stream_until,
};

/// Confidence from which on the network's word for a flagged image counts.
const SURE: f32 = 0.8;

/// The state between one run of steps and the next.
pub(super) struct Steps<'a> {
    config: &'a UnlearnConfig,
    network: &'a Network,
    step: TrainStep,
    /// Weight of a clean sample's CE, by its label.
    kept: Vec<f32>,
    trigger: Option<Trigger>,
    /// Says what flagged images show.
    judge: Option<Predictor>,
    clean: Cycle,
    poisoned: Cycle,
    /// Clean images that get the trigger.
    restored: Cycle,
    drawn: Vec<Drawn>,
    pub(super) round: Round,
}

/// The steps between two looks at the held-out images, and how far they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Round {
    /// Of all steps, those of this round.
    pub(super) range: Range<usize>,
    /// What the network said, when the round began, of the flagged images in their order: class and confidence. Empty if it was not asked.
    said: Vec<(u32, f32)>,
    /// Steps taken.
    done: usize,
    /// Sum of the objective over these steps, and clean images that got their label.
    loss: f64,
    hits: usize,
    pub(super) seconds: f64,
}

impl Round {
    pub(super) fn done(&self) -> bool {
        self.done == self.range.len()
    }

    /// The mean of the objective over `range`.
    pub(super) fn loss(&self) -> f64 {
        self.loss / self.range.len().max(1) as f64
    }

    /// The percentage of clean samples that got their label, of `batch` a step.
    pub(super) fn accuracy(&self, batch: usize) -> f64 {
        100.0 * self.hits as f64 / (self.range.len() * batch).max(1) as f64
    }
}

/// The samples of a step.
#[derive(Debug, Default, PartialEq)]
struct Drawn {
    clean: Vec<usize>,
    /// Flagged images whose label is forgotten.
    forgotten: Vec<usize>,
    /// Flagged images that the network is sure about, and by what name.
    named: Vec<(usize, u32)>,
    /// Clean images that get the trigger.
    restored: Vec<usize>,
    /// Flagged images that the network is sure have their own label: right by chance, they are neither forgotten nor learned.
    own: Vec<usize>,
}

impl Drawn {
    /// Sorts the flagged images by what the network, asked for class and confidence in order, says of them.
    fn sort(&mut self, labels: &[u32], said: &[(u32, f32)]) {
        for (i, &(class, confidence)) in std::mem::take(&mut self.forgotten).into_iter().zip(said) {
            match confidence > SURE {
                true if class == labels[i] => self.own.push(i),
                true => self.named.push((i, class)),
                false => self.forgotten.push(i),
            }
        }
    }

    /// The batch: clean, forgotten, named and restored, own. `each` is the weight of a flagged or restored image in its mean.
    fn batch(&self, data: &Dataset, (lambda, each): (f32, f32), kept: &[f32], trigger: Option<&Trigger>) -> Batch {
        let names: Vec<usize> = self.named.iter().map(|(i, _)| *i).collect();
        let ruled = [&names[..], &self.restored].concat();
        let parts = [
            Part { indices: &self.clean, weight: 1.0 / self.clean.len().max(1) as f32 },
            Part { indices: &self.forgotten, weight: lambda * each },
            Part { indices: &ruled, weight: RESTORE * each },
            Part { indices: &self.own, weight: 0.0 },
        ];
        let keep = |sample: usize| kept[data.labels[sample] as usize];
        let Some(trigger) = trigger else { return Batch::new(data, &parts[..2]).weighed(0, keep) };
        let first = self.clean.len() + self.forgotten.len();
        let bare = first + self.named.len();
        let mut batch =
            Batch::new(data, &parts).weighed(0, keep).changed(bare..bare + self.restored.len(), |image| trigger.put(image));
        batch.labels[first..bare].iter_mut().zip(&self.named).for_each(|(label, (_, name))| *label = *name);
        batch
    }
}

impl<'a> Steps<'a> {
    /// # Errors
    /// A batch over the adapter's limits.
    pub(super) fn new(
        kernels: &Kernels,
        network: &'a Network,
        config: &'a UnlearnConfig,
        kept: Vec<f32>,
        trigger: Option<Trigger>,
        [clean, poisoned]: [Vec<usize>; 2],
    ) -> Result<Steps<'a>, TrainError> {
        let forget = match config.loss {
            UnlearnLoss::Cce => LossKind::Complementary,
            UnlearnLoss::Gga => LossKind::GradientAscent,
        };
        let losses = [LossKind::CrossEntropy, forget, LossKind::CrossEntropy];
        let (losses, batch) = match trigger {
            Some(_) => (&losses[..], config.batch()),
            None => (&losses[..2], config.batch_clean + config.batch_poison),
        };
        let step = TrainStep::new(kernels, network, &StepConfig::new(batch, losses, &config.sgd))?;
        let restored = if trigger.is_some() { clean.clone() } else { Vec::new() };
        let judge = match &trigger {
            Some(trigger) if !trigger.labels_right => Some(Predictor::new(kernels, network, config.batch())?),
            _ => None,
        };
        Ok(Steps {
            config,
            network,
            step,
            kept,
            trigger,
            judge,
            clean: Cycle::new(clean, config.seed, "unlearn clean"),
            poisoned: Cycle::new(poisoned, config.seed, "unlearn poisoned"),
            restored: Cycle::new(restored, config.seed, "unlearn triggered"),
            drawn: Vec::new(),
            round: Round::default(),
        })
    }

    /// Draws the samples of the steps `range`. From the second round on the network, as it is, says first what the flagged ones show.
    ///
    /// # Errors
    /// A wish to stop; the driver's.
    pub(super) fn begin(&mut self, data: &Dataset, range: Range<usize>, observer: &dyn Observer) -> Result<(), TrainError> {
        self.drawn = self.draw(range.len());
        // At first the network says of a flagged image what the trigger says.
        let judge = self.judge.as_mut().filter(|_| range.start > 0);
        let said = match judge {
            Some(judge) => {
                let asked: Vec<usize> = self.drawn.iter().flat_map(|d| &d.forgotten).copied().collect();
                let said = judge.run(&data.subset(&asked), &[], observer)?;
                said.class.into_iter().zip(said.confidence).collect()
            }
            None => Vec::new(),
        };
        self.enter(data, Round { range, said, ..Round::default() });
        Ok(())
    }

    /// Goes on in `round` as if all steps before it had been taken here.
    pub(super) fn resume(&mut self, data: &Dataset, round: Round) {
        self.draw(round.range.start);
        self.drawn = self.draw(round.range.len());
        self.enter(data, round);
    }

    fn enter(&mut self, data: &Dataset, round: Round) {
        if !round.said.is_empty() {
            let said = round.said.chunks(self.config.batch_poison);
            self.drawn.iter_mut().zip(said).for_each(|(drawn, said)| drawn.sort(&data.labels, said));
        }
        self.round = round;
    }

    fn draw(&mut self, count: usize) -> Vec<Drawn> {
        let (most, flagged) = (self.config.batch_clean, self.config.batch_poison);
        (0..count)
            .map(|_| Drawn {
                clean: self.clean.draw(most),
                forgotten: self.poisoned.draw(flagged),
                restored: self.restored.draw(flagged),
                ..Drawn::default()
            })
            .collect()
    }

    /// What is needed to go on after the steps taken so far.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn state<P: Serialize + DeserializeOwned>(&self, position: P) -> Result<TrainState<P>, TrainError> {
        TrainState::of(self.network, &self.step, position)
    }

    /// Gives network and optimizer what `state` holds; `path` is for messages.
    ///
    /// # Errors
    /// The state of another network.
    pub(super) fn restore<P: Serialize + DeserializeOwned>(&self, state: &TrainState<P>, path: &Path) -> Result<(), TrainError> {
        state.restore(self.network, &self.step, path)
    }

    /// Takes steps until the round is done, `limit` is over or the observer wants to stop.
    ///
    /// # Errors
    /// A loss that is not finite; the driver's.
    pub(super) fn run(
        &mut self,
        kernels: &Kernels,
        data: &Dataset,
        limit: Duration,
        observer: &dyn Observer,
    ) -> Result<(), TrainError> {
        let Steps { config, network, step, kept, trigger, drawn, round, .. } = self;
        let (config, network, kept, trigger) = (*config, *network, &*kept, trigger.as_ref());
        let first = round.range.start + round.done;
        let drawn = &drawn[round.done..];
        let start = Instant::now();
        let each = 1.0 / config.batch_poison as f32;
        // Forgetting fades as the rate does: what it asks for beyond the trigger is given back at the end.
        let lambda = |index: usize| config.lambda * cosine(1.0, first + index, config.steps) as f32;
        let batches = drawn.iter().enumerate().map(|(index, drawn)| drawn.batch(data, (lambda(index), each), kept, trigger));
        let submit = |index: usize, batch: &Batch| {
            let at = first + index;
            step.run(network, batch, cosine(config.lr, at, config.steps), (config.seed as u32) ^ 0x5bd1_e995 ^ at as u32)
        };
        let collect = |index: usize, batch: &Batch, parts: &[Vec<u8>]| {
            let Drawn { clean, forgotten, named, restored, .. } = &drawn[index];
            let weights = [1.0 / clean.len().max(1) as f32, lambda(index) * each, RESTORE * each];
            let mut begin = 0;
            for ((part, weight), count) in
                parts.iter().zip(weights).zip([clean.len(), forgotten.len(), named.len() + restored.len()])
            {
                let losses: Vec<f32> = bytemuck::pod_collect_to_vec(part);
                // Without a trigger the third part is empty, and what lies there are the classes.
                let losses = &losses[begin..begin + count];
                if let Some(&value) = losses.iter().find(|x| !x.is_finite()) {
                    return Err(TrainError::NotFinite {
                        stage: STAGE.into(),
                        epoch: 1,
                        step: first + index + 1,
                        value,
                        lr: config.lr,
                    });
                }
                round.loss += f64::from(weight) * losses.iter().map(|x| f64::from(*x)).sum::<f64>();
                begin += count;
            }
            let classes: Vec<u32> = parts.last().map(|p| bytemuck::pod_collect_to_vec(p)).unwrap_or_default();
            round.hits += batch.labels.iter().zip(&classes).take(clean.len()).filter(|(l, c)| l == c).count();
            round.done += 1;
            Ok(())
        };
        let enough = || observer.cancelled() || start.elapsed() >= limit;
        stream_until(kernels.gpu(), observer, enough, batches, submit, collect)?;
        round.seconds += start.elapsed().as_secs_f64();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Dataset {
        Dataset {
            name: "pixels".into(),
            size: 1,
            classes: ["a", "b", "c"].map(String::from).to_vec(),
            pixels: (0..18).collect(),
            labels: vec![0, 1, 0, 0, 0, 2],
            paths: (0..6).map(|i| i.to_string()).collect(),
        }
    }

    #[test]
    fn a_flagged_image_goes_where_the_network_is_sure_it_belongs() {
        let mut drawn = Drawn { clean: vec![1], forgotten: vec![0, 2, 3, 4], ..Drawn::default() };
        drawn.sort(&data().labels, &[(2, 0.9), (0, 0.9), (1, 0.7), (0, 0.7)]);
        assert_eq!((drawn.named, drawn.own, drawn.forgotten), (vec![(0, 2)], vec![2], vec![3, 4]));
    }

    #[test]
    fn each_part_of_a_batch_has_its_weights_labels_and_pixels() {
        let drawn = Drawn { clean: vec![1, 5], forgotten: vec![3], named: vec![(0, 2)], restored: vec![5, 1], own: vec![2] };
        let data = data();
        let clean: Vec<usize> = (0..2).cycle().take(16).collect();
        let trigger = Trigger::estimate(&data, &[4; 16], &clean).expect("enough images");
        let batch = drawn.batch(&data, (2.0, 0.25), &[1.0, 1.0, 3.0], Some(&trigger));
        assert_eq!(batch.indices, [1, 5, 3, 0, 5, 1, 2]);
        assert_eq!(batch.labels, [1, 2, 0, 2, 2, 1, 0]);
        let weights = batch.weights();
        assert_eq!(weights[0], [0.5, 1.5, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(weights[1], [0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(weights[2], [0.0, 0.0, 0.0, RESTORE * 0.25, RESTORE * 0.25, RESTORE * 0.25, 0.0]);
        let mut expected: Vec<Vec<u8>> = batch.indices.iter().map(|&i| data.image(i).to_vec()).collect();
        expected[4..6].iter_mut().for_each(|image| trigger.put(image));
        assert_ne!(expected[4], data.image(5), "the trigger shows");
        assert_eq!(batch.images(), expected);

        let plain = drawn.batch(&data, (2.0, 0.25), &[1.0; 3], None);
        assert_eq!((plain.indices, plain.labels), (vec![1, 5, 3], vec![1, 2, 0]));
    }
}
