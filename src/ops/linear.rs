//! y = x w' + b, and its gradients. Shader: `shaders/linear.wgsl`.

use super::{Case, Fill};
use crate::graph::{
    Backward, Bind, Graph, GraphError, Launch, Lowered, Lowering, Op, Param, Scalars, Shape, Slot, Tensor, Value, groups,
};
use crate::kernel::KernelId;

/// x [N, D], w [K, D] (PyTorch's layout), b [K] -> y [N, K]. D is a multiple of 4.
#[derive(Debug)]
pub struct Linear;

/// gy [N, K], w [K, D] -> gx [N, D].
#[derive(Debug)]
pub struct LinearInputGrad;

/// x [N, D], gy [N, K] -> gw [K, D], gb [K].
#[derive(Debug)]
pub struct LinearGrad;

/// Rows whose gradients one invocation sums: long sums mean fewer partial ones to add, short ones more to do at once.
const CHUNK: usize = 256;

/// N, K and D of a launch.
struct Extents {
    n: usize,
    k: usize,
    d: usize,
}

impl Extents {
    fn launch(&self, entry: &'static str, bind: Vec<Bind>, invocations: usize) -> Launch {
        let extents = [("n", self.n), ("k", self.k), ("d4", self.d / 4), ("chunk", CHUNK), ("chunks", self.chunks())];
        Launch {
            kernel: KernelId::new("linear", entry),
            bind,
            params: extents.map(|(name, n)| (name, Param::U32(n as u32))).to_vec(),
            groups: groups(invocations, 64),
        }
    }

    fn chunks(&self) -> usize {
        self.n.div_ceil(CHUNK)
    }
}

fn check(op: &'static str, takes: &str, inputs: &[Shape], fits: impl Fn(&[Shape]) -> bool) -> Result<(), GraphError> {
    if fits(inputs) {
        return Ok(());
    }
    let got: Vec<String> = inputs.iter().map(Shape::to_string).collect();
    Err(GraphError::Shape { op, why: format!("takes {takes} with D a multiple of 4, got {}", got.join(", ")) })
}

/// Whether both are matrices, not empty.
fn matrices(a: &Shape, b: &Shape) -> bool {
    [a, b].iter().all(|s| s.dims.len() == 2 && !s.is_empty())
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        check(self.name(), "x [N, D], w [K, D], b [K]", inputs, |inputs| match inputs {
            [x, w, b] => matrices(x, w) && x.last() == w.last() && x.last().is_multiple_of(4) && b.dims == [w.dims[0]],
            _ => false,
        })?;
        Ok(vec![Shape::f32(&[inputs[0].dims[0], inputs[1].dims[0]])])
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let e = Extents { n: l.outputs[0].rows(), k: l.outputs[0].last(), d: l.inputs[0].last() };
        let bind = vec![("x", Slot::In(0)), ("w", Slot::In(1)), ("b", Slot::In(2)), ("y", Slot::Out(0))];
        e.launch("forward", bind, e.n.div_ceil(4) * e.k.div_ceil(4)).into()
    }

    fn backward(&self, g: &mut Graph, b: &Backward) -> Result<Vec<Option<Value>>, GraphError> {
        let (&[x, w, _], &[Some(gy)]) = (b.inputs, b.grads) else { return Ok(vec![None; 3]) };
        let gx = if b.need[0] { Some(g.apply(LinearInputGrad, &[gy, w])?[0]) } else { None };
        if !b.need[1] && !b.need[2] {
            return Ok(vec![gx, None, None]);
        }
        let params = g.apply(LinearGrad, &[x, gy])?;
        Ok(vec![gx, Some(params[0]), Some(params[1])])
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let [x, w, b] = [0, 1, 2].map(|i| inputs[i]);
        let (n, k, d) = (x.shape.rows(), w.shape.rows(), x.shape.last());
        let dot = |i: usize, j: usize| (0..d).map(|c| x.data[i * d + c] * w.data[j * d + c]).sum::<f64>();
        let y = (0..n * k).map(|i| dot(i / k, i % k) + b.data[i % k]).collect();
        vec![Tensor::new(Shape::f32(&[n, k]), y)]
    }

    fn flops(&self, inputs: &[Shape]) -> u64 {
        2 * (inputs[0].len() * inputs[1].rows()) as u64
    }
}

