//! Adversarial neuron pruning (Wu and Wang 2021): channels that a backdoor needs are the ones by which a small change can do most harm, and
//! they are switched off.
//!
//! Each channel of a batch norm has a mask m in [0, 1]. It multiplies its weight by m + delta and its bias by 1 + xi, where the perturbations
//! delta and xi are at most eps: drawn at random, then one step of eps up the loss, by signs. What the masks minimise is
//! alpha CE(m) + (1 - alpha) CE(m + delta, 1 + xi), by SGD of rate .2 and momentum .9, on images that are surely clean and drawn with replacement. Batch
//! norm is in training mode. So the paper has it; the authors' code leaves out to bring the perturbations back to eps.
//!
//! The paper's 2,000 steps of 128 images go through its 500 clean images 512 times. Where there are fewer, the steps are fewer in proportion.
//!
//! Then channels of a small mask get a weight of 0. The authors choose the threshold by test figures. Here the thresholds .05, .10, .. .90 are tried in
//! this order, and the last is kept before the accuracy on the clean images has fallen by more than `anp_lost` points.

use std::path::Path;
use std::time::Instant;

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::{Defense, Given, Lab, Split};
use crate::data::Dataset;
use crate::nn::Param;
use crate::options::{Kind, OptionSpec};
use crate::rng;
use crate::train::{
    Batch, EpochRecord, Network, NormGradient, NormGradients, Part, Predictor, SAVED_EVERY, TrainError, TrainState,
    images_at_once,
};

/// The defense, as it is listed.
pub(super) struct NeuronPruning;

const ITERATIONS: OptionSpec = OptionSpec {
    name: "anp_iterations",
    help: "steps of the masks, each of 128 images and three passes, where there are 500 clean images or more; in proportion fewer for fewer",
    kind: Kind::Number {
        default: 2000.0,
        allowed: |x| x >= 1.0 && x.fract() == 0.0 && x < 1e9,
        words: "a whole number of at least 1",
    },
};
const EPS: OptionSpec = OptionSpec {
    name: "anp_eps",
    help: "largest relative perturbation of a channel",
    kind: Kind::Number { default: 0.4, allowed: |x| x > 0.0 && x <= 1.0, words: "a number above 0, up to 1" },
};
const ALPHA: OptionSpec = OptionSpec {
    name: "anp_alpha",
    help: "share of the loss without perturbation in what the masks minimise",
    kind: Kind::Number { default: 0.2, allowed: |x| (0.0..=1.0).contains(&x), words: "a share from 0 to 1" },
};
const LOST: OptionSpec = OptionSpec {
    name: "anp_lost",
    help: "points of accuracy on the clean images that switching channels off may cost",
    kind: Kind::Number { default: 4.0, allowed: |x| (0.0..=100.0).contains(&x), words: "points from 0 to 100" },
};

const STAGE: &str = "search for neurons";
/// Images a step, where so many go through the device at once.
const BATCH: usize = 128;
/// Clean images from which on there are as many steps as are asked for.
const CLEAN: usize = 500;
/// Of the masks.
const LR: f32 = 0.2;
/// Of the masks.
const MOMENTUM: f32 = 0.9;
/// Steps that are reported together.
const ROUND: usize = 100;

impl Defense for NeuronPruning {
    fn name(&self) -> &'static str {
        "ANP"
    }

    fn summary(&self) -> &'static str {
        "adversarial neuron pruning: switches off the channels by which a small change does most harm to surely clean images"
    }

    fn purify_options(&self) -> &'static [OptionSpec] {
        &[ITERATIONS, EPS, ALPHA, LOST]
    }

    fn needs_clean(&self) -> bool {
        true
    }

    fn purify(&self, lab: &Lab, given: &Given, _: &Split) -> Result<Network, TrainError> {
        let clean = given.clean()?;
        let mut search = Search::new(lab, given.victim, clean)?;
        search.finish(&lab.scratch("anp.state.safetensors")?)?;
        let network = given.victim.duplicate(lab.kernels)?;
        prune(lab, &network, clean, &search)?;
        Ok(network)
    }
}

/// Where the search for masks is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Position {
    /// Steps in all, clean images, eps and alpha.
    asked: (usize, usize, f32, f32),
    /// Steps done.
    done: usize,
    /// Of those of the round: sum of the objective, images that got their label without a perturbation, images, seconds.
    loss: f64,
    hits: usize,
    seen: usize,
    seconds: f64,
}

