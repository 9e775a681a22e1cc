//! The whole training step and inference: images a second, memory, where the time goes.

use std::time::{Duration, Instant};

use anyhow::Result;
use rand::RngExt;
use serde::Serialize;

use super::SGD;
use crate::cli::{print, print_json};
use crate::data::Dataset;
use crate::gpu::human_bytes;
use crate::graph::{Plan, Source};
use crate::kernel::Kernels;
use crate::nn::ModelSpec;
use crate::ops::{LossKind, median};
use crate::report::columns;
use crate::rng;
use crate::train::{Batch, Network, Normalisation, Part, Predictor, Silent, TrainError, TrainStep, stream, training_graph};

/// Of which the median counts.
const SAMPLES: usize = 5;
/// Batches a sample: enough that they overlap as in training.
const BATCHES: usize = 4;

/// A network that trains on random images, over and over.
pub struct Steps {
    kernels: Kernels,
    network: Network,
    step: TrainStep,
    data: Dataset,
    indices: Vec<usize>,
}

impl Steps {
    /// # Errors
    /// A batch over the adapter's limits.
    pub fn new(kernels: &Kernels, spec: &ModelSpec, batch: usize) -> Result<Steps, TrainError> {
        let network = Network::new(kernels, spec, &Normalisation { mean: [0.5; 3], std: [0.25; 3] }, 0)?;
        let step = TrainStep::new(kernels, &network, batch, &[LossKind::CrossEntropy], &SGD)?;
        let data = noise(BATCHES * batch, spec);
        Ok(Steps { kernels: kernels.clone(), network, step, data, indices: (0..batch).collect() })
    }

    /// How long `count` steps take, upload and losses included.
    ///
    /// # Errors
    /// The driver's.
    pub fn train(&mut self, count: usize) -> Result<Duration, TrainError> {
        let start = Instant::now();
        let Steps { kernels, network, step, data, indices } = self;
        let weight = 1.0 / indices.len() as f32;
        let batches = (0..count).map(|_| Batch::new(data, &[Part { indices, weight }]));
        let submit = |seed: usize, batch: &Batch| step.run(network, batch, 1e-3, seed as u32);
        stream(kernels.gpu(), &Silent, batches, submit, |_, _, _| Ok(()))?;
        Ok(start.elapsed())
    }

    /// How long predictions for [`BATCHES`] batches take, upload and results included.
    fn predict(&self, predictor: &mut Predictor) -> Result<Duration, TrainError> {
        let start = Instant::now();
        predictor.run(&self.data, &Silent)?;
        Ok(start.elapsed())
    }
}

/// `n` random images with random labels.
fn noise(n: usize, spec: &ModelSpec) -> Dataset {
    let mut rng = rng::stream(0, "bench");
    let (size, classes) = (spec.image_size, spec.classes);
    Dataset {
        name: "noise".into(),
        size,
        classes: (0..classes).map(|c| c.to_string()).collect(),
        pixels: (0..n * size * size * 3).map(|_| rng.random()).collect(),
        labels: (0..n).map(|_| rng.random_range(0..classes as u32)).collect(),
        paths: (0..n).map(|i| format!("#{i}")).collect(),
    }
}

/// A batch of images, one after another of them.
#[derive(Serialize)]
struct Speed {
    ms: f64,
    images_per_second: f64,
}

/// Bytes on the device.
#[derive(Serialize)]
struct Memory {
    /// Weights, running statistics and momenta.
    variables: u64,
    /// All else that a step needs, buffers shared.
    step: u64,
    /// What it would need if no two values shared a buffer.
    unshared: u64,
}

/// All dispatches of one op within a step.
#[derive(Serialize)]
struct Share {
    op: &'static str,
    us: f64,
    share: f64,
    dispatches: usize,
}

