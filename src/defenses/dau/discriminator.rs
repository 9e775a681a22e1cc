//! The discriminator: a fresh linear head on frozen, standardised features, trained full-batch as a GAN's discriminator with
//! D(x) = p_y, the probability of the given label: cross-entropy where the sample is believed poisoned, complementary
//! cross-entropy elsewhere.

use serde::{Deserialize, Serialize};

use crate::data::Dataset;
use crate::graph::{Graph, Plan, Shape, Value, Variables};
use crate::kernel::Kernels;
use crate::ops::{Adam, BatchNorm, Linear, Loss, LossKind};
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

/// A discriminator over one data set's features, which stay on the device.
pub(super) struct Discriminator<'a> {
    kernels: &'a Kernels,
    config: &'a DiscriminatorConfig,
    variables: Variables,
    /// Samples, features, classes.
    extents: [usize; 3],
    seed: u64,
    rounds_done: usize,
}

/// The head's training as a plan.
struct HeadStep {
    plan: Plan,
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
    /// Features over the adapter's limits.
    pub fn new(
        kernels: &'a Kernels,
        features: &[f32],
        data: &Dataset,
        config: &'a DiscriminatorConfig,
        seed: u64,
    ) -> Result<Discriminator<'a>, TrainError> {
        let (n, k) = (data.len(), data.classes.len());
        let d = features.len() / n;
        let gpu = kernels.gpu();
        let mut variables = Variables::new();
        variables.insert("features".to_string(), gpu.buffer("features", n * d)?);
        variables.insert("labels".to_string(), gpu.buffer("labels", n)?);
        for name in STATE {
            let len = if name.ends_with("weight") { k * d } else { k };
            variables.insert(name.to_string(), gpu.buffer(name, len)?);
        }
        gpu.upload(&variables["features"], &standardise(kernels, features, [n, d])?);
        gpu.upload(&variables["labels"], &data.labels);
        Ok(Discriminator { kernels, config, variables, extents: [n, d, k], seed, rounds_done: 0 })
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
        let mut head = head_step(self.kernels, self.extents, l2, &self.variables)?;
        let side = |yes: f32, no: f32| believed.iter().map(|b| if *b { yes } else { no }).collect::<Vec<f32>>();
        head.plan.write(head.believed, &side(weight, 0.0))?;
        head.plan.write(head.others, &side(0.0, other))?;
        for name in STATE {
            gpu.upload(&self.variables[name], &vec![0.0f32; (self.variables[name].bytes() / 4) as usize]);
        }
        let mut rng = rng::stream(self.seed, &format!("head {round}"));
        let w: Vec<f32> = (0..k * d).map(|_| (0.01 * rng::normal(&mut rng)) as f32).collect();
        gpu.upload(&self.variables["weight"], &w);
        let steps = self.config.steps;
        for first in (0..steps).step_by(STEPS_A_SUBMIT) {
            if observer.cancelled() {
                return Err(TrainError::Cancelled);
            }
            let count = STEPS_A_SUBMIT.min(steps - first);
            head.plan.run_many(count, |plan, i| {
                let step = first + i;
                plan.set("lr", cosine(self.config.lr, step, steps))?;
                plan.set("bias1", 1.0 - BETAS[0].powi(step as i32 + 1))?;
                plan.set("bias2", 1.0 - BETAS[1].powi(step as i32 + 1))
            })?;
            observer.advance((count * n) as u64);
        }
        // The loss of a run is that of the weights before its update: one more at learning rate 0 sees the last.
        head.plan.set("lr", 0.0)?;
        let parts = head.plan.run_and_fetch(&[head.loss])?.wait(gpu)?;
        let losses: Vec<f32> = bytemuck::pod_collect_to_vec(&parts[0]);
        Ok(losses.iter().map(|l| (-l).exp()).collect())
    }
}

/// Each feature dimension to mean 0 and variance 1 over the samples: a batch norm without scale and shift.
fn standardise(kernels: &Kernels, features: &[f32], [n, d]: [usize; 2]) -> Result<Vec<f32>, TrainError> {
    let mut g = Graph::new();
    let x = g.input("features", Shape::f32(&[n, d]));
    let names = ["gamma", "beta", "running_mean", "running_var"];
    let mut inputs = vec![x];
    let mut variables = Variables::new();
    for name in names {
        inputs.push(g.variable(name, Shape::f32(&[d])));
        variables.insert(name.to_string(), kernels.gpu().buffer(name, d)?);
    }
    kernels.gpu().upload(&variables["gamma"], &vec![1.0f32; d]);
    let op = BatchNorm { eps: 1e-8, momentum: 0.1, relu: false, residual: false };
    let y = g.apply(op, &inputs)?[0];
    let mut plan = Plan::new(kernels, &g, &[y], &variables)?;
    plan.write(x, features)?;
    plan.set("n_valid", n as f64)?;
    let parts = plan.run_and_fetch(&[y])?.wait(kernels.gpu())?;
    Ok(bytemuck::pod_collect_to_vec(&parts[0]))
}

fn head_step(kernels: &Kernels, [n, d, k]: [usize; 3], l2: f32, variables: &Variables) -> Result<HeadStep, TrainError> {
    let mut g = Graph::new();
    let x = g.variable("features", Shape::f32(&[n, d]));
    let labels = g.variable("labels", Shape::u32(&[n]));
    let w = g.variable("weight", Shape::f32(&[k, d]));
    let b = g.variable("bias", Shape::f32(&[k]));
    let believed = g.input("believed", Shape::f32(&[n]));
    let others = g.input("others", Shape::f32(&[n]));
    let logits = g.apply(Linear, &[x, w, b])?[0];
    let ce = g.apply(Loss { kind: LossKind::CrossEntropy }, &[logits, labels, believed])?;
    let cce = g.apply(Loss { kind: LossKind::Complementary }, &[logits, labels, others])?;
    let grads = g.backward(&[(logits, ce[1]), (logits, cce[1])], &[w, b])?;
    for (value, name, decay) in [(w, "weight", 2.0 * l2), (b, "bias", 0.0)] {
        let shape = g.shape(value).clone();
        let m = g.variable(&format!("m/{name}"), shape.clone());
        let v = g.variable(&format!("v/{name}"), shape);
        let adam = Adam { beta1: BETAS[0] as f32, beta2: BETAS[1] as f32, eps: 1e-8, weight_decay: decay };
        g.apply(adam, &[value, grads[&value], m, v])?;
    }
    let plan = Plan::new(kernels, &g, &[ce[0]], variables)?;
    Ok(HeadStep { plan, believed, others, loss: ce[0] })
}

#[cfg(test)]
#[path = "discriminator_tests.rs"]
pub(super) mod tests;