/// The search for masks.
struct Search<'a> {
    lab: &'a Lab<'a>,
    clean: &'a Dataset,
    gradient: NormGradient,
    batch: usize,
    /// The victim's weights and biases of all channels.
    weights: Vec<f32>,
    biases: Vec<f32>,
    masks: Vec<f32>,
    velocity: Vec<f32>,
    at: Position,
}

impl<'a> Search<'a> {
    fn new(lab: &'a Lab, victim: &Network, clean: &'a Dataset) -> Result<Search<'a>, TrainError> {
        let batch = images_at_once(lab.kernels, &victim.spec, BATCH)?;
        let gradient = NormGradient::new(lab.kernels, victim.duplicate(lab.kernels)?, batch, &lab.training.sgd)?;
        let params = victim.params.read()?;
        let all = |which: usize| -> Vec<f32> {
            let of = |norm: &[Param; 2]| params.iter().find(|(param, _)| *param == norm[which]).map(|(_, values)| values.clone());
            gradient.norms().iter().filter_map(of).flatten().collect()
        };
        let (weights, biases) = (all(0), all(1));
        let (masks, velocity) = (vec![1.0; weights.len()], vec![0.0; weights.len()]);
        let [eps, alpha] = [&EPS, &ALPHA].map(|option| lab.options.number(option) as f32);
        let steps = (lab.options.count(&ITERATIONS) * clean.len().min(CLEAN)).div_ceil(CLEAN);
        let asked = (steps, clean.len(), eps, alpha);
        let at = Position { asked, ..Position::default() };
        Ok(Search { lab, clean, gradient, batch, weights, biases, masks, velocity, at })
    }

    /// All steps that are left; goes on from `state` where the file exists, and saves itself there after every round and every minute.
    fn finish(&mut self, state: &Path) -> Result<(), TrainError> {
        if state.is_file() {
            self.load(state)?;
        }
        let (steps, ..) = self.at.asked;
        let (observer, rounds, mut saved) = (self.lab.observer, steps.div_ceil(ROUND), Instant::now());
        while self.at.done < steps {
            let round = self.at.done / ROUND + 1;
            let end = steps.min(round * ROUND);
            observer.begin(&format!("{STAGE} {round}/{rounds}"), ((end - self.at.done) * self.batch) as u64);
            while self.at.done < end {
                let stopped = observer.cancelled();
                if stopped || saved.elapsed() >= SAVED_EVERY {
                    self.save(state)?;
                    saved = Instant::now();
                }
                if stopped {
                    return Err(TrainError::Cancelled);
                }
                let start = Instant::now();
                self.step()?;
                self.at.seconds += start.elapsed().as_secs_f64();
                observer.advance(self.batch as u64);
            }
            let Position { loss, hits, seen, seconds, .. } = self.at;
            observer.epoch(&EpochRecord {
                stage: STAGE.into(),
                epoch: round,
                epochs: rounds,
                loss: loss / seen as f64,
                accuracy: 100.0 * hits as f64 / seen as f64,
                lr: f64::from(LR),
                seconds,
                images_per_second: seen as f64 / seconds,
            })?;
            self.at = Position { loss: 0.0, hits: 0, seen: 0, seconds: 0.0, ..self.at };
            self.save(state)?;
        }
        Ok(())
    }

    /// One step. All that it draws follows from the seed and its number.
    fn step(&mut self) -> Result<(), TrainError> {
        let (_, images, eps, alpha) = self.at.asked;
        let mut draws = rng::stream(self.lab.training.seed, &format!("neuron pruning {}", self.at.done));
        let indices: Vec<usize> = (0..self.batch).map(|_| draws.random_range(0..images)).collect();
        let batch = Batch::new(self.clean, &[Part { indices: &indices, weight: 1.0 / self.batch as f32 }]);
        let crops = draws.random();
        let (n, ones) = (self.masks.len(), vec![1.0; self.masks.len()]);
        let [mut delta, mut xi] = [(); 2].map(|()| (0..n).map(|_| draws.random_range(-eps..eps)).collect::<Vec<f32>>());

        let up = self.run(&batch, [&sums(&self.masks, &delta), &sums(&ones, &xi)], crops)?;
        climb(&mut delta, &products(&up.weight, &self.weights), eps);
        climb(&mut xi, &products(&up.bias, &self.biases), eps);
        let perturbed = self.run(&batch, [&sums(&self.masks, &delta), &sums(&ones, &xi)], crops)?;
        let plain = self.run(&batch, [&self.masks.clone(), &ones], crops)?;
        for i in 0..n {
            let slope = self.weights[i] * (alpha * plain.weight[i] + (1.0 - alpha) * perturbed.weight[i]);
            self.velocity[i] = MOMENTUM * self.velocity[i] + slope;
            self.masks[i] = (self.masks[i] - LR * self.velocity[i]).clamp(0.0, 1.0);
        }
        for ((plain, right), (perturbed, _)) in plain.images.iter().zip(&perturbed.images) {
            self.at.loss += f64::from(alpha * plain + (1.0 - alpha) * perturbed);
            self.at.hits += usize::from(*right);
        }
        self.at.seen += self.batch;
        self.at.done += 1;
        if self.at.loss.is_finite() {
            return Ok(());
        }
        let (epoch, step, lr) = (1, self.at.done, f64::from(LR));
        Err(TrainError::NotFinite { stage: STAGE.into(), epoch, step, value: self.at.loss as f32, lr })
    }

    /// Losses and gradients with the victim's weights and biases multiplied by these.
    fn run(&mut self, batch: &Batch, [weights, biases]: [&[f32]; 2], crops: u32) -> Result<NormGradients, TrainError> {
        let at = [products(&self.weights, weights), products(&self.biases, biases)];
        self.gradient.run(batch, [&at[0], &at[1]], crops)
    }

    fn save(&self, path: &Path) -> Result<(), TrainError> {
        let tensors = [("masks", &self.masks), ("velocity", &self.velocity)];
        let tensors = tensors.map(|(name, values)| (name.to_string(), values.clone())).into();
        TrainState { tensors, position: self.at }.write(path)
    }

    fn load(&mut self, path: &Path) -> Result<(), TrainError> {
        let TrainState { mut tensors, position } = TrainState::<Position>::read(path)?;
        let mut take = |name: &str| tensors.remove(name).filter(|values| values.len() == self.masks.len());
        match (take("masks"), take("velocity")) {
            (Some(masks), Some(velocity)) if position.asked == self.at.asked => {
                (self.masks, self.velocity, self.at) = (masks, velocity, position);
                Ok(())
            }
            _ => {
                let why =
                    format!("it is the state of another search ({:?}), or damaged: remove it to begin anew", position.asked);
                Err(TrainError::Checkpoint { path: path.into(), why })
            }
        }
    }
}

