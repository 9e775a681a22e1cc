//! Values that matrix kernels read in f16: left so by the op that makes them where it can, else made so before the first that reads them.
//! Shader of the latter: `shaders/half.wgsl`.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::layout::Step;
use super::{Bind, Graph, Half, Launch, Left, Lifetime, Lowered, Param, Shape, Slot, Source, Value, groups};
use crate::kernel::KernelId;

/// Maxima that a tensor is first reduced to.
const MAXIMA: usize = 256;

/// Buffers of such values, in the order that [`Step::shared`] counts them.
#[derive(Default)]
pub(super) struct Halves {
    /// When each is needed, and its name.
    pub buffers: Vec<(Lifetime, String)>,
    /// The values of which nothing else is kept.
    pub alone: HashSet<Value>,
}

/// Which inputs `lowered` reads in f16, and how.
fn wanted(lowered: &Lowered) -> BTreeMap<usize, Half> {
    let slots = || lowered.launches.iter().flat_map(|launch| &launch.bind).map(|(_, slot)| *slot);
    let mut wanted = BTreeMap::new();
    for slot in slots() {
        if let Slot::Half(i) = slot {
            let half = if slots().any(|other| other == Slot::Scale(i)) { Half::Scaled } else { Half::Plain };
            wanted.insert(i, half);
        }
    }
    wanted
}

/// Has all made that `steps` want in f16, with so many `planes`. `leaves` says how a step can leave its output 0, `again` lowers it to do so.
pub(super) fn halves(
    graph: &Graph,
    steps: &mut [Step],
    keep: &[Value],
    planes: u32,
    leaves: impl Fn(usize) -> Option<Half>,
    again: impl Fn(usize, Left) -> Lowered,
) -> Halves {
    let node_of = |step: &Step| &graph.nodes()[step.nodes[0]];
    let step_of: HashMap<usize, usize> = steps.iter().enumerate().map(|(at, step)| (step.nodes[0], at)).collect();
    let mut out = Halves::default();
    let mut made: HashMap<(Value, Half), usize> = HashMap::new();
    let mut makers: HashMap<Value, usize> = HashMap::new();
    // What goes before a step: it reads the f32 of this value.
    let mut before: Vec<(usize, Value, Lowered)> = Vec::new();
    for at in 0..steps.len() {
        let node = node_of(&steps[at]);
        for (input, half) in wanted(&steps[at].lowered) {
            let value = node.inputs[input];
            let parts = if half == Half::Scaled { 2 } else { 1 };
            let first = *made.entry((value, half)).or_insert_with(|| {
                let by = match graph.source(value) {
                    Source::Node { node, output: 0 } => step_of.get(node).copied(),
                    _ => None,
                };
                let maker = by.filter(|by| leaves(*by) == Some(half));
                let first = out.buffers.len();
                let bytes = [2 * u64::from(planes) * graph.shape(value).len() as u64, 8];
                let names = ["f16", "scale"].map(|what| format!("{} ({what})", graph.name(value)));
                let lives = bytes.map(|bytes| Lifetime { first: maker.unwrap_or(at), last: at, bytes });
                out.buffers.extend(lives.into_iter().zip(names).take(parts));
                match maker {
                    Some(maker) => {
                        makers.insert(value, maker);
                        let slots = [Slot::HalfOut, Slot::ScaleOut].into_iter().enumerate().take(parts);
                        steps[maker].shared.extend(slots.map(|(i, slot)| (slot, first + i, bytes[i])));
                    }
                    None => before.push((at, value, into_half(input, graph.shape(value), half, planes))),
                }
                first
            });
            for (i, slot) in [Slot::Half(input), Slot::Scale(input)].into_iter().enumerate().take(parts) {
                let life = &mut out.buffers[first + i].0;
                life.last = at;
                steps[at].shared.push((slot, first + i, life.bytes));
            }
        }
        for node in steps[at].nodes.iter().map(|n| &graph.nodes()[*n]) {
            for &changed in node.op.in_place() {
                made.retain(|(value, _), _| *value != node.inputs[changed]);
            }
        }
    }
    for (value, maker) in makers {
        let binds = |step: &Step, i| step.lowered.launches.iter().any(|l| l.bind.iter().any(|(_, slot)| *slot == Slot::In(i)));
        let reads = |step: &Step| {
            let inputs = || step.nodes.iter().flat_map(|n| graph.nodes()[*n].inputs.iter().enumerate());
            inputs().any(|(i, v)| *v == value && binds(step, i))
        };
        let f32 = keep.contains(&value) || before.iter().any(|(_, v, _)| *v == value) || steps.iter().any(reads);
        steps[maker].lowered = again(maker, if f32 { Left::Both } else { Left::Half });
        out.alone.extend((!f32).then_some(value));
    }
    before.into_iter().for_each(|(at, _, first)| prepend(&mut steps[at].lowered, first));
    out
}

/// Puts `first` before the launches of `lowered`, its scratch behind the other's.
fn prepend(lowered: &mut Lowered, mut first: Lowered) {
    let behind = lowered.scratch.len();
    for (_, slot) in first.launches.iter_mut().flat_map(|launch| &mut launch.bind) {
        if let Slot::Scratch(i) = slot {
            *i += behind;
        }
    }
    lowered.scratch.append(&mut first.scratch);
    lowered.launches.splice(0..0, first.launches);
}

/// Makes [`Slot::Half`] of an input of this shape and, where it is to be scaled, [`Slot::Scale`], in so many planes.
pub fn into_half(input: usize, x: &Shape, half: Half, planes: u32) -> Lowered {
    let n4 = x.len() / 4;
    let count = n4.div_ceil(256).min(MAXIMA);
    let from = ("x", Slot::In(input));
    let mut bind = vec![from, ("half", Slot::Half(input))];
    let mut launches = Vec::new();
    let mut scratch = Vec::new();
    if half == Half::Scaled {
        let maxima = ("maxima", Slot::Scratch(0));
        scratch.push(Shape::f32(&[MAXIMA]));
        launches.push(launch("largest", vec![from, maxima], n4, count, [count as u32, 1, 1]));
        launches.push(choose(maxima.1, Slot::Scale(input), count));
        bind.push(("chosen", Slot::Scale(input)));
    }
    let mut pack = launch("pack", bind, n4, count, groups(n4, 256));
    pack.kernel = pack.kernel.with(&[("PLANES", planes), ("SCALED", u32::from(half == Half::Scaled))]);
    launches.push(pack);
    Lowered { scratch, launches }
}

/// The power of two for the largest of `count` absolute values.
pub(crate) fn choose(maxima: Slot, scale: Slot, count: usize) -> Launch {
    launch("choose", vec![("maxima", maxima), ("scale", scale)], 0, count, [1, 1, 1])
}

fn launch(entry: &'static str, bind: Vec<Bind>, n4: usize, count: usize, groups: [u32; 3]) -> Launch {
    let params = [("n4", n4), ("count", count)].map(|(name, x)| (name, Param::U32(x as u32))).to_vec();
    Launch { kernel: KernelId::new("half", entry), bind, params, groups }
}
