//! Every kernel of a training step at every shape it has there, alone, beside the adapter's own roof.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::SGD;
use super::baseline::{Baseline, Comparison};
use crate::gpu::{Candidate, Caps, Staging};
use crate::graph::{Left, Lowering, Op, Param, Scalars, Shape};
use crate::kernel::{KernelId, Kernels};
use crate::nn::ModelSpec;
use crate::ops::{Alone, Case, CaseResult, OPS, RoofCopy, RoofMultiplyAdd, beside, check};
use crate::report::columns;
use crate::train::training_graph;

/// Of which the median counts.
const SAMPLES: usize = 11;
/// The ops that can be run in several ways.
pub(super) const CONVOLUTIONS: [&str; 3] = ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"];
/// How often a kernel that seems slower than its baseline is timed again.
const SECOND_LOOKS: usize = 3;

/// An op at the shapes that it has somewhere in a network.
pub struct Placed {
    /// Its first place among the training step's nodes, the same for every batch size.
    place: usize,
    op: Arc<dyn Op>,
    inputs: Vec<Shape>,
    outputs: Vec<Shape>,
    /// What was measured fastest, or the rule's.
    way: Candidate,
    kernels: Vec<KernelId>,
    /// Those of all the nodes it stands for: with other constants, too.
    variants: Vec<KernelId>,
    /// How often a step runs it.
    count: usize,
}

impl Placed {
    fn is_like(&self, other: &Placed) -> bool {
        let same_op = self.op.name() == other.op.name() && self.entries() == other.entries();
        same_op && self.inputs == other.inputs && self.outputs == other.outputs
    }

    /// The name of the op.
    pub fn op(&self) -> &'static str {
        self.op.name()
    }

    /// The kernels of all the nodes it stands for.
    pub fn variants(&self) -> &[KernelId] {
        &self.variants
    }

    /// `32x8x8x64, 3x3x64x64 -> 32x8x8x64`; inputs alone do not tell a 1x1 weight gradient from a 3x3 one.
    pub fn shape(&self) -> String {
        let list = |shapes: &[Shape]| shapes.iter().map(by_hand).collect::<Vec<_>>().join(", ");
        if self.outputs.is_empty() { list(&self.inputs) } else { format!("{} -> {}", list(&self.inputs), list(&self.outputs)) }
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
    op.lower(&Lowering { inputs, outputs, caps, left: Left::F32 }).launches.into_iter().map(|launch| launch.kernel).collect()
}

/// What the adapter reaches at best.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Roof {
    pub gflops: f64,
    pub gbps: f64,
}

/// One op at one set of shapes, timed.
#[derive(Serialize, Deserialize)]
pub struct Row {
    pub op: String,
    /// The entry points that it dispatches, in order.
    pub entry: String,
    /// Of its inputs and outputs.
    pub shape: String,
    /// `None` where it makes no difference.
    pub staging: Option<String>,
    /// Of one run.
    pub us: f64,
    pub gflops: f64,
    /// Of what it [moves at least](moved).
    pub gbps: f64,
    /// Of the roof that it comes nearer to; above 1 where a cache serves what the copy takes from memory.
    pub roof_share: f64,
    /// How often a training step runs it.
    pub count: usize,
}

/// What `dau bench --json` writes and `--baseline` reads.
#[derive(Serialize, Deserialize)]
pub struct Timings {
    /// The adapter that it was measured on, as [`Gpu::describe`](crate::gpu::Gpu::describe) has it.
    pub adapter: String,
    /// What this adapter reaches at best, measured in the same run.
    pub roof: Roof,
    /// One row for each op at each of its shapes, in the step's order.
    pub kernels: Vec<Row>,
    /// Beside an earlier run, where one was given; not read back.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Comparison>,
}