/// Element by element.
fn sums(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// Element by element.
fn products(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a * b).collect()
}

/// A step of `eps` along the signs of `slopes`, and back to where no perturbation is over `eps`.
fn climb(perturbation: &mut [f32], slopes: &[f32], eps: f32) {
    let sign = |slope: f32| if slope == 0.0 { 0.0 } else { slope.signum() };
    perturbation.iter_mut().zip(slopes).for_each(|(x, slope)| *x = (*x + eps * sign(*slope)).clamp(-eps, eps));
}

/// Gives a weight of 0 to the channels of `network` that masks and clean images say.
fn prune(lab: &Lab, network: &Network, clean: &Dataset, search: &Search) -> Result<(), TrainError> {
    let write = |off: &[usize]| {
        let mut weights = search.weights.clone();
        off.iter().for_each(|channel| weights[*channel] = 0.0);
        let mut rest = &weights[..];
        for [weight, _] in search.gradient.norms() {
            let (own, behind) = rest.split_at(weight.kind.device_shape().len());
            network.params.write(weight, own);
            rest = behind;
        }
    };
    let mut predictor = Predictor::new(lab.kernels, network, lab.training.batch.min(clean.len()))?;
    let accuracy = |off: &[usize]| {
        write(off);
        lab.observer.begin("accuracy after pruning", clean.len() as u64);
        let said = predictor.run(clean, &[], lab.observer)?;
        let right = said.class.iter().zip(&clean.labels).filter(|(class, label)| class == label).count();
        Ok(100.0 * right as f64 / clean.len() as f64)
    };
    let off = harmless(&search.masks, lab.options.number(&LOST), accuracy)?;
    log::info!("{} of {} channels switched off", off.len(), search.masks.len());
    write(&off);
    Ok(())
}

