//! The steps a graph runs in and where each value lives: known before any allocation, a pure function but for what the adapter offers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::halves::{Halves, halves};
use super::{
    Assignment, Graph, GraphError, Launch, Left, Lifetime, Lowered, Lowering, Node, Op, Shape, Slot, Source, Value, assign,
    moments,
};
use crate::gpu::{Caps, Gpu, MOST_SIDE_BY_SIDE, Matrix, human_bytes, padded};

/// What a plan will allocate, known before any allocation.
#[derive(Clone, Debug)]
pub struct Footprint {
    /// Inputs, kept outputs, what elementwise ops read and shared temporaries, bytes.
    pub bytes: u64,
    /// What the temporaries would take without sharing, bytes.
    pub unshared: u64,
    /// The largest single buffer and whose it is.
    pub largest: (String, u64),
}

/// Nodes that run together, lowered.
pub(super) struct Step {
    /// One, or several of one elementwise op whose inputs lie side by side.
    pub nodes: Vec<usize>,
    pub lowered: Lowered,
    /// What it shares with other steps beside values: the slot, the index into `assignment.of`, bytes.
    pub shared: Vec<(Slot, usize, u64)>,
}

/// Steps in order, and where each value lives.
pub(super) struct Layout {
    pub steps: Vec<Step>,
    /// Index into `assignment.of` of values that are temporaries.
    pub temp_of: HashMap<Value, usize>,
    /// For each of `steps`, the index into `assignment.of` of its first scratch buffer.
    pub scratch_of: Vec<usize>,
    /// Values with storage of their own, those of each row side by side.
    pub rows: Vec<Vec<Value>>,
    pub assignment: Assignment,
    pub footprint: Footprint,
}

/// What lowering gives for nodes that run together.
fn lower<T>(
    graph: &Graph,
    nodes: &[usize],
    left: Left,
    caps: &impl Fn(Option<String>) -> Caps,
    by: impl Fn(&dyn Op, &Lowering) -> T,
) -> T {
    let node = &graph.nodes()[nodes[0]];
    let shapes = |vs: &[Value]| vs.iter().map(|v| graph.shape(*v).clone()).collect::<Vec<_>>();
    let (mut inputs, outputs) = (shapes(&node.inputs), shapes(&node.outputs));
    if nodes.len() > 1 {
        let bytes: u64 = nodes.iter().map(|n| padded(graph.shape(graph.nodes()[*n].inputs[0]).bytes())).sum();
        inputs = inputs.into_iter().map(|s| Shape { dims: vec![bytes as usize / 4], ..s }).collect();
    }
    let caps = caps(node.op.tuning_class(&inputs));
    by(node.op.as_ref(), &Lowering { inputs: &inputs, outputs: &outputs, caps, left })
}

/// Lets a step measure its output for a later one that would: gives what both then become, by step.
fn measuring(graph: &Graph, groups: &[Vec<usize>], caps: &impl Fn(Option<String>) -> Caps) -> HashMap<usize, (Lowered, usize)> {
    let step_of: HashMap<usize, usize> = groups.iter().enumerate().flat_map(|(s, g)| g.iter().map(move |n| (*n, s))).collect();
    let mut fused = HashMap::new();
    for (reader, nodes) in groups.iter().enumerate() {
        let Some(Source::Node { node, output: 0 }) = graph.nodes()[nodes[0]].inputs.first().map(|v| graph.source(*v)) else {
            continue;
        };
        let Some(&writer) = step_of.get(node).filter(|writer| !fused.contains_key(*writer)) else { continue };
        let Some(read) = lower(graph, nodes, Left::F32, caps, |op, l| op.lower_measured(l)) else { continue };
        let Some(written) = lower(graph, &groups[writer], Left::F32, caps, |op, l| op.lower_measuring(l)) else { continue };
        fused.extend([(reader, (read, writer)), (writer, (written, writer))]);
    }
    fused
}

