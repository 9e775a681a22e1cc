//! What an adapter reaches at best, for benches: arithmetic in registers and a plain copy. Shader: `shaders/roof.wgsl`.

use super::{Case, Fill};
use crate::graph::{GraphError, Launch, Lowered, Lowering, Op, Param, Scalars, Shape, Slot, Tensor, groups};
use crate::kernel::KernelId;

/// Multiply-adds and next to no memory: each element x gives the sum over j < `CHAINS` of x + j taken `rounds` times
/// `STEPS` times through v = `KEEP` v + `ADD`. f32, a multiple of 4 elements.
#[derive(Debug)]
pub struct RoofMultiplyAdd {
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

fn launch(kernel: KernelId, x: &Shape, rounds: u32, keep: f32, add: f32) -> Lowered {
    let n4 = x.len() / 4;
    let params =
        vec![("n4", Param::U32(n4 as u32)), ("rounds", Param::U32(rounds)), ("keep", Param::F32(keep)), ("add", Param::F32(add))];
    Launch { kernel, bind: vec![("x", Slot::In(0)), ("y", Slot::Out(0))], params, groups: groups(n4, 64) }.into()
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
        launch(kernel, &l.inputs[0], self.rounds, KEEP, ADD)
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
        launch(KernelId::new("roof", "copy"), &l.inputs[0], 0, 0.0, 0.0)
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
    [&[4][..], &[257, 4], &[3, 5, 12]]
        .into_iter()
        .map(|dims| Case::new(&format!("{dims:?}"), RoofCopy).f32(dims, Fill::NORMAL))
        .collect()
}
