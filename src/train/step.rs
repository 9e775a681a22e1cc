//! One training step.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::network::params_of;
use super::{Batch, Network, TrainError};
use crate::gpu::Pending;
use crate::graph::{Footprint, Graph, Plan, Shape, Value, Variables};
use crate::kernel::Kernels;
use crate::nn::{ModelSpec, Param};
use crate::ops::{Argmax, Augment, Loss, LossKind, Sgd, TUNING_TIME, tune};

/// SGD and the augmentation of its input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SgdConfig {
    /// 0 for none.
    pub momentum: f32,
    /// Nesterov's form of momentum.
    pub nesterov: bool,
    /// Of all parameters that learn.
    pub weight_decay: f32,
    /// Zero padding before the random crop, pixels; 0: no crop.
    pub crop_pad: u32,
    /// Random horizontal flips.
    pub flip: bool,
}

/// A training step of one network as a plan: forward, one or more losses, backward, update.
pub struct TrainStep {
    plan: Plan,
    batch: usize,
    pixels: Value,
    labels: Value,
    /// For each loss its per-sample weights.
    weights: Vec<Value>,
    /// For each loss its per-sample values, then the predicted classes.
    fetched: Vec<Value>,
    /// As long as the parameters, in the device's layout; they live as long as the plan.
    velocities: Variables,
}

struct StepGraph {
    graph: Graph,
    pixels: Value,
    labels: Value,
    weights: Vec<Value>,
    fetched: Vec<Value>,
    trained: Vec<Param>,
}

fn velocity(name: &str) -> String {
    format!("velocity/{name}")
}

fn step_graph(
    network: (&ModelSpec, [f32; 3], [f32; 3]),
    batch: usize,
    losses: &[LossKind],
    sgd: &SgdConfig,
) -> Result<StepGraph, TrainError> {
    let (spec, mean, std) = network;
    let size = spec.image_size;
    let mut g = Graph::new();
    let pixels = g.input("pixels", Shape::u32(&[batch, size, size]));
    let labels = g.input("labels", Shape::u32(&[batch]));
    let images = g.apply(Augment { mean, std, pad: sgd.crop_pad, flip: sgd.flip }, &[pixels])?[0];
    let (out, params) = spec.build(&mut g, images, true)?;
    let mut seeds = Vec::new();
    let mut weights = Vec::new();
    let mut fetched = Vec::new();
    for (i, kind) in losses.iter().enumerate() {
        let weight = g.input(&format!("weight {i}"), Shape::f32(&[batch]));
        let loss = g.apply(Loss { kind: *kind }, &[out.logits, labels, weight])?;
        seeds.push((out.logits, loss[1]));
        weights.push(weight);
        fetched.push(loss[0]);
    }
    fetched.push(g.apply(Argmax, &[out.logits])?[0]);
    let trained: Vec<Param> = params.into_iter().filter(|p| p.kind.trainable()).collect();
    let values: Vec<Value> = trained.iter().filter_map(|p| g.find_variable(&p.name)).collect();
    let grads = g.backward(&seeds, &values)?;
    let SgdConfig { momentum, nesterov, weight_decay, .. } = *sgd;
    let sgd = Arc::new(Sgd { momentum, nesterov, weight_decay });
    for (param, value) in trained.iter().zip(values) {
        let Some(grad) = grads.get(&value) else { continue };
        let v = g.variable(&velocity(&param.name), g.shape(value).clone());
        g.apply_arc(sgd.clone(), &[value, *grad, v])?;
    }
    Ok(StepGraph { graph: g, pixels, labels, weights, fetched, trained })
}

/// The graph that [`TrainStep`] runs with cross-entropy, for those who want to look at its nodes.
///
/// # Errors
/// A network that cannot be built.
pub fn training_graph(spec: &ModelSpec, batch: usize, sgd: &SgdConfig) -> Result<Graph, TrainError> {
    Ok(step_graph((spec, [0.0; 3], [1.0; 3]), batch, &[LossKind::CrossEntropy], sgd)?.graph)
}

