//! Every kernel of a training step at every shape it has there, alone, beside the adapter's own roof.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use super::SGD;
use crate::cli::{print, print_json};
use crate::gpu::{Caps, Staging};
use crate::graph::{Lowering, Op, Shape};
use crate::kernel::{KernelId, Kernels};
use crate::nn::ModelSpec;
use crate::ops::{Alone, OPS, RoofCopy, RoofMultiplyAdd, check};
use crate::report::columns;
use crate::train::training_graph;

/// Of which the median counts.
const SAMPLES: usize = 7;

/// An op at the shapes that it has somewhere in a network.
pub(super) struct Placed {
    op: Arc<dyn Op>,
    inputs: Vec<Shape>,
    outputs: Vec<Shape>,
    kernels: Vec<KernelId>,
    /// How often a step runs it.
    count: usize,
}

impl Placed {
    fn is_like(&self, other: &Placed) -> bool {
        let key = |p: &Placed| (p.op.name(), p.entries());
        key(self) == key(other) && self.inputs == other.inputs && self.outputs == other.outputs
    }

    /// Its dispatches: `reduce.sum_slices`.
    fn entries(&self) -> Vec<String> {
        self.kernels.iter().map(|k| format!("{}.{}", k.file, k.entry)).collect()
    }

    /// Whether another staging would choose other kernels.
    fn depends_on_staging(&self, caps: Caps) -> bool {
        let subgroup = caps.subgroup.or(Some(32));
        let with = |staging| lowered(self.op.as_ref(), &self.inputs, &self.outputs, Caps { staging, subgroup, ..caps });
        Staging::ALL.into_iter().any(|staging| with(staging) != self.kernels)
    }
}

fn lowered(op: &dyn Op, inputs: &[Shape], outputs: &[Shape], caps: Caps) -> Vec<KernelId> {
    op.lower(&Lowering { inputs, outputs, caps }).launches.into_iter().map(|launch| launch.kernel).collect()
}

/// What the adapter reaches at best.
#[derive(Clone, Copy, Serialize)]
struct Roof {
    gflops: f64,
    gbps: f64,
}

/// One op at one set of shapes, timed.
#[derive(Serialize)]
struct Row {
    op: &'static str,
    /// The entry points that it dispatches, in order.
    entry: String,
    /// Of its inputs.
    shape: String,
    /// `None` where it makes no difference.
    staging: Option<&'static str>,
    /// Of one run.
    us: f64,
    gflops: f64,
    /// Inputs read once and outputs written once: what an op moves at least.
    gbps: f64,
    /// Of the roof that it comes nearer to; above 1 where a cache serves what the copy takes from memory.
    roof_share: f64,
    /// How often a training step runs it.
    count: usize,
}

/// The ops of a training step whose names hold `filter`, each at each of its shapes, in the step's order. One that differs only
/// in what its kernels' parameters say (a ReLU or none) is the same.
///
/// # Errors
/// A network that cannot be built, or a filter that leaves nothing.
pub(super) fn distinct_nodes(spec: &ModelSpec, batch: usize, caps: Caps, filter: Option<&str>) -> Result<Vec<Placed>> {
    let graph = training_graph(spec, batch, &SGD)?;
    let mut nodes: Vec<Placed> = Vec::new();
    for node in graph.nodes() {
        let shapes = |values: &[_]| values.iter().map(|v| graph.shape(*v).clone()).collect::<Vec<_>>();
        let (op, inputs, outputs) = (node.op.clone(), shapes(&node.inputs), shapes(&node.outputs));
        let kernels = lowered(op.as_ref(), &inputs, &outputs, caps);
        let placed = Placed { op, inputs, outputs, kernels, count: 1 };
        match nodes.iter_mut().find(|n| n.is_like(&placed)) {
            Some(seen) => seen.count += 1,
            None => nodes.push(placed),
        }
    }
    let names: BTreeSet<&str> = nodes.iter().map(|n| n.op.name()).collect();
    let names = names.into_iter().collect::<Vec<_>>().join(", ");
    nodes.retain(|n| filter.is_none_or(|f| n.op.name().contains(f)));
    ensure!(!nodes.is_empty(), "--op {}: no such op in a training step; there are: {names}", filter.unwrap_or_default());
    Ok(nodes)
}

