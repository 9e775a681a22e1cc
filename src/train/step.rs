//! One training step.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::network::params_of;
use super::objective::{Objective, ascended_variables};
use super::{Batch, Network, Teacher, TrainError};
use crate::gpu::Pending;
use crate::graph::{Footprint, Graph, Plan, Shape, Value, Variables};
use crate::kernel::Kernels;
use crate::nn::{ModelSpec, Param};
use crate::ops::{Accumulate, Argmax, Augment, LossKind, Sgd};

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

/// What a training step does.
#[derive(Clone, Debug, PartialEq)]
pub struct StepConfig {
    /// Images of one update, at most.
    pub batch: usize,
    /// Images that go through the device together. Where that is less than `batch`, gradients are added up over the parts of a batch;
    /// batch norm sees one part at a time.
    pub at_once: usize,
    /// Each has a weight a sample.
    pub losses: Vec<LossKind>,
    /// The update.
    pub sgd: SgdConfig,
    /// Parameters learn whose names begin with one of these; all of them where there is none. Running means and variances of batch norm
    /// are no parameters: they follow the data.
    pub learns: Vec<String>,
    /// Radius of adaptive sharpness-aware minimisation (Kwon et al. 2021, ASAM): the update gets the gradient at parameters that were moved by
    /// rho w^2 g / ||w g|| first. 0: none. Of a batch in parts, each part moves them for itself.
    pub rho: f32,
}

impl StepConfig {
    /// A step in which a batch goes through at once, and everything learns.
    pub fn new(batch: usize, losses: &[LossKind], sgd: &SgdConfig) -> StepConfig {
        StepConfig { batch, at_once: batch, losses: losses.to_vec(), sgd: *sgd, learns: Vec::new(), rho: 0.0 }
    }

    fn in_parts(&self) -> bool {
        self.at_once < self.batch
    }
}

/// A training step of one network as a plan: forward, one or more losses, backward, update.
pub struct TrainStep {
    plan: Plan,
    /// The update, where a batch goes through in parts.
    update: Option<Plan>,
    batch: usize,
    at_once: usize,
    pixels: Value,
    labels: Value,
    /// For each loss its per-sample weights.
    weights: Vec<Value>,
    /// For each loss and each stage of a teacher its per-sample values, then the predicted classes.
    fetched: Vec<Value>,
    /// As long as the parameters, in the device's layout; they live as long as the plan.
    velocities: Variables,
}

struct StepGraph {
    graph: Graph,
    /// The update, where gradients are added up first.
    update: Option<Graph>,
    pixels: Value,
    labels: Value,
    weights: Vec<Value>,
    fetched: Vec<Value>,
    trained: Vec<Param>,
}

fn velocity(name: &str) -> String {
    format!("velocity/{name}")
}

/// The sum of gradients over the parts of a batch.
fn gradient(name: &str) -> String {
    format!("gradient/{name}")
}

/// Those of `params` that learn.
fn learning(params: Vec<Param>, learns: &[String]) -> Result<Vec<Param>, TrainError> {
    let params: Vec<Param> = params.into_iter().filter(|p| p.kind.trainable()).collect();
    if let Some(none) = learns.iter().find(|start| !params.iter().any(|p| p.name.starts_with(start.as_str()))) {
        let some: Vec<&str> = params.iter().take(3).map(|p| p.name.as_str()).collect();
        return Err(TrainError::Data(format!("no parameter's name begins with `{none}`; there are {}, ..", some.join(", "))));
    }
    let learns = |name: &str| learns.is_empty() || learns.iter().any(|start| name.starts_with(start.as_str()));
    Ok(params.into_iter().filter(|p| learns(&p.name)).collect())
}

