//! The whole training step and inference: images a second, memory, where the time goes and how little it could be.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::RngExt;
use serde::Serialize;

use super::SGD;
use super::kernels::{Roof, moved};
use crate::data::Dataset;
use crate::gpu::{Caps, human_bytes};
use crate::graph::{Graph, Plan, Source, Value};
use crate::kernel::Kernels;
use crate::nn::ModelSpec;
use crate::ops::{LossKind, median};
use crate::report::columns;
use crate::rng;
use crate::train::{
    Batch, Network, Normalisation, Part, Predictor, Silent, StepConfig, TrainError, TrainStep, Wanted, stream, training_graph,
};

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
        let step = TrainStep::new(kernels, &network, &StepConfig::new(batch, &[LossKind::CrossEntropy], &SGD))?;
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
        predictor.run(&self.data, &[Wanted::Logits], &Silent)?;
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
    /// What its gradients read of the forward pass: no less can be kept.
    activations: u64,
}

/// What all nodes of one op move and compute at least, convolutions by their direct sum.
#[derive(Serialize)]
struct Work {
    op: &'static str,
    bytes: u64,
    flops: u64,
    /// At the roof.
    us: f64,
}

/// A step whose every op ran at the adapter's roof, one after another.
#[derive(Serialize)]
struct Floor {
    roof: Roof,
    bytes: u64,
    flops: u64,
    ms: f64,
    /// The floor over the step's time.
    share: f64,
    ops: Vec<Work>,
}

/// All dispatches of one op within a step.
#[derive(Serialize)]
struct Share {
    op: &'static str,
    us: f64,
    share: f64,
    dispatches: usize,
}

/// A network's training step and inference, timed.
#[derive(Serialize)]
pub struct StepTimes {
    adapter: String,
    network: ModelSpec,
    batch: usize,
    first_step_seconds: f64,
    training: Speed,
    inference: Speed,
    memory: Memory,
    floor: Floor,
    breakdown: Option<Vec<Share>>,
}

impl StepTimes {
    /// `started`: when the program did.
    ///
    /// # Errors
    /// The driver's.
    pub fn measure(kernels: &Kernels, spec: &ModelSpec, batch: usize, started: Instant) -> Result<StepTimes> {
        let mut steps = Steps::new(kernels, spec, batch)?;
        // The driver opened, shaders compiled or found in its cache, one step done.
        steps.train(1)?;
        let first_step_seconds = started.elapsed().as_secs_f64();
        let training = speed(batch, || steps.train(BATCHES))?;
        let mut predictor = Predictor::new(kernels, &steps.network, batch)?;
        let inference = speed(batch, || steps.predict(&mut predictor))?;
        let graph = training_graph(spec, batch, &SGD)?;
        let memory = memory(&graph, steps.step.plan());
        let floor = floor(&graph, kernels.gpu().caps(), Roof::measure(kernels)?, training.ms);
        let breakdown = breakdown(steps.step.plan())?;
        let (adapter, network) = (kernels.gpu().describe(), spec.clone());
        Ok(StepTimes { adapter, network, batch, first_step_seconds, training, inference, memory, floor, breakdown })
    }

    /// As tables.
    pub fn text(&self) -> String {
        let StepTimes { batch, first_step_seconds: first_step, training, inference, memory, floor, breakdown, .. } = self;
        let mut text = format!("first step {first_step:.2} s after the start\n");
        for (what, speed) in [("training", training), ("inference", inference)] {
            text += &format!("{what:10} {:.1} images a second, {:.2} ms a batch of {batch}\n", speed.images_per_second, speed.ms);
        }
        let Roof { gflops, gbps } = floor.roof;
        let (gflop, moved) = (floor.flops as f64 * 1e-9, human_bytes(floor.bytes));
        text += &format!("floor      {:.2} ms, {:.0} % of the step's time: ", floor.ms, 100.0 * floor.share);
        text += &format!("{gflop:.2} GFLOP at {gflops:.1} a second, {moved} at {gbps:.2} GB/s\n");
        let [all, variables, step, unshared, activations] =
            [memory.variables + memory.step, memory.variables, memory.step, memory.unshared, memory.activations].map(human_bytes);
        let ratio = memory.step as f64 / memory.activations as f64;
        text += &format!("memory     {all}: variables {variables}, the step {step} ({unshared} without sharing),\n");
        text += &format!("           {ratio:.2} x the {activations} of activations that its gradients read\n\n");
        text += &table(floor, breakdown.as_deref());
        if breakdown.is_none() {
            text += "no times by op: this adapter has no timestamps; see dau bench without --step\n";
        }
        text
    }
}