/// The ops of a training step whose names hold `filter`, each at each of its shapes, in the step's order. One that differs only
/// in what its kernels' constants or parameters say (a ReLU or none) is the same.
///
/// # Errors
/// A network that cannot be built, or a filter that leaves nothing.
pub fn distinct_nodes(on: &Kernels, spec: &ModelSpec, batch: usize, filter: Option<&str>) -> Result<Vec<Placed>> {
    let graph = training_graph(spec, batch, &SGD)?;
    let mut nodes: Vec<Placed> = Vec::new();
    for (place, node) in graph.nodes().iter().enumerate() {
        let shapes = |values: &[_]| values.iter().map(|v| graph.shape(*v).clone()).collect::<Vec<_>>();
        let (op, inputs, outputs) = (node.op.clone(), shapes(&node.inputs), shapes(&node.outputs));
        let caps = on.caps_for(op.tuning_class(&inputs));
        let kernels = lowered(op.as_ref(), &inputs, &outputs, caps);
        let placed = Placed { place, op, inputs, outputs, way: caps.candidate(), variants: kernels.clone(), kernels, count: 1 };
        match nodes.iter_mut().find(|n| n.is_like(&placed)) {
            Some(seen) => {
                seen.count += 1;
                seen.variants.extend(placed.kernels);
            }
            None => nodes.push(placed),
        }
    }
    let names: BTreeSet<&str> = nodes.iter().map(|n| n.op.name()).collect();
    let names = names.into_iter().collect::<Vec<_>>().join(", ");
    nodes.retain(|n| filter.is_none_or(|f| n.op.name().contains(f)));
    ensure!(!nodes.is_empty(), "--op {}: no such op in a training step; there are: {names}", filter.unwrap_or_default());
    Ok(nodes)
}

impl Timings {
    /// Times `nodes` of `spec`'s training step, each after its kernels have computed what the oracle does, and beside them
    /// `baseline`; what seems slower than there is timed again.
    ///
    /// # Errors
    /// A kernel that computes something wrong; the driver's.
    pub fn measure(
        kernels: &Kernels,
        spec: &ModelSpec,
        batch: usize,
        nodes: &[Placed],
        baseline: Option<&Baseline>,
    ) -> Result<Timings> {
        let mut checked = BTreeMap::new();
        if nodes.iter().any(|node| node.op.tuning_class(&node.inputs).is_some()) {
            for op in CONVOLUTIONS {
                verify(&kernels.with(TRUSTED), op)?;
            }
        }
        for node in nodes {
            let on = kernels.with(node.way);
            let tried = match checked.entry((node.op(), node.way.name())) {
                Entry::Occupied(tried) => tried.into_mut(),
                Entry::Vacant(untried) => untried.insert(verify(&on, node.op())?),
            };
            if node.kernels.iter().all(|k| tried.contains(k)) {
                continue;
            }
            match node.op.tuning_class(&node.inputs) {
                Some(_) => verify_beside(kernels, node.way, &node.op, &node.inputs)?,
                None => verify_here(&on, spec, batch, node)?,
            }
        }
        let roof = Roof::measure(kernels)?;
        let rows = nodes.iter().map(|node| time(kernels, node, roof)).collect::<Result<Vec<_>>>()?;
        let mut timings = Timings { adapter: kernels.gpu().describe(), roof, kernels: rows, baseline: None };
        if let Some(baseline) = baseline {
            // What else runs on the machine makes kernels slower, never faster, and passes: who seems slower is timed again later.
            for _ in 0..SECOND_LOOKS {
                for i in baseline.slower(&timings.kernels) {
                    let again = time(kernels, &nodes[i], roof)?;
                    if again.us < timings.kernels[i].us {
                        timings.kernels[i] = again;
                    }
                }
            }
            timings.baseline = Some(baseline.compare(&timings));
        }
        Ok(timings)
    }

    /// As tables.
    pub fn text(&self) -> String {
        let comparison = self.baseline.as_ref().map(Comparison::table);
        table(&self.kernels, self.roof) + &comparison.unwrap_or_default()
    }

    /// # Errors
    /// A kernel slower than the baseline past its tolerance.
    pub fn judge(&self) -> Result<()> {
        self.baseline.as_ref().map_or(Ok(()), Comparison::judge)
    }
}

/// Compares all cases of an op with its oracle, times of wrong results mean nothing. Gives the kernels that were tried.
pub(super) fn verify(kernels: &Kernels, op: &str) -> Result<Vec<KernelId>> {
    let mut tried = Vec::new();
    for case in cases(op)? {
        verify_case(kernels, &case)?;
        let inputs: Vec<Shape> = case.inputs.iter().map(|(shape, _)| shape.clone()).collect();
        let outputs = case.op.outputs(&inputs)?;
        tried.extend(lowered(case.op.as_ref(), &inputs, &outputs, kernels.gpu().caps()));
    }
    Ok(tried)
}