/// Whether a training step of `batch` images fits the adapter's limits.
///
/// # Errors
/// The buffer that does not fit, both sizes, and the largest power of two that does.
pub fn check_batch(kernels: &Kernels, spec: &ModelSpec, batch: usize) -> Result<(), TrainError> {
    let sgd = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 0.0, crop_pad: 0, flip: false };
    let fits = |batch: usize| -> Result<(), TrainError> {
        let s = step_graph((spec, [0.0; 3], [1.0; 3]), batch, &[LossKind::CrossEntropy], &sgd)?;
        Ok(Footprint::of(&s.graph, &s.fetched, kernels.gpu().caps()).check(kernels.gpu())?)
    };
    params_of(spec)?;
    let Err(error) = fits(batch) else { return Ok(()) };
    let mut smaller = batch.next_power_of_two() / 2;
    while smaller > 1 && fits(smaller).is_err() {
        smaller /= 2;
    }
    let advice = match fits(smaller) {
        Ok(()) => format!("Try --batch {smaller}"),
        Err(_) => "No batch fits: try a smaller --width or --image-size".to_string(),
    };
    Err(TrainError::Batch { batch, why: error.to_string(), advice })
}

impl TrainStep {
    /// # Errors
    /// A batch over the adapter's limits.
    pub fn new(
        kernels: &Kernels,
        network: &Network,
        batch: usize,
        losses: &[LossKind],
        sgd: &SgdConfig,
    ) -> Result<TrainStep, TrainError> {
        let s = step_graph((&network.spec, network.norm.mean, network.norm.std), batch, losses, sgd)?;
        let names: Vec<String> = s.trained.iter().map(|p| velocity(&p.name)).collect();
        let sizes = s.trained.iter().map(|p| p.kind.device_shape().len());
        let sizes: Vec<(&str, usize)> = names.iter().map(String::as_str).zip(sizes).collect();
        // Side by side as the parameters are: the plan then updates all of them in one dispatch.
        let velocities: Variables = names.iter().cloned().zip(kernels.gpu().side_by_side(&sizes)?).collect();
        let mut variables = network.params.variables().clone();
        variables.extend(velocities.clone());
        tune(kernels, &s.graph, TUNING_TIME)?;
        let plan = Plan::new(kernels, &s.graph, &s.fetched, &variables)?;
        Ok(TrainStep { plan, batch, pixels: s.pixels, labels: s.labels, weights: s.weights, fetched: s.fetched, velocities })
    }

    /// One step on `batch`, whose part i gets loss i. Returns the losses (one vector a loss over the whole batch) and then the
    /// classes, once waited for.
    ///
    /// # Errors
    /// More images than the step takes, images of another size, or the driver's.
    pub fn run(&mut self, network: &Network, batch: &Batch, lr: f64, seed: u32) -> Result<Pending, TrainError> {
        network.check_size(batch.size)?;
        let count = batch.indices.len();
        if count > self.batch {
            return Err(TrainError::Data(format!("a step takes {} images, got {count}", self.batch)));
        }
        self.plan.write(self.pixels, &batch.pixels)?;
        self.plan.write(self.labels, &batch.labels)?;
        for (weight, value) in batch.weights.iter().zip(&self.weights) {
            // What an earlier, larger batch left behind weighs nothing.
            let mut weight = weight.clone();
            weight.resize(self.batch, 0.0);
            self.plan.write(*value, &weight)?;
        }
        self.plan.set("lr", lr)?;
        self.plan.set("n_valid", count as f64)?;
        if self.plan.has_scalar("seed") {
            self.plan.set("seed", f64::from(seed))?;
        }
        network.steps.fetch_add(1, Ordering::Relaxed);
        Ok(self.plan.run_and_fetch(&self.fetched)?)
    }

    /// The plan that it runs.
    pub fn plan(&mut self) -> &mut Plan {
        &mut self.plan
    }

    /// What the optimizer remembers, by name.
    ///
    /// # Errors
    /// The driver's.
    pub fn velocities(&self) -> Result<Vec<(String, Vec<f32>)>, TrainError> {
        let read = |(name, buffer): (&String, _)| Ok((name.clone(), self.plan.gpu().read(buffer)?));
        self.velocities.iter().map(read).collect()
    }

    /// Gives the optimizer back what [`TrainStep::velocities`] said.
    ///
    /// # Errors
    /// One that is missing or has another length.
    pub fn remember(&self, velocities: &HashMap<String, Vec<f32>>) -> Result<(), TrainError> {
        for (name, buffer) in &self.velocities {
            let values = velocities.get(name).filter(|values| 4 * values.len() as u64 == buffer.bytes());
            let values = values.ok_or_else(|| TrainError::Data(format!("no {name} of {} bytes", buffer.bytes())))?;
            self.plan.gpu().upload(buffer, values);
        }
        Ok(())
    }
}