/// The median over samples of [`BATCHES`] batches, after one to warm up.
fn speed(batch: usize, mut sample: impl FnMut() -> Result<Duration, TrainError>) -> Result<Speed> {
    sample()?;
    let mut seconds = (0..SAMPLES).map(|_| Ok(sample()?.as_secs_f64())).collect::<Result<Vec<_>, TrainError>>()?;
    let seconds = median(&mut seconds) / BATCHES as f64;
    Ok(Speed { ms: seconds * 1e3, images_per_second: batch as f64 / seconds })
}

fn memory(graph: &Graph, plan: &Plan) -> Memory {
    let bytes = |values: &mut dyn Iterator<Item = Value>| values.map(|v| graph.shape(v).bytes()).sum();
    let variables = bytes(&mut graph.values().filter(|v| *graph.source(*v) == Source::Variable));
    let nodes = graph.nodes();
    let backward = nodes.iter().position(|n| n.op.name().ends_with("_grad")).unwrap_or(nodes.len());
    let read: BTreeSet<Value> = nodes[backward..].iter().flat_map(|n| n.inputs.iter().copied()).collect();
    let forward = |v: &Value| matches!(graph.source(*v), Source::Node { node, .. } if *node < backward);
    let activations = bytes(&mut read.into_iter().filter(forward));
    let footprint = plan.footprint();
    Memory { variables, step: footprint.bytes, unshared: footprint.unshared, activations }
}

/// `ms`: what the step takes.
fn floor(graph: &Graph, caps: Caps, roof: Roof, ms: f64) -> Floor {
    let mut ops: Vec<Work> = Vec::new();
    let read: BTreeSet<Value> = graph.nodes().iter().flat_map(|n| n.inputs.iter().copied()).collect();
    let results: Vec<Value> = graph.values().filter(|v| !read.contains(v)).collect();
    for node in graph.passes(&results, caps) {
        let shapes = |values: &[Value]| values.iter().map(|v| graph.shape(*v).clone()).collect::<Vec<_>>();
        let (op, inputs, outputs) = (node.op.name(), shapes(&node.inputs), shapes(&node.outputs));
        let (bytes, flops) = (moved(node.op.as_ref(), &inputs, &outputs), node.op.flops(&inputs));
        let us = roof.nanoseconds(bytes, flops) * 1e-3;
        match ops.iter_mut().find(|w| w.op == op) {
            Some(w) => (w.bytes, w.flops, w.us) = (w.bytes + bytes, w.flops + flops, w.us + us),
            None => ops.push(Work { op, bytes, flops, us }),
        }
    }
    ops.sort_by(|a, b| b.us.total_cmp(&a.us));
    let floor: f64 = ops.iter().map(|w| w.us * 1e-3).sum();
    let (bytes, flops) = (ops.iter().map(|w| w.bytes).sum(), ops.iter().map(|w| w.flops).sum());
    Floor { roof, bytes, flops, ms: floor, share: floor / ms, ops }
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

/// Each op's time, where it was measured, beside its floor.
fn table(floor: &Floor, shares: Option<&[Share]>) -> String {
    let heading = ["op", "ms", "share", "dispatches", "MiB moved", "floor, ms", "of time"].map(String::from).to_vec();
    let row = |op: &str, time: Option<(f64, f64, usize)>, bytes: u64, us: f64| {
        let mut cells = vec![op.to_string()];
        cells.extend(match time {
            Some((us, share, dispatches)) => {
                [format!("{:.2}", us * 1e-3), format!("{:.1} %", 100.0 * share), dispatches.to_string()]
            }
            None => ["-"; 3].map(String::from),
        });
        cells.extend([format!("{:.1}", bytes as f64 / f64::from(1 << 20)), format!("{:.2}", us * 1e-3)]);
        cells.push(time.map_or("-".into(), |(time, ..)| format!("{:.0} %", 100.0 * us / time)));
        cells
    };
    let mut lines = vec![heading];
    let mut work: Vec<(&Work, Option<&Share>)> =
        floor.ops.iter().map(|w| (w, shares.and_then(|all| all.iter().find(|s| s.op == w.op)))).collect();
    work.sort_by(|a, b| b.1.map_or(0.0, |s| s.us).total_cmp(&a.1.map_or(0.0, |s| s.us)));
    lines.extend(work.iter().map(|(w, s)| row(w.op, s.map(|s| (s.us, s.share, s.dispatches)), w.bytes, w.us)));
    let all = shares.map(|all| (all.iter().map(|s| s.us).sum(), 1.0, all.iter().map(|s| s.dispatches).sum()));
    lines.push(row("total", all, floor.bytes, floor.ms * 1e3));
    columns(&lines)
}