/// The channels whose masks are at most a threshold: the last of .05, .10, .. .90 before the accuracy with them switched off has fallen by more
/// than `lost` points.
fn harmless(
    masks: &[f32],
    lost: f64,
    mut accuracy: impl FnMut(&[usize]) -> Result<f64, TrainError>,
) -> Result<Vec<usize>, TrainError> {
    let least = accuracy(&[])? - lost;
    let mut off = Vec::new();
    for threshold in (1..=18).map(|step| 0.05 * step as f32) {
        let more: Vec<usize> = (0..masks.len()).filter(|&channel| masks[channel] <= threshold).collect();
        if more.len() == off.len() {
            continue;
        }
        if accuracy(&more)? < least {
            break;
        }
        off = more;
    }
    Ok(off)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::gpu::{AdapterChoice, Gpu};
    use crate::kernel::Kernels;
    use crate::nn::ModelSpec;
    use crate::ops::LossKind;
    use crate::options::Options;
    use crate::train::{Normalisation, SgdConfig, Stops, TrainConfig};

    /// NumPy: `np.clip(x + 0.4 * np.sign(g), -0.4, 0.4)`.
    #[test]
    fn a_perturbation_goes_up_and_stays_within_its_bound() {
        let mut perturbation = [0.1, -0.3, 0.4, -0.2, 0.0];
        climb(&mut perturbation, &[2.0, 0.01, -5.0, 0.0, -0.1], 0.4);
        let numpy: [f32; 5] = [0.4, 0.1, 0.0, -0.2, -0.4];
        assert!(perturbation.iter().zip(numpy).all(|(a, b)| (a - b).abs() < 1e-6), "{perturbation:?}");
    }

    #[test]
    fn thresholds_rise_until_accuracy_falls() {
        let masks = [0.9, 0.0, 0.32, 1.0, 0.05, 0.61];
        // Channel 2 costs two points, channel 5 four, channel 0 all.
        let asked = Cell::new(0);
        let accuracy = |off: &[usize]| {
            asked.set(asked.get() + 1);
            Ok(90.0 - off.iter().map(|channel| [90.0, 0.0, 2.0, 90.0, 0.0, 4.0][*channel]).sum::<f64>())
        };
        assert_eq!(harmless(&masks, 0.0, accuracy).unwrap(), [1, 4]);
        assert_eq!(asked.get(), 3, "it is asked again only where channels come in");
        assert_eq!(harmless(&masks, 2.0, accuracy).unwrap(), [1, 2, 4]);
        assert_eq!(harmless(&masks, 6.0, accuracy).unwrap(), [1, 2, 4, 5]);
        assert_eq!(harmless(&masks, 100.0, accuracy).unwrap(), [0, 1, 2, 4, 5], "what is over .9 stays");
    }

    #[test]
    fn a_search_that_was_stopped_goes_on_and_ends_with_the_same_bits() {
        let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).expect("the tests need an adapter"));
        let spec = ModelSpec::new("resnet18", 4, 4, 16);
        let victim = Network::new(&kernels, &spec, &Normalisation { mean: [0.5; 3], std: [0.3; 3] }, 1).unwrap();
        let mut noise = rng::stream(4, "noise");
        let clean = Dataset {
            name: "noise".into(),
            size: 16,
            classes: ["a", "b", "c", "d"].map(String::from).to_vec(),
            pixels: (0..12 * 16 * 16 * 3).map(|_| noise.random()).collect(),
            labels: (0..12).map(|_| noise.random_range(0..4)).collect(),
            paths: (0..12).map(|i| i.to_string()).collect(),
        };
        let sgd = SgdConfig { crop_pad: 2, flip: true, ..SgdConfig::default() };
        let loss = LossKind::CrossEntropy;
        let training =
            TrainConfig { stage: "train".into(), loss, epochs: 1, batch: 8, lr: 0.1, sgd, learns: vec![], rho: 0.0, seed: 5 };
        let place = tempfile::tempdir().unwrap();
        let search = |iterations: f64, asked: usize, state: &str| {
            // For 12 images, of which 500 would have so many steps.
            let options = Options::from([("anp_iterations", (iterations * 500.0 / 12.0).into())]);
            let observer = Stops(Cell::new(asked));
            let (kernels, training, options, observer) = (&kernels, &training, &options, &observer);
            let lab = Lab { kernels, training, options, folder: place.path(), observer };
            let mut search = Search::new(&lab, &victim, &clean).unwrap();
            let done = search.finish(&place.path().join(state));
            done.map(|()| search.masks.clone())
        };
        let whole = search(6.0, usize::MAX, "whole").unwrap();
        assert!(matches!(search(6.0, 4, "stopped"), Err(TrainError::Cancelled)));
        assert_eq!(search(6.0, usize::MAX, "stopped").unwrap(), whole);
        assert!(whole.iter().all(|mask| (0.0..=1.0).contains(mask)) && whole.iter().filter(|mask| **mask < 1.0).count() > 20);
        let error = search(7.0, usize::MAX, "stopped").expect_err("another search").to_string();
        assert!(error.contains("it is the state of another search"), "{error}");
    }
}