pub(super) fn run(kernels: &Kernels, spec: &ModelSpec, batch: usize, started: Instant, json: bool) -> Result<()> {
    let mut steps = Steps::new(kernels, spec, batch)?;
    // The driver opened, shaders compiled or found in its cache, one step done.
    steps.train(1)?;
    let first_step = started.elapsed().as_secs_f64();
    let training = speed(batch, || steps.train(BATCHES))?;
    let mut predictor = Predictor::new(kernels, &steps.network, batch)?;
    let inference = speed(batch, || steps.predict(&mut predictor))?;
    let memory = memory(spec, batch, steps.step.plan())?;
    let breakdown = breakdown(steps.step.plan())?;
    if json {
        return print_json(&serde_json::json!({
            "adapter": kernels.gpu().describe(),
            "network": spec,
            "batch": batch,
            "first_step_seconds": first_step,
            "training": training,
            "inference": inference,
            "memory": memory,
            "breakdown": breakdown,
        }));
    }
    let mut text = format!("first step {first_step:.2} s after the start\n");
    for (what, speed) in [("training", training), ("inference", inference)] {
        text += &format!("{what:10} {:.1} images a second, {:.2} ms a batch of {batch}\n", speed.images_per_second, speed.ms);
    }
    let [all, variables, step, unshared] =
        [memory.variables + memory.step, memory.variables, memory.step, memory.unshared].map(human_bytes);
    text += &format!("memory     {all}: variables {variables}, the step {step} ({unshared} without sharing)\n\n");
    text += &match breakdown {
        Some(shares) => table(&shares),
        None => "no breakdown: this adapter has no timestamps; see dau bench without --step\n".to_string(),
    };
    print(&text)
}

/// The median over samples of [`BATCHES`] batches, after one to warm up.
fn speed(batch: usize, mut sample: impl FnMut() -> Result<Duration, TrainError>) -> Result<Speed> {
    sample()?;
    let mut seconds = (0..SAMPLES).map(|_| Ok(sample()?.as_secs_f64())).collect::<Result<Vec<_>, TrainError>>()?;
    let seconds = median(&mut seconds) / BATCHES as f64;
    Ok(Speed { ms: seconds * 1e3, images_per_second: batch as f64 / seconds })
}

fn memory(spec: &ModelSpec, batch: usize, plan: &Plan) -> Result<Memory> {
    let graph = training_graph(spec, batch, &SGD)?;
    let variables = graph.values().filter(|v| *graph.source(*v) == Source::Variable).map(|v| graph.shape(v).bytes()).sum();
    let footprint = plan.footprint();
    Ok(Memory { variables, step: footprint.bytes, unshared: footprint.unshared })
}

/// Time by op, most first: for each dispatch the median over several steps. `None` without timestamps.
fn breakdown(plan: &mut Plan) -> Result<Option<Vec<Share>>> {
    let mut profiles = Vec::new();
    for _ in 0..SAMPLES {
        let Some(profile) = plan.profile()? else { return Ok(None) };
        profiles.push(profile);
    }
    let mut shares: Vec<Share> = Vec::new();
    for (i, dispatch) in profiles[0].iter().enumerate() {
        let us = median(&mut profiles.iter().map(|p| p[i].nanoseconds).collect::<Vec<_>>()) * 1e-3;
        match shares.iter_mut().find(|s| s.op == dispatch.op) {
            Some(share) => (share.us, share.dispatches) = (share.us + us, share.dispatches + 1),
            None => shares.push(Share { op: dispatch.op, us, share: 0.0, dispatches: 1 }),
        }
    }
    let total: f64 = shares.iter().map(|s| s.us).sum();
    shares.iter_mut().for_each(|s| s.share = s.us / total);
    shares.sort_by(|a, b| b.us.total_cmp(&a.us));
    Ok(Some(shares))
}

fn table(shares: &[Share]) -> String {
    let heading = ["op", "ms", "share", "dispatches"].map(String::from).to_vec();
    let row = |op: &str, us: f64, share: f64, dispatches: usize| {
        vec![op.to_string(), format!("{:.2}", us * 1e-3), format!("{:.1} %", 100.0 * share), dispatches.to_string()]
    };
    let lines = shares.iter().map(|s| row(s.op, s.us, s.share, s.dispatches));
    let total = row("total", shares.iter().map(|s| s.us).sum(), 1.0, shares.iter().map(|s| s.dispatches).sum());
    columns(&std::iter::once(heading).chain(lines).chain([total]).collect::<Vec<_>>())
}