/// The way to run convolutions that others are compared with where the oracle is too slow: its kernels are the same at all shapes, so that
/// what the oracle says of small ones holds.
pub(super) const TRUSTED: Candidate = Candidate { staging: Staging::RegisterBlock, own: None };

/// Compares a convolution run this `way` at its own shapes with [`TRUSTED`], on the device.
pub(super) fn verify_beside(kernels: &Kernels, way: Candidate, op: &Arc<dyn Op>, inputs: &[Shape]) -> Result<()> {
    let result = beside(&kernels.with(way), &kernels.with(TRUSTED), op, inputs)?;
    let shapes = inputs.iter().map(by_hand).collect::<Vec<_>>().join(", ");
    right(&result, op.name(), &format!("{shapes} beside {}", TRUSTED.name()))
}

/// Compares `node`, whose kernels have constants that no case of its op leads to, with the oracle: at its own shapes, but for as
/// few images as give the same kernels, because the oracle is slow.
fn verify_here(kernels: &Kernels, spec: &ModelSpec, batch: usize, node: &Placed) -> Result<()> {
    // They say what the inputs and scalars may be.
    let cases = cases(node.op())?;
    let template = cases.iter().find(|case| case.inputs.len() == node.inputs.len());
    let template = template.with_context(|| format!("{} has no case of {} inputs", node.op(), node.inputs.len()))?;
    let known: Scalars = cases.iter().flat_map(|case| &case.scalars).map(|(name, value)| (*name, *value)).collect();
    let fewer = std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n < batch);
    for images in fewer.chain([batch]) {
        let graph = training_graph(spec, images, &SGD)?;
        let found = &graph.nodes()[node.place];
        let shapes = |values: &[_]| values.iter().map(|v| graph.shape(*v).clone()).collect::<Vec<_>>();
        let (inputs, outputs) = (shapes(&found.inputs), shapes(&found.outputs));
        if lowered(found.op.as_ref(), &inputs, &outputs, kernels.gpu().caps()) != node.kernels {
            continue;
        }
        // About how long the sums are: where the op does not say, at most as long as an input.
        let longest = inputs.iter().map(Shape::len).max().unwrap_or(1);
        let terms = match found.op.flops(&inputs) as usize {
            0 => longest,
            flops => flops / outputs.iter().map(Shape::len).sum::<usize>().max(1),
        };
        let lowered =
            found.op.lower(&Lowering { inputs: &inputs, outputs: &outputs, caps: kernels.gpu().caps(), left: Left::F32 });
        let mut scalars = Scalars::new();
        for (_, param) in lowered.launches.iter().flat_map(|launch| &launch.params) {
            if let Param::Scalar(name) = param {
                let value = if *name == "n_valid" { images as f64 } else { known.get(name).copied().unwrap_or(1.0) };
                scalars.insert(*name, value);
            }
        }
        return verify_case(
            kernels,
            &Case {
                name: format!("{} at {}", template.name, inputs.iter().map(by_hand).collect::<Vec<_>>().join(", ")),
                op: found.op.clone(),
                inputs: inputs.into_iter().zip(template.inputs.iter().map(|(_, fill)| *fill)).collect(),
                scalars,
                terms,
            },
        );
    }
    bail!("{} {} cannot be compared with the oracle: its kernels differ from one plan to the next", node.op(), node.shape())
}

fn cases(op: &str) -> Result<Vec<Case>> {
    let entry = OPS.iter().find(|entry| entry.name == op).with_context(|| format!("{op} has no cases to be tried on"))?;
    Ok((entry.cases)())
}

fn verify_case(kernels: &Kernels, case: &Case) -> Result<()> {
    right(&check(kernels, case, 0)?, case.op.name(), &case.name)
}

fn right(&CaseResult { error, allowed }: &CaseResult, op: &str, on: &str) -> Result<()> {
    // A NaN is no pass.
    let wrong = error.is_nan() || error > allowed;
    ensure!(!wrong, "{op} is not timed, it is wrong on {on}: error {error:.1e}, allowed {allowed:.1e}; see dau selftest");
    Ok(())
}