/// Neighbours that are one elementwise op on variables which lie `beside` each other, and on temporaries that can be laid so.
fn together(graph: &Graph, live: Vec<usize>, beside: impl Fn(Value, Value) -> bool) -> Vec<Vec<usize>> {
    let readers = graph.readers(&live);
    let follows = |last: &Node, next: &Node| {
        let pairs = || last.inputs.iter().zip(&next.inputs);
        let side_by_side = |(a, b): (&Value, &Value)| match (graph.source(*a), graph.source(*b)) {
            (Source::Variable, Source::Variable) => beside(*a, *b),
            // Whoever else reads one may write another, and no dispatch may do both in one row.
            (Source::Node { .. }, Source::Node { .. }) => readers[a] == 1 && readers[b] == 1,
            _ => false,
        };
        Arc::ptr_eq(&last.op, &next.op) && next.op.elementwise() && pairs().all(side_by_side)
    };
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for index in live {
        let node = &graph.nodes()[index];
        let own = node.inputs.first().map_or(0, |v| padded(graph.shape(*v).bytes()));
        match groups.last_mut() {
            Some(group) if bytes + own <= MOST_SIDE_BY_SIDE && follows(&graph.nodes()[group[group.len() - 1]], node) => {
                group.push(index);
                bytes += own;
            }
            _ => {
                groups.push(vec![index]);
                bytes = own;
            }
        }
    }
    groups
}

/// `caps` says what a node of a tuning class may know of the adapter, `beside` whether a variable lies right behind another.
pub(super) fn layout(
    graph: &Graph,
    keep: &[Value],
    caps: impl Fn(Option<String>) -> Caps,
    beside: impl Fn(Value, Value) -> bool,
) -> Layout {
    let groups = together(graph, graph.live_nodes(keep), beside);
    let mut fused = measuring(graph, &groups, &caps);
    let mut writer_of = HashMap::new();
    let mut steps: Vec<Step> = Vec::with_capacity(groups.len());
    for (at, nodes) in groups.into_iter().enumerate() {
        let lowered = match fused.remove(&at) {
            Some((lowered, writer)) => {
                writer_of.insert(at, writer);
                lowered
            }
            None => lower(graph, &nodes, Left::F32, &caps, |op, l| op.lower(l)),
        };
        steps.push(Step { nodes, lowered, shared: Vec::new() });
    }
    let halves = match caps(None).matrix {
        Some(Matrix { planes, .. }) => {
            let nodes: Vec<Vec<usize>> = steps.iter().map(|step| step.nodes.clone()).collect();
            let leaves = |at: usize| lower(graph, &nodes[at], Left::F32, &caps, |op, l| op.leaves(l.caps));
            let again = |at: usize, left| {
                let measured = writer_of.get(&at).is_some_and(|writer| *writer != at);
                lower(graph, &nodes[at], left, &caps, |op, l| match measured {
                    true => op.lower_measured(l).unwrap_or_default(),
                    false => op.lower(l),
                })
            };
            halves(graph, &mut steps, keep, planes, leaves, again)
        }
        None => Halves::default(),
    };
    // Elementwise ops go over the padding too, so what they read shares with nobody: it stays zero there.
    let mut rows: Vec<Vec<Value>> = Vec::new();
    let mut own: HashSet<Value> = HashSet::new();
    for nodes in steps.iter().map(|s| &s.nodes).filter(|nodes| graph.nodes()[nodes[0]].op.elementwise()) {
        for i in 0..graph.nodes()[nodes[0]].inputs.len() {
            let values = nodes.iter().map(|n| graph.nodes()[*n].inputs[i]);
            let row: Vec<Value> = values.filter(|v| matches!(graph.source(*v), Source::Node { .. }) && own.insert(*v)).collect();
            rows.extend((!row.is_empty()).then_some(row));
        }
    }
    let (mut lifetimes, mut names): (Vec<Lifetime>, Vec<String>) = halves.buffers.into_iter().unzip();
    let mut temp_of = HashMap::new();
    let mut scratch_of = Vec::new();
    for at in 0..steps.len() {
        if let Some(&writer) = writer_of.get(&at) {
            if writer == at {
                let measured = graph.nodes()[steps[at].nodes[0]].outputs[0];
                let bytes = moments(graph.shape(measured)).bytes();
                steps[at].shared.push((Slot::Moments, lifetimes.len(), bytes));
                lifetimes.push(Lifetime { first: at, last: at, bytes });
                names.push(format!("{} (moments)", graph.name(measured)));
            } else if let Some(&of) = steps[writer].shared.iter().find(|(slot, ..)| *slot == Slot::Moments) {
                steps[at].shared.push(of);
                lifetimes[of.1].last = at;
            }
        }
        let step = &steps[at];
        for node in step.nodes.iter().map(|n| &graph.nodes()[*n]) {
            for v in &node.inputs {
                if let Some(&t) = temp_of.get(v) {
                    let life: &mut Lifetime = &mut lifetimes[t];
                    life.last = at;
                } else if *graph.source(*v) == Source::Input && own.insert(*v) {
                    rows.push(vec![*v]);
                }
            }
            for v in node.outputs.iter().filter(|v| !own.contains(v) && !halves.alone.contains(v)) {
                if keep.contains(v) {
                    rows.push(vec![*v]);
                } else {
                    temp_of.insert(*v, lifetimes.len());
                    lifetimes.push(Lifetime { first: at, last: at, bytes: graph.shape(*v).bytes().max(4) });
                    names.push(graph.name(*v).to_string());
                }
            }
        }
        scratch_of.push(lifetimes.len());
        for shape in &step.lowered.scratch {
            lifetimes.push(Lifetime { first: at, last: at, bytes: shape.bytes().max(4) });
            names.push(format!("{} (scratch)", graph.nodes()[step.nodes[0]].op.name()));
        }
    }
    let assignment = assign(&lifetimes);
    let fixed = rows.iter().map(|row| {
        let bytes: u64 = row.iter().map(|v| padded(graph.shape(*v).bytes())).sum();
        (graph.name(row[0]).to_string(), bytes)
    });
    let temps = names.into_iter().zip(lifetimes.iter().map(|l| l.bytes));
    let largest = fixed.clone().chain(temps).max_by_key(|(_, bytes)| *bytes).unwrap_or_default();
    let fixed_bytes: u64 = fixed.map(|(_, b)| b).sum();
    let footprint = Footprint {
        bytes: fixed_bytes + assignment.buffers.iter().sum::<u64>(),
        unshared: fixed_bytes + lifetimes.iter().map(|l| l.bytes).sum::<u64>(),
        largest,
    };
    Layout { steps, temp_of, scratch_of, rows, assignment, footprint }
}