impl Op for LinearInputGrad {
    fn name(&self) -> &'static str {
        "linear_input_grad"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        check(self.name(), "gy [N, K], w [K, D]", inputs, |inputs| match inputs {
            [gy, w] => matrices(gy, w) && gy.last() == w.rows() && w.last().is_multiple_of(4),
            _ => false,
        })?;
        Ok(vec![Shape::f32(&[inputs[0].rows(), inputs[1].last()])])
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let e = Extents { n: l.outputs[0].rows(), k: l.inputs[0].last(), d: l.outputs[0].last() };
        let bind = vec![("gy", Slot::In(0)), ("w", Slot::In(1)), ("gx", Slot::Out(0))];
        e.launch("backward_input", bind, e.n.div_ceil(4) * (e.d / 4)).into()
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let (gy, w) = (inputs[0], inputs[1]);
        let (n, k, d) = (gy.shape.rows(), gy.shape.last(), w.shape.last());
        let at = |i: usize, c: usize| (0..k).map(|j| gy.data[i * k + j] * w.data[j * d + c]).sum::<f64>();
        vec![Tensor::new(Shape::f32(&[n, d]), (0..n * d).map(|i| at(i / d, i % d)).collect())]
    }

    fn flops(&self, inputs: &[Shape]) -> u64 {
        2 * (inputs[0].len() * inputs[1].last()) as u64
    }
}

impl Op for LinearGrad {
    fn name(&self) -> &'static str {
        "linear_grad"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        check(self.name(), "x [N, D], gy [N, K]", inputs, |inputs| match inputs {
            [x, gy] => matrices(x, gy) && x.rows() == gy.rows() && x.last().is_multiple_of(4),
            _ => false,
        })?;
        let (d, k) = (inputs[0].last(), inputs[1].last());
        Ok(vec![Shape::f32(&[k, d]), Shape::f32(&[k])])
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let e = Extents { n: l.inputs[0].rows(), k: l.inputs[1].last(), d: l.inputs[0].last() };
        let columns = e.d / 4 + 1;
        let partial = ("partial", Slot::Scratch(0));
        let sum = vec![partial, ("gw", Slot::Out(0)), ("gb", Slot::Out(1))];
        let launches = vec![
            e.launch(
                "backward_weight",
                vec![("x", Slot::In(0)), ("gy", Slot::In(1)), partial],
                columns * e.k.div_ceil(4) * e.chunks(),
            ),
            e.launch("sum_chunks", sum, e.k * columns),
        ];
        Lowered { scratch: vec![Shape::f32(&[e.chunks(), e.k, columns, 4])], launches }
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let (x, gy) = (inputs[0], inputs[1]);
        let (n, d, k) = (x.shape.rows(), x.shape.last(), gy.shape.last());
        let gw = |j: usize, c: usize| (0..n).map(|i| gy.data[i * k + j] * x.data[i * d + c]).sum::<f64>();
        let gb = |j: usize| (0..n).map(|i| gy.data[i * k + j]).sum::<f64>();
        vec![
            Tensor::new(Shape::f32(&[k, d]), (0..k * d).map(|i| gw(i / d, i % d)).collect()),
            Tensor::new(Shape::f32(&[k]), (0..k).map(gb).collect()),
        ]
    }

    fn flops(&self, inputs: &[Shape]) -> u64 {
        2 * (inputs[0].len() * inputs[1].last()) as u64
    }
}

/// [N, K, D]: tiles that hang over, a single row and output, more rows than a chunk.
const SIZES: [[usize; 3]; 4] = [[6, 10, 64], [5, 43, 36], [1, 1, 4], [601, 7, 20]];

fn sized(make: impl Fn([usize; 3]) -> Case) -> Vec<Case> {
    SIZES.into_iter().map(make).collect()
}

pub(super) fn cases() -> Vec<Case> {
    sized(|[n, k, d]| {
        let case = Case::new(&format!("{n}x{d} to {k}"), Linear).f32(&[n, d], Fill::NORMAL);
        case.f32(&[k, d], Fill::NORMAL).f32(&[k], Fill::NORMAL).terms(d + 1)
    })
}

pub(super) fn input_grad_cases() -> Vec<Case> {
    sized(|[n, k, d]| {
        let case = Case::new(&format!("{n}x{d} to {k}"), LinearInputGrad);
        case.f32(&[n, k], Fill::NORMAL).f32(&[k, d], Fill::NORMAL).terms(k)
    })
}

pub(super) fn grad_cases() -> Vec<Case> {
    sized(|[n, k, d]| {
        let case = Case::new(&format!("{n}x{d} to {k}"), LinearGrad);
        case.f32(&[n, d], Fill::NORMAL).f32(&[n, k], Fill::NORMAL).terms(n)
    })
}