fn step_graph(
    network: (&ModelSpec, [f32; 3], [f32; 3]),
    config: &StepConfig,
    teacher: Option<&Teacher>,
) -> Result<StepGraph, TrainError> {
    let (spec, mean, std) = network;
    let StepConfig { at_once: batch, losses, sgd, .. } = config;
    let whole = losses.iter().find_map(|loss| loss.needs_whole_batch()).filter(|_| config.in_parts());
    if let Some(need) = whole {
        let advice = "Choose a batch that fits".to_string();
        let why = format!("{need}, and only {batch} images fit at once");
        return Err(TrainError::Batch { batch: config.batch, why, advice });
    }
    let batch = *batch;
    let size = spec.image_size;
    let mut g = Graph::new();
    let pixels = g.input("pixels", Shape::u32(&[batch, size, size]));
    let labels = g.input("labels", Shape::u32(&[batch]));
    let images = g.apply(Augment { mean, std, pad: sgd.crop_pad, flip: sgd.flip }, &[pixels])?[0];
    let weights: Vec<Value> = (0..losses.len()).map(|i| g.input(&format!("weight {i}"), Shape::f32(&[batch]))).collect();
    let mut objective = Objective::new(losses, labels, &weights);
    if let Some(teacher) = teacher {
        objective = objective.taught(&mut g, images, teacher)?;
    }
    let built = spec.build_scoped(&mut g, images, true, "")?;
    let (mut fetched, seeds) = objective.of(&mut g, &built)?;
    fetched.push(g.apply(Argmax, &[built.outputs.logits])?[0]);
    let trained = learning(built.params, &config.learns)?;
    let values: Vec<Value> = trained.iter().filter_map(|p| g.find_variable(&p.name)).collect();
    let mut grads = g.backward(&seeds, &values)?;
    if config.rho > 0.0 {
        grads = objective.ascended(&mut g, (spec, images), config.rho, &values, &grads)?;
    }
    let SgdConfig { momentum, nesterov, weight_decay, .. } = *sgd;
    let sgd = Arc::new(Sgd { momentum, nesterov, weight_decay });
    let accumulate = Arc::new(Accumulate);
    let mut update = config.in_parts().then(Graph::new);
    for (param, value) in trained.iter().zip(values) {
        let Some(grad) = grads.get(&value) else { continue };
        let shape = g.shape(value).clone();
        match &mut update {
            None => {
                let v = g.variable(&velocity(&param.name), shape);
                g.apply_arc(sgd.clone(), &[value, *grad, v])?;
            }
            Some(update) => {
                let sum = g.variable(&gradient(&param.name), shape.clone());
                g.apply_arc(accumulate.clone(), &[sum, *grad])?;
                let names = [param.name.clone(), gradient(&param.name), velocity(&param.name)];
                let inputs = names.map(|name| update.variable(&name, shape.clone()));
                update.apply_arc(sgd.clone(), &inputs)?;
            }
        }
    }
    Ok(StepGraph { graph: g, update, pixels, labels, weights, fetched, trained })
}

/// The graph that [`TrainStep`] runs with cross-entropy, for those who want to look at its nodes.
///
/// # Errors
/// A network that cannot be built.
pub fn training_graph(spec: &ModelSpec, batch: usize, sgd: &SgdConfig) -> Result<Graph, TrainError> {
    Ok(step_graph((spec, [0.0; 3], [1.0; 3]), &StepConfig::new(batch, &[LossKind::CrossEntropy], sgd), None)?.graph)
}

/// A part of a batch holds at least so many images: the moments of fewer tell batch norm too little.
const LEAST_AT_ONCE: usize = 8;

fn fits(kernels: &Kernels, spec: &ModelSpec, batch: usize) -> Result<(), TrainError> {
    let sgd = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 0.0, crop_pad: 0, flip: false };
    let s = step_graph((spec, [0.0; 3], [1.0; 3]), &StepConfig::new(batch, &[LossKind::CrossEntropy], &sgd), None)?;
    Ok(Footprint::of(&s.graph, &s.fetched, kernels.gpu().caps()).check(kernels.gpu())?)
}

/// Whether a training step of `batch` images at once fits the adapter's limits.
///
/// # Errors
/// The buffer that does not fit, both sizes, and the largest power of two that does.
pub fn check_batch(kernels: &Kernels, spec: &ModelSpec, batch: usize) -> Result<(), TrainError> {
    params_of(spec)?;
    let Err(error) = fits(kernels, spec, batch) else { return Ok(()) };
    let mut smaller = batch.next_power_of_two() / 2;
    while smaller > 1 && fits(kernels, spec, smaller).is_err() {
        smaller /= 2;
    }
    let advice = match fits(kernels, spec, smaller) {
        Ok(()) => format!("Try --batch {smaller}"),
        Err(_) => "No batch fits: try a smaller --width or --image-size".to_string(),
    };
    Err(TrainError::Batch { batch, why: error.to_string(), advice })
}

/// How many images of a batch can go through the device at once: all of them, or an equal part that the adapter's limits hold.
///
/// # Errors
/// As [`check_batch`], where not even 8 images fit.
pub fn images_at_once(kernels: &Kernels, spec: &ModelSpec, batch: usize) -> Result<usize, TrainError> {
    params_of(spec)?;
    let parts = (0..usize::BITS).map(|halvings| batch.div_ceil(1 << halvings));
    let mut large_enough = parts.take_while(|part| *part == batch || *part >= LEAST_AT_ONCE.min(batch));
    match large_enough.find(|part| fits(kernels, spec, *part).is_ok()) {
        Some(part) => Ok(part),
        None => check_batch(kernels, spec, batch).map(|()| batch),
    }
}