impl Roof {
    /// # Errors
    /// Roof kernels that compute something wrong; the driver's.
    pub fn measure(kernels: &Kernels) -> Result<Roof> {
        const LONG_ENOUGH: f64 = 5e-3;
        const SETTLED: f64 = 1.05;
        // With other load that comes and goes it never settles.
        const LONGEST: f64 = 0.5;
        for op in [RoofCopy.name(), "roof_multiply_add"] {
            verify(kernels, op)?;
        }
        let x = [Shape::f32(&[1 << 20])];
        // As many rounds as make what surrounds them negligible.
        let mut rounds = 4;
        let mut gflops = 0.0;
        loop {
            let op = RoofMultiplyAdd { rounds };
            let flops = op.flops(&x) as f64;
            let seconds = Alone::new(kernels, Arc::new(op), &x)?.seconds(SAMPLES)?;
            let before = std::mem::replace(&mut gflops, flops / seconds * 1e-9);
            if seconds > LONG_ENOUGH && gflops < SETTLED * before || seconds > LONGEST || rounds > 1 << 16 {
                break;
            }
            rounds *= 4;
        }
        // Past the caches, within WebGPU's limits.
        let bytes = kernels.gpu().max_binding().min(128 << 20);
        let x = [Shape::f32(&[bytes as usize / 16, 4])];
        let seconds = Alone::new(kernels, Arc::new(RoofCopy), &x)?.seconds(SAMPLES)?;
        Ok(Roof { gflops, gbps: 2.0 * x[0].bytes() as f64 / seconds * 1e-9 })
    }

    /// Nanoseconds that so many bytes and floating-point operations take at least, the longer of both.
    pub fn nanoseconds(&self, bytes: u64, flops: u64) -> f64 {
        (bytes as f64 / self.gbps).max(flops as f64 / self.gflops)
    }
}

/// Bytes that an op moves at least: inputs read once, outputs and what changes in place written once.
pub fn moved(op: &dyn Op, inputs: &[Shape], outputs: &[Shape]) -> u64 {
    let changed = op.in_place().iter().map(|&i| &inputs[i]);
    inputs.iter().chain(outputs).chain(changed).map(Shape::bytes).sum()
}

fn time(kernels: &Kernels, node: &Placed, roof: Roof) -> Result<Row> {
    let Placed { op, inputs, outputs, count, .. } = node;
    let on = kernels.with(node.way);
    let seconds = Alone::new(&on, op.clone(), inputs)?.seconds(SAMPLES)?;
    let (bytes, flops) = (moved(op.as_ref(), inputs, outputs), op.flops(inputs));
    let (gflops, gbps) = (flops as f64 / seconds * 1e-9, bytes as f64 / seconds * 1e-9);
    Ok(Row {
        op: op.name().into(),
        entry: node.entries().join(", "),
        shape: node.shape(),
        staging: node.depends_on_staging(on.gpu().caps()).then(|| node.way.name()),
        us: seconds * 1e6,
        gflops,
        gbps,
        roof_share: roof.nanoseconds(bytes, flops) * 1e-9 / seconds,
        count: *count,
    })
}

/// `32x32x32x16`.
fn by_hand(shape: &Shape) -> String {
    shape.dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

fn table(rows: &[Row], roof: Roof) -> String {
    let heading = ["op", "shapes", "us", "GFLOP/s", "GB/s", "of roof", "a step", "staging", "kernels"].map(String::from).to_vec();
    let lines = rows.iter().map(|row| {
        vec![
            row.op.clone(),
            row.shape.clone(),
            format!("{:.1}", row.us),
            if row.gflops > 0.0 { format!("{:.1}", row.gflops) } else { "-".into() },
            format!("{:.2}", row.gbps),
            format!("{:.0} %", 100.0 * row.roof_share),
            format!("{} x", row.count),
            row.staging.clone().unwrap_or("-".into()),
            row.entry.clone(),
        ]
    });
    let text = columns(&std::iter::once(heading).chain(lines).collect::<Vec<_>>());
    let total: f64 = rows.iter().map(|row| row.us * row.count as f64).sum();
    let Roof { gflops, gbps } = roof;
    format!("roof: {gflops:.1} GFLOP/s multiply-add, {gbps:.2} GB/s copy\n{text}total {:.2} ms a training step\n", total * 1e-3)
}