pub(super) fn run(kernels: &Kernels, nodes: &[Placed], json: bool) -> Result<()> {
    let used: BTreeSet<&str> = nodes.iter().map(|n| n.op.name()).chain([RoofCopy.name(), "roof_multiply_add"]).collect();
    for op in used {
        verify(kernels, op)?;
    }
    let roof = measure_roof(kernels)?;
    let rows = nodes.iter().map(|node| time(kernels, node, roof)).collect::<Result<Vec<_>>>()?;
    if json {
        return print_json(&serde_json::json!({"adapter": kernels.gpu().describe(), "roof": roof, "kernels": rows}));
    }
    print(&table(&rows, roof))
}

/// Compares all cases of an op with its oracle: times of wrong results mean nothing.
fn verify(kernels: &Kernels, op: &str) -> Result<()> {
    let entry = OPS.iter().find(|entry| entry.name == op).with_context(|| format!("{op} has no cases to be tried on"))?;
    for case in (entry.cases)() {
        let result = check(kernels, &case, 0)?;
        // A NaN is no pass.
        if result.error.is_nan() || result.error > result.allowed {
            let (name, error, allowed) = (&case.name, result.error, result.allowed);
            bail!("{op} is not timed, it is wrong on {name}: error {error:.1e}, allowed {allowed:.1e}; see dau selftest");
        }
    }
    Ok(())
}

fn measure_roof(kernels: &Kernels) -> Result<Roof> {
    const LONG_ENOUGH: f64 = 5e-3;
    let x = [Shape::f32(&[1 << 20])];
    let mut rounds = 4;
    let gflops = loop {
        let op = RoofMultiplyAdd { rounds };
        let flops = op.flops(&x) as f64;
        let seconds = Alone::new(kernels, Arc::new(op), &x)?.seconds(SAMPLES)?;
        if seconds > LONG_ENOUGH || rounds > 1 << 16 {
            break flops / seconds * 1e-9;
        }
        rounds *= 4;
    };
    // Past the caches, within WebGPU's limits.
    let bytes = kernels.gpu().max_binding().min(128 << 20);
    let x = [Shape::f32(&[bytes as usize / 16, 4])];
    let seconds = Alone::new(kernels, Arc::new(RoofCopy), &x)?.seconds(SAMPLES)?;
    Ok(Roof { gflops, gbps: 2.0 * x[0].bytes() as f64 / seconds * 1e-9 })
}

fn time(kernels: &Kernels, node: &Placed, roof: Roof) -> Result<Row> {
    let Placed { op, inputs, outputs, count, .. } = node;
    let seconds = Alone::new(kernels, op.clone(), inputs)?.seconds(SAMPLES)?;
    let written = op.in_place().iter().map(|&i| &inputs[i]);
    let bytes: u64 = inputs.iter().chain(outputs).chain(written).map(Shape::bytes).sum();
    let (gflops, gbps) = (op.flops(inputs) as f64 / seconds * 1e-9, bytes as f64 / seconds * 1e-9);
    let caps = kernels.gpu().caps();
    Ok(Row {
        op: op.name(),
        entry: node.entries().join(", "),
        shape: inputs.iter().map(by_hand).collect::<Vec<_>>().join(", "),
        staging: node.depends_on_staging(caps).then(|| caps.staging.name()),
        us: seconds * 1e6,
        gflops,
        gbps,
        roof_share: (gflops / roof.gflops).max(gbps / roof.gbps),
        count: *count,
    })
}

/// `32x32x32x16`.
fn by_hand(shape: &Shape) -> String {
    shape.dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

fn table(rows: &[Row], roof: Roof) -> String {
    let heading = ["op", "inputs", "us", "GFLOP/s", "GB/s", "of roof", "a step", "staging", "kernels"].map(String::from).to_vec();
    let lines = rows.iter().map(|row| {
        vec![
            row.op.into(),
            row.shape.clone(),
            format!("{:.1}", row.us),
            if row.gflops > 0.0 { format!("{:.1}", row.gflops) } else { "-".into() },
            format!("{:.2}", row.gbps),
            format!("{:.0} %", 100.0 * row.roof_share),
            format!("{} x", row.count),
            row.staging.unwrap_or("-").into(),
            row.entry.clone(),
        ]
    });
    let text = columns(&std::iter::once(heading).chain(lines).collect::<Vec<_>>());
    let total: f64 = rows.iter().map(|row| row.us * row.count as f64).sum();
    let Roof { gflops, gbps } = roof;
    format!("roof: {gflops:.1} GFLOP/s multiply-add, {gbps:.2} GB/s copy\n{text}total {:.2} ms a training step\n", total * 1e-3)
}
