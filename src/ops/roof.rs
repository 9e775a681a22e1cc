//! What an adapter reaches at best, for benches: arithmetic in registers and a plain copy. Shader: `shaders/roof.wgsl`.

use super::{Case, Fill};
use crate::graph::{GraphError, Launch, Lowered, Lowering, Op, Param, Scalars, Shape, Slot, Tensor, groups};
use crate::kernel::KernelId;

/// Multiply-adds and next to no memory: each element x gives the sum over j < `CHAINS` of x + j taken `rounds` times
/// `STEPS` times through v = `KEEP` v + `ADD`. f32, a multiple of 4 elements.
#[derive(Debug)]
pub struct RoofMultiplyAdd {
    /// How often a chain goes through its `STEPS` multiply-adds.
    pub rounds: u32,
}

/// y = x and nothing else. f32, a multiple of 4 elements.
#[derive(Debug)]
pub struct RoofCopy;

/// Independent chains of an invocation, a vec4 each: enough to hide a multiply-add's latency, and they fit a CPU's registers
/// (lavapipe, two cores of an EPYC: 80 GFLOP/s with one, 144 with two, 87 with three or more).
const CHAINS: u32 = 2;
/// Multiply-adds of a chain between two looks at the loop's counter.
const STEPS: u32 = 16;
/// Values settle at ADD / (1 - KEEP) = 1: neither huge nor denormal, however many rounds.
const KEEP: f32 = 1.0 - 1.0 / 1024.0;
const ADD: f32 = 1.0 / 1024.0;

fn check(op: &'static str, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
    match inputs {
        [x] if x.len().is_multiple_of(4) && *x == Shape::f32(&x.dims) => Ok(vec![x.clone()]),
        _ => Err(GraphError::Shape { op, why: format!("takes f32 in a multiple of 4, got {inputs:?}") }),
    }
}

/// `each` are the vec4 of a workgroup.
fn launch(kernel: KernelId, names: [&'static str; 2], x: &Shape, each: usize, [rounds, keep, add]: [Param; 3]) -> Lowered {
    let n4 = x.len() / 4;
    let params = vec![("n4", Param::U32(n4 as u32)), ("rounds", rounds), ("keep", keep), ("add", add)];
    let bind = vec![(names[0], Slot::In(0)), (names[1], Slot::Out(0))];
    Launch { kernel, bind, params, groups: groups(n4, each) }.into()
}

impl Op for RoofMultiplyAdd {
    fn name(&self) -> &'static str {
        "roof_multiply_add"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        check(self.name(), inputs)
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let kernel = KernelId::new("roof", "multiply_add").with(&[("CHAINS", CHAINS), ("STEPS", STEPS)]);
        launch(kernel, ["x", "y"], &l.inputs[0], 64, [Param::U32(self.rounds), Param::F32(KEEP), Param::F32(ADD)])
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let step = |v: f64| v * f64::from(KEEP) + f64::from(ADD);
        let chain = |start: f64| (0..self.rounds * STEPS).fold(start, |v, _| step(v));
        let sum = |x: &f64| (0..CHAINS).map(|j| chain(x + f64::from(j))).sum();
        vec![Tensor::new(inputs[0].shape.clone(), inputs[0].data.iter().map(sum).collect())]
    }

    fn flops(&self, inputs: &[Shape]) -> u64 {
        2 * inputs[0].len() as u64 * u64::from(CHAINS * STEPS) * u64::from(self.rounds)
    }
}

impl Op for RoofCopy {
    fn name(&self) -> &'static str {
        "roof_copy"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        check(self.name(), inputs)
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let quads = l.caps.load_quads(l.inputs[0].len() / 4);
        // A GPU can start only so many workgroups in the time that a memory takes for what small ones move.
        let [width, each] = if l.caps.cpu { [64, 1] } else { [256, 4] };
        let consts = [("QUADS", quads), ("WIDTH", width), ("EACH", each)].map(|(name, x)| (name, x as u32));
        let kernel = KernelId::new("roof", "copy").with(&consts);
        launch(
            kernel,
            ["wide_x", "wide_y"],
            &l.inputs[0],
            quads * width * each,
            [Param::U32(0), Param::F32(0.0), Param::F32(0.0)],
        )
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        vec![inputs[0].clone()]
    }
}

pub(super) fn multiply_add_cases() -> Vec<Case> {
    [(4, 1), (1028, 3), (256, 64)]
        .into_iter()
        .map(|(n, rounds)| {
            let name = format!("{n} elements, {rounds} rounds");
            Case::new(&name, RoofMultiplyAdd { rounds }).f32(&[n], Fill::NORMAL).terms((rounds * STEPS) as usize)
        })
        .collect()
}

pub(super) fn copy_cases() -> Vec<Case> {
    [&[4][..], &[257, 4], &[3, 5, 12], &[5, 33, 68]]
        .into_iter()
        .map(|dims| Case::new(&format!("{dims:?}"), RoofCopy).f32(dims, Fill::NORMAL))
        .collect()
}
