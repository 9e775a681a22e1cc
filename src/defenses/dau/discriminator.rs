//! The discriminator: a fresh linear head on frozen, standardised features, trained full-batch as a GAN's discriminator with
//! D(x) = p_y, the probability of the given label: cross-entropy where the sample is believed poisoned, complementary
//! cross-entropy elsewhere.

use serde::{Deserialize, Serialize};

use crate::data::Dataset;
use crate::graph::{Footprint, Graph, Plan, Shape, Value, Variables};
use crate::kernel::Kernels;
use crate::ops::{Adam, Linear, Loss, LossKind};
use crate::rng;
use crate::train::{Observer, TrainError, cosine};

/// Rounds of discriminator training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiscriminatorConfig {
    /// The first on the pre-filtered samples, each later one on the verdicts of the one before.
    pub rounds: usize,
    /// Full-batch Adam steps a round.
    pub steps: usize,
    /// Peak of a cosine schedule.
    pub lr: f64,
    /// Coefficient of ||W||^2 in the first round and in the later ones.
    pub l2: [f32; 2],
}

impl Default for DiscriminatorConfig {
    fn default() -> DiscriminatorConfig {
        DiscriminatorConfig { rounds: 4, steps: 60, lr: 0.05, l2: [0.5, 0.03] }
    }
}

/// A discriminator over one data set's features, which stay on the device, in several parts where one buffer cannot hold them.
pub(super) struct Discriminator<'a> {
    kernels: &'a Kernels,
    config: &'a DiscriminatorConfig,
    variables: Variables,
    /// Samples, features, classes.
    extents: [usize; 3],
    /// Samples of a part; the last may have fewer.
    part: usize,
    seed: u64,
    rounds_done: usize,
}

/// The head's training, full-batch: gradients of all parts meet before the update.
struct HeadStep {
    graph: Graph,
    /// Of each part the weights of its samples, and their losses.
    parts: Vec<HeadPart>,
}

struct HeadPart {
    believed: Value,
    others: Value,
    loss: Value,
}

const BETAS: [f64; 2] = [0.9, 0.999];
/// Few enough that Ctrl-C is heard between, and that no driver takes the device for hung.
const STEPS_A_SUBMIT: usize = 10;
const STATE: [&str; 6] = ["weight", "bias", "m/weight", "v/weight", "m/bias", "v/bias"];

impl<'a> Discriminator<'a> {
    /// `features` [N, D] as the frozen network gives them.
    ///
    /// # Errors
    /// Features that not even many parts make fit the adapter's limits.
    pub fn new(
        kernels: &'a Kernels,
        features: &[f32],
        data: &Dataset,
        config: &'a DiscriminatorConfig,
        seed: u64,
    ) -> Result<Discriminator<'a>, TrainError> {
        let n = data.len();
        let extents = [n, features.len() / n, data.classes.len()];
        let mut part = n;
        while part > 1 && !fits(kernels, extents, part)? {
            part = part.div_ceil(2);
        }
        Discriminator::in_parts(kernels, features, data, config, seed, part)
    }

    /// The same with so many samples a part.
    fn in_parts(
        kernels: &'a Kernels,
        features: &[f32],
        data: &Dataset,
        config: &'a DiscriminatorConfig,
        seed: u64,
        part: usize,
    ) -> Result<Discriminator<'a>, TrainError> {
        let (n, k) = (data.len(), data.classes.len());
        let d = features.len() / n;
        let gpu = kernels.gpu();
        let mut variables = Variables::new();
        let standard = standardise(features, [n, d]);
        for (i, (rows, labels)) in standard.chunks(part * d).zip(data.labels.chunks(part)).enumerate() {
            let [x, y] = [numbered("features", i), numbered("labels", i)];
            variables.insert(x.clone(), gpu.buffer(&x, rows.len())?);
            variables.insert(y.clone(), gpu.buffer(&y, labels.len())?);
            gpu.upload(&variables[&x], rows);
            gpu.upload(&variables[&y], labels);
        }
        for name in STATE {
            let len = if name.ends_with("weight") { k * d } else { k };
            variables.insert(name.to_string(), gpu.buffer(name, len)?);
        }
        Ok(Discriminator { kernels, config, variables, extents: [n, d, k], part, seed, rounds_done: 0 })
    }

    /// One round: trains a fresh head to tell the `believed` samples from the others, and gives D(x) of every sample. The first
    /// round weighs the two sides alike; a later one is a majority vote in which every sample counts the same.
    ///
    /// # Errors
    /// A wish to stop; the driver's.
    pub fn round(&mut self, believed: &[bool], observer: &dyn Observer) -> Result<Vec<f32>, TrainError> {
        let [n, d, k] = self.extents;
        let gpu = self.kernels.gpu();
        let round = self.rounds_done;
        self.rounds_done += 1;
        observer.begin(&format!("discriminator, round {}", round + 1), (n * self.config.steps) as u64);
        let count = believed.iter().filter(|b| **b).count();
        let (l2, weight, other) = match round {
            0 => (self.config.l2[0], 1.0 / count.max(1) as f32, 1.0 / (n - count).max(1) as f32),
            _ => (self.config.l2[1], 2.0 / n as f32, 2.0 / n as f32),
        };
        let head = head_step(self.extents, self.part, l2)?;
        let losses: Vec<Value> = head.parts.iter().map(|part| part.loss).collect();
        let mut plan = Plan::new(self.kernels, &head.graph, &losses, &self.variables)?;
        for (part, believed) in head.parts.iter().zip(believed.chunks(self.part)) {
            let side = |yes: f32, no: f32| believed.iter().map(|b| if *b { yes } else { no }).collect::<Vec<f32>>();
            plan.write(part.believed, &side(weight, 0.0))?;
            plan.write(part.others, &side(0.0, other))?;
        }
        for name in STATE {
            gpu.upload(&self.variables[name], &vec![0.0f32; (self.variables[name].bytes() / 4) as usize]);
        }
        let mut rng = rng::stream(self.seed, &format!("head {round}"));
        let w: Vec<f32> = (0..k * d).map(|_| (0.01 * rng::normal(&mut rng)) as f32).collect();
        gpu.upload(&self.variables["weight"], &w);
        let steps = self.config.steps;
        for first in (0..steps).step_by(STEPS_A_SUBMIT) {
            observer.go_on()?;
            let count = STEPS_A_SUBMIT.min(steps - first);
            plan.run_many(count, |plan, i| {
                let step = first + i;
                plan.set("lr", cosine(self.config.lr, step, steps))?;
                plan.set("bias1", 1.0 - BETAS[0].powi(step as i32 + 1))?;
                plan.set("bias2", 1.0 - BETAS[1].powi(step as i32 + 1))
            })?;
            observer.advance((count * n) as u64);
        }
        // The loss of a run is that of the weights before its update: one more at learning rate 0 sees the last.
        plan.set("lr", 0.0)?;
        let parts = plan.run_and_fetch(&losses)?.wait(gpu)?;
        let losses = parts.iter().flat_map(|part| bytemuck::pod_collect_to_vec::<u8, f32>(part));
        Ok(losses.map(|l| (-l).exp()).collect())
    }
}