impl TrainStep {
    /// # Errors
    /// A batch over the adapter's limits; names that no parameter has.
    pub fn new(kernels: &Kernels, network: &Network, config: &StepConfig) -> Result<TrainStep, TrainError> {
        TrainStep::taught(kernels, network, config, None)
    }

    /// The same with a teacher, whose attention the network learns to have.
    ///
    /// # Errors
    /// As [`TrainStep::new`]; a teacher of fewer stages than there are betas, or of other sizes.
    pub fn taught(
        kernels: &Kernels,
        network: &Network,
        config: &StepConfig,
        teacher: Option<&Teacher>,
    ) -> Result<TrainStep, TrainError> {
        let s = step_graph((&network.spec, network.norm.mean, network.norm.std), config, teacher)?;
        // Side by side as the parameters are: the plan then updates all of them in one dispatch.
        let beside = |name: fn(&str) -> String| -> Result<Variables, TrainError> {
            let names: Vec<String> = s.trained.iter().map(|p| name(&p.name)).collect();
            let sizes = s.trained.iter().map(|p| p.kind.device_shape().len());
            let sizes: Vec<(&str, usize)> = names.iter().map(String::as_str).zip(sizes).collect();
            Ok(names.iter().cloned().zip(kernels.gpu().side_by_side(&sizes)?).collect())
        };
        let velocities = beside(velocity)?;
        let mut variables = network.params.variables().clone();
        variables.extend(velocities.clone());
        if s.update.is_some() {
            variables.extend(beside(gradient)?);
        }
        if config.rho > 0.0 {
            variables.extend(ascended_variables(kernels, network, &s.trained)?);
        }
        if let Some(teacher) = teacher {
            variables.extend(teacher.variables());
        }
        let plan = Plan::new(kernels, &s.graph, &s.fetched, &variables)?;
        let update = s.update.map(|graph| Plan::new(kernels, &graph, &[], &variables)).transpose()?;
        let StepGraph { pixels, labels, weights, fetched, .. } = s;
        let StepConfig { batch, at_once, .. } = *config;
        Ok(TrainStep { plan, update, batch, at_once, pixels, labels, weights, fetched, velocities })
    }

    /// One step on `batch`, whose part i gets loss i. Returns the losses (one vector a loss over the whole batch), then the differences of
    /// attention (one a stage of the teacher) and then the classes, once waited for.
    ///
    /// # Errors
    /// More images than the step takes, images of another size, or the driver's.
    pub fn run(&mut self, network: &Network, batch: &Batch, lr: f64, seed: u32) -> Result<Pending, TrainError> {
        network.check_size(batch.size)?;
        let count = batch.indices.len();
        if count > self.batch {
            return Err(TrainError::Data(format!("a step takes {} images, got {count}", self.batch)));
        }
        network.steps.fetch_add(1, Ordering::Relaxed);
        let mut pending = self.part(batch, 0..count.min(self.at_once), lr, seed)?;
        for first in (self.at_once..count).step_by(self.at_once) {
            pending = pending.and(self.part(batch, first..count.min(first + self.at_once), lr, seed)?);
        }
        if let Some(update) = &mut self.update {
            update.set("lr", lr)?;
            update.run()?;
        }
        Ok(pending)
    }

    /// What one run of the plan does for the images `which` of a batch.
    fn part(&mut self, batch: &Batch, which: Range<usize>, lr: f64, seed: u32) -> Result<Pending, TrainError> {
        let image = batch.size * batch.size;
        self.plan.write(self.pixels, &batch.pixels[which.start * image..which.end * image])?;
        self.plan.write(self.labels, &batch.labels[which.clone()])?;
        for (weight, value) in batch.weights.iter().zip(&self.weights) {
            // What an earlier, larger part left behind weighs nothing.
            let mut weight = weight[which.clone()].to_vec();
            weight.resize(self.at_once, 0.0);
            self.plan.write(*value, &weight)?;
        }
        match self.update {
            None => self.plan.set("lr", lr)?,
            Some(_) => self.plan.set("keep", f64::from(u8::from(which.start > 0)))?,
        }
        self.plan.set("n_valid", which.len() as f64)?;
        if self.plan.has_scalar("seed") {
            // Each part has crops and flips of its own.
            self.plan.set("seed", f64::from(seed.wrapping_add((which.start as u32).wrapping_mul(0x85eb_ca6b))))?;
        }
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
