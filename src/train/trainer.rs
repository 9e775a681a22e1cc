//! Training steps and epochs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::network::params_of;
use super::{Batch, EpochRecord, Network, Observer, Part, TrainError, cosine, stream};
use crate::data::Dataset;
use crate::gpu::Pending;
use crate::graph::{Footprint, Graph, Plan, Shape, Value, Variables};
use crate::kernel::Kernels;
use crate::nn::{ModelSpec, Param};
use crate::ops::{Argmax, Augment, Loss, LossKind, Sgd, TUNING_TIME, tune};
use crate::rng;

/// SGD and the augmentation of its input.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SgdConfig {
    pub momentum: f32,
    pub nesterov: bool,
    pub weight_decay: f32,
    /// Zero padding before the random crop, pixels; 0: no crop.
    pub crop_pad: u32,
    /// Random horizontal flips.
    pub flip: bool,
}

/// A whole training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    pub epochs: usize,
    pub batch: usize,
    /// The peak of a cosine schedule over all steps.
    pub lr: f64,
    pub sgd: SgdConfig,
    pub seed: u64,
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
    /// Velocities live as long as the plan.
    _velocities: Variables,
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
        Ok(TrainStep {
            plan,
            batch,
            pixels: s.pixels,
            labels: s.labels,
            weights: s.weights,
            fetched: s.fetched,
            _velocities: velocities,
        })
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

    pub fn plan(&mut self) -> &mut Plan {
        &mut self.plan
    }
}

/// What an epoch's steps add up to.
#[derive(Default)]
struct Sums {
    loss: f64,
    hits: usize,
    seen: usize,
}

/// Trains `network` on all of `data` with cross-entropy; calls `after_epoch` with the number of epochs done.
///
/// # Errors
/// A loss that is not finite, naming epoch and step; a wish to stop; the driver's.
pub fn fit(
    kernels: &Kernels,
    network: &Network,
    data: &Dataset,
    config: &TrainConfig,
    observer: &dyn Observer,
    mut after_epoch: impl FnMut(usize) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    const STAGE: &str = "train";
    let mut step = TrainStep::new(kernels, network, config.batch, &[LossKind::CrossEntropy], &config.sgd)?;
    let mut rng = rng::stream(config.seed, "shuffle");
    let mut order: Vec<usize> = (0..data.len()).collect();
    let steps_per_epoch = data.len().div_ceil(config.batch);
    let total = steps_per_epoch * config.epochs;
    for epoch in 0..config.epochs {
        let stage = format!("{STAGE} {}/{}", epoch + 1, config.epochs);
        observer.begin(&stage, data.len() as u64);
        let start = Instant::now();
        rng::shuffle(&mut rng, &mut order);
        let mut sums = Sums::default();
        let batches = order.chunks(config.batch).map(|indices| {
            let weight = 1.0 / indices.len() as f32;
            Batch::new(data, &[Part { indices, weight }])
        });
        let submit = |index: usize, batch: &Batch| {
            let at = epoch * steps_per_epoch + index;
            let seed = (config.seed as u32).wrapping_mul(0x9e37_79b9).wrapping_add(at as u32);
            step.run(network, batch, cosine(config.lr, at, total), seed)
        };
        let collect = |index: usize, batch: &Batch, parts: &[Vec<u8>]| {
            let losses: Vec<f32> = bytemuck::pod_collect_to_vec(&parts[0]);
            let losses = &losses[..batch.indices.len()];
            let classes: Vec<u32> = bytemuck::pod_collect_to_vec(&parts[1]);
            if let Some(&value) = losses.iter().find(|l| !l.is_finite()) {
                let (epoch, step, lr) = (epoch + 1, index + 1, config.lr);
                return Err(TrainError::NotFinite { stage: STAGE.into(), epoch, step, value, lr });
            }
            sums.loss += losses.iter().map(|l| f64::from(*l)).sum::<f64>();
            sums.hits += batch.labels.iter().zip(&classes).filter(|(l, c)| l == c).count();
            sums.seen += losses.len();
            Ok(())
        };
        stream(kernels.gpu(), observer, batches, submit, collect)?;
        let seconds = start.elapsed().as_secs_f64();
        let seen = sums.seen.max(1) as f64;
        observer.epoch(&EpochRecord {
            stage: STAGE.into(),
            epoch: epoch + 1,
            epochs: config.epochs,
            loss: sums.loss / seen,
            accuracy: 100.0 * sums.hits as f64 / seen,
            lr: cosine(config.lr, epoch * steps_per_epoch, total),
            seconds,
            images_per_second: seen / seconds,
        });
        after_epoch(epoch + 1)?;
    }
    Ok(())
}