/// Each feature dimension to mean 0 and variance 1 over the samples.
fn standardise(features: &[f32], [n, d]: [usize; 2]) -> Vec<f32> {
    let mut moments = vec![[0.0f64; 2]; d];
    for row in features.chunks_exact(d) {
        for (moment, x) in moments.iter_mut().zip(row) {
            moment[0] += f64::from(*x) / n as f64;
        }
    }
    for row in features.chunks_exact(d) {
        for (moment, x) in moments.iter_mut().zip(row) {
            moment[1] += (f64::from(*x) - moment[0]).powi(2) / n as f64;
        }
    }
    let standard = |(x, [mean, var]): (&f32, &[f64; 2])| ((f64::from(*x) - mean) / (var + 1e-8).sqrt()) as f32;
    features.chunks_exact(d).flat_map(|row| row.iter().zip(&moments).map(standard)).collect()
}

fn numbered(name: &str, part: usize) -> String {
    format!("{name} {part}")
}

/// Whether the training in parts of so many samples fits the adapter's limits.
fn fits(kernels: &Kernels, [n, d, k]: [usize; 3], part: usize) -> Result<bool, TrainError> {
    let head = head_step([n, d, k], part, 0.0)?;
    let losses: Vec<Value> = head.parts.iter().map(|part| part.loss).collect();
    let gpu = kernels.gpu();
    let features = (4 * part * d) as u64 <= gpu.max_binding();
    Ok(features && Footprint::of(&head.graph, &losses, gpu.caps()).check(gpu).is_ok())
}

fn head_step([n, d, k]: [usize; 3], part: usize, l2: f32) -> Result<HeadStep, TrainError> {
    let mut g = Graph::new();
    let w = g.variable("weight", Shape::f32(&[k, d]));
    let b = g.variable("bias", Shape::f32(&[k]));
    let (mut parts, mut seeds) = (Vec::new(), Vec::new());
    for (i, first) in (0..n).step_by(part).enumerate() {
        let n = part.min(n - first);
        let x = g.variable(&numbered("features", i), Shape::f32(&[n, d]));
        let labels = g.variable(&numbered("labels", i), Shape::u32(&[n]));
        let believed = g.input(&numbered("believed", i), Shape::f32(&[n]));
        let others = g.input(&numbered("others", i), Shape::f32(&[n]));
        let logits = g.apply(Linear, &[x, w, b])?[0];
        let ce = g.apply(Loss { kind: LossKind::CrossEntropy }, &[logits, labels, believed])?;
        let cce = g.apply(Loss { kind: LossKind::Complementary }, &[logits, labels, others])?;
        seeds.extend([(logits, ce[1]), (logits, cce[1])]);
        parts.push(HeadPart { believed, others, loss: ce[0] });
    }
    let grads = g.backward(&seeds, &[w, b])?;
    for (value, name, decay) in [(w, "weight", 2.0 * l2), (b, "bias", 0.0)] {
        let shape = g.shape(value).clone();
        let m = g.variable(&format!("m/{name}"), shape.clone());
        let v = g.variable(&format!("v/{name}"), shape);
        let adam = Adam { beta1: BETAS[0] as f32, beta2: BETAS[1] as f32, eps: 1e-8, weight_decay: decay };
        g.apply(adam, &[value, grads[&value], m, v])?;
    }
    Ok(HeadStep { graph: g, parts })
}

#[cfg(test)]
#[path = "discriminator_tests.rs"]
pub(super) mod tests;