/// What a plan of `graph` that keeps `keep` would run, in order, each launch with its node's number in [`Graph::nodes`]; variables are taken to
/// lie side by side.
pub fn launches(graph: &Graph, keep: &[Value], caps: Caps) -> Vec<(usize, Launch)> {
    let steps = layout(&graph.fused(keep, caps), keep, |_| caps, |_, _| true).steps;
    steps.into_iter().flat_map(|step| step.lowered.launches.into_iter().map(move |launch| (step.nodes[0], launch))).collect()
}

impl Footprint {
    /// What a plan of `graph` that keeps `keep` would allocate, variables laid side by side.
    pub fn of(graph: &Graph, keep: &[Value], caps: Caps) -> Footprint {
        layout(&graph.fused(keep, caps), keep, |_| caps, |_, _| true).footprint
    }

    /// Whether every buffer fits one binding of `gpu`.
    ///
    /// # Errors
    /// Names the largest buffer and both sizes.
    pub fn check(&self, gpu: &Gpu) -> Result<(), GraphError> {
        if self.largest.1 <= gpu.max_binding() {
            return Ok(());
        }
        Err(GraphError::TooLarge {
            what: self.largest.0.clone(),
            needed: human_bytes(self.largest.1),
            allowed: human_bytes(gpu.max_binding()),
            adapter: gpu.info().name.clone(),
        })
    }
}
