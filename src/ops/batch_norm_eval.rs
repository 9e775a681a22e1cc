//! Batch normalisation with the running statistics, and its gradient. Shaders: `shaders/batch_norm.wgsl`, `batch_norm_grad.wgsl`.

use super::batch_norm::{Tiling, check_inputs, forward, gradient, keeping, masked, masking};
use std::any::Any;
use std::sync::Arc;

use super::{Case, Conv2d, Conv2dNorm, Fill};
use crate::gpu::Caps;
use crate::graph::{
    Backward, Graph, GraphError, Half, Launch, Lowered, Lowering, Op, Param, Scalars, Shape, Slot, Tensor, Value,
};

/// y = relu?(gamma * (x - running_mean) / sqrt(running_var + eps) + beta + residual?).
///
/// Inputs x [N, .., C], gamma, beta, running_mean, running_var (all [C]) and, if `residual`, one of x's shape. It has gradients
/// for x, the residual, gamma and beta: attacks, searches for a trigger and pruning want them; networks are trained with `BatchNorm`.
#[derive(Clone, Copy, Debug)]
pub struct BatchNormEval {
    /// Added to the variance, as in training.
    pub eps: f32,
    /// Whether a ReLU ends it.
    pub relu: bool,
    /// Whether a last input is added before the ReLU.
    pub residual: bool,
}

/// Inputs gy, gamma, running_var and, if `relu`, y; outputs gx and, if `keep_masked`, gy where y > 0.
#[derive(Debug)]
pub struct BatchNormEvalGrad {
    /// The forward pass's.
    pub eps: f32,
    /// Whether the forward pass ended in a ReLU.
    pub relu: bool,
    /// Whether the residual's gradient is an output, too.
    pub keep_masked: bool,
}

/// Inputs x, running_mean, running_var, gy and, if `relu`, y; outputs ggamma and gbeta, [C] each, summed over all samples.
#[derive(Debug)]
pub struct BatchNormEvalAffineGrad {
    /// The forward pass's.
    pub eps: f32,
    /// Whether the forward pass ended in a ReLU.
    pub relu: bool,
}

/// The running statistics count no samples.
const NONE: Param = Param::U32(0);

impl Op for BatchNormEval {
    fn name(&self) -> &'static str {
        "batch_norm_eval"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        check_inputs(self.name(), inputs, 4, usize::from(self.residual))?;
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let t = Tiling::new(&l.inputs[0], l.caps);
        let names = ["x", "gamma", "beta", "mean", "variance"];
        let mut bind: Vec<_> = names.into_iter().enumerate().map(|(i, name)| (name, Slot::In(i))).collect();
        bind.push(("residual", if self.residual { Slot::In(5) } else { Slot::In(0) }));
        bind.push(("new_y", Slot::Out(0)));
        let flags = [("RELU", u32::from(self.relu)), ("RESIDUAL", u32::from(self.residual))];
        let flags = [&flags[..], &l.left.consts(t.planes, "new_y", &mut bind)].concat();
        t.over_rows(forward("normalise_running"), &flags, bind, NONE, self.eps).into()
    }

    fn leaves(&self, _: Caps) -> Option<Half> {
        Some(Half::Plain)
    }

    fn after(&self, before: &dyn Op, _: Caps) -> Option<Arc<dyn Op>> {
        let conv = *(before as &dyn Any).downcast_ref::<Conv2d>()?;
        Some(Arc::new(Conv2dNorm { conv, norm: *self }))
    }

    fn backward(&self, g: &mut Graph, b: &Backward) -> Result<Vec<Option<Value>>, GraphError> {
        if b.need[3..5].contains(&true) {
            return Err(GraphError::NoGradient(self.name()));
        }
        let [Some(gy)] = b.grads else { return Err(GraphError::NoGradient(self.name())) };
        let mut inputs = vec![*gy, b.inputs[1], b.inputs[4]];
        inputs.extend(self.relu.then_some(b.outputs[0]));
        let keep_masked = self.relu && self.residual && b.need[5];
        let grads = g.apply(BatchNormEvalGrad { eps: self.eps, relu: self.relu, keep_masked }, &inputs)?;
        let mut out = vec![Some(grads[0]), None, None, None, None];
        if b.need[1..3].contains(&true) {
            let mut inputs = vec![b.inputs[0], b.inputs[3], b.inputs[4], *gy];
            inputs.extend(self.relu.then_some(b.outputs[0]));
            let affine = g.apply(BatchNormEvalAffineGrad { eps: self.eps, relu: self.relu }, &inputs)?;
            (out[1], out[2]) = (Some(affine[0]), Some(affine[1]));
        }
        if self.residual {
            out.push(if self.relu { grads.get(1).copied() } else { Some(*gy) });
        }
        Ok(out)
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let [x, gamma, beta, mean, variance] = [0, 1, 2, 3, 4].map(|i| inputs[i]);
        let c = x.shape.last();
        let y = (0..x.data.len())
            .map(|i| {
                let scale = gamma.data[i % c] / (variance.data[i % c] + f64::from(self.eps)).sqrt();
                let v = (x.data[i] - mean.data[i % c]) * scale + beta.data[i % c];
                let v = if self.residual { v + inputs[5].data[i] } else { v };
                if self.relu { v.max(0.0) } else { v }
            })
            .collect();
        vec![Tensor::new(x.shape.clone(), y)]
    }
}

impl BatchNormEval {
    /// What it does to a channel of `x`, as a scale and then a shift: `vectors` are gamma, beta, mean and variance, `affine` is [C / 4, 2, 4], both by quads
    /// of channels.
    pub(super) fn fold(&self, x: &Shape, vectors: [Slot; 4], affine: Slot, caps: Caps) -> Launch {
        let names = ["gamma", "beta", "mean", "variance"];
        let bind = names.into_iter().zip(vectors).chain([("affine", affine)]).collect();
        Tiling::new(x, caps).over_chunks(forward("fold_running"), bind, NONE, self.eps, 0.0)
    }
}

impl Op for BatchNormEvalGrad {
    fn name(&self) -> &'static str {
        "batch_norm_eval_grad"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        check_inputs(self.name(), inputs, 2, usize::from(self.relu))?;
        Ok(vec![inputs[0].clone(); 1 + usize::from(self.keep_masked)])
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let t = Tiling::new(&l.inputs[0], l.caps);
        let (relu, masked) = masking(Slot::In(0), self.relu.then_some(Slot::In(3)));
        let (keep, kept) = keeping(self.keep_masked.then_some(Slot::Out(1)));
        let own = [("gamma", Slot::In(1)), ("variance", Slot::In(2)), ("gx", Slot::Out(0))];
        let bind = own.into_iter().chain(masked).chain(kept).collect();
        t.over_rows(gradient("apply_gradient_running"), &[relu, keep], bind, NONE, self.eps).into()
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let [gy, gamma, variance] = [0, 1, 2].map(|i| inputs[i]);
        let c = gy.shape.last();
        let g = masked(gy, self.relu.then(|| inputs[3]));
        let scale = |i: usize| gamma.data[i % c] / (variance.data[i % c] + f64::from(self.eps)).sqrt();
        let gx = g.iter().enumerate().map(|(i, g)| g * scale(i)).collect();
        let mut out = vec![Tensor::new(gy.shape.clone(), gx)];
        out.extend(self.keep_masked.then(|| Tensor::new(gy.shape.clone(), g)));
        out
    }
}

impl Op for BatchNormEvalAffineGrad {
    fn name(&self) -> &'static str {
        "batch_norm_eval_affine_grad"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        check_inputs(self.name(), inputs, 2, 1 + usize::from(self.relu))?;
        Ok(vec![inputs[1].clone(); 2])
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let t = Tiling::new(&l.inputs[0], l.caps);
        let partial = ("partial", Slot::Scratch(0));
        let (relu, masked) = masking(Slot::In(3), self.relu.then_some(Slot::In(4)));
        let (keep, kept) = keeping(None);
        let sums = [("x", Slot::In(0)), ("mean", Slot::In(1)), partial].into_iter().chain(masked).chain(kept).collect();
        let vectors = vec![partial, ("variance", Slot::In(2)), ("ggamma", Slot::Out(0)), ("gbeta", Slot::Out(1))];
        let launches = vec![
            t.over_rows(gradient("sum_gradient"), &[relu, keep], sums, t.all(), self.eps),
            t.over_chunks(gradient("finish_gradient_running"), vectors, t.all(), self.eps, 0.0),
        ];
        Lowered { scratch: vec![t.partial()], launches }
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let [x, mean, variance, gy] = [0, 1, 2, 3].map(|i| inputs[i]);
        let c = x.shape.last();
        let (mut ggamma, mut gbeta) = (vec![0.0; c], vec![0.0; c]);
        for (i, g) in masked(gy, self.relu.then(|| inputs[4])).into_iter().enumerate() {
            let k = i % c;
            ggamma[k] += g * (x.data[i] - mean.data[k]) / (variance.data[k] + f64::from(self.eps)).sqrt();
            gbeta[k] += g;
        }
        [ggamma, gbeta].map(|data| Tensor::new(mean.shape.clone(), data)).into()
    }
}

const SIZES: [&[usize]; 3] = [&[3, 5, 7, 12], &[700, 36], &[5, 33, 31, 16]];
const POSITIVE: Fill = Fill::Uniform { low: 0.5, high: 1.5 };

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dims in SIZES {
        for (relu, residual) in [(false, false), (true, false), (true, true), (false, true)] {
            let c = dims[dims.len() - 1..].to_vec();
            let op = BatchNormEval { eps: 1e-5, relu, residual };
            let mut case = Case::new(&format!("{dims:?} relu {relu} residual {residual}"), op)
                .f32(dims, Fill::NORMAL)
                .f32(&c, Fill::NORMAL)
                .f32(&c, Fill::NORMAL)
                .f32(&c, Fill::NORMAL)
                .f32(&c, POSITIVE);
            if residual {
                case = case.f32(dims, Fill::NORMAL);
            }
            cases.push(case);
        }
    }
    cases
}

pub(super) fn grad_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dims in SIZES {
        for (relu, keep_masked) in [(false, false), (true, false), (true, true)] {
            let c = dims[dims.len() - 1..].to_vec();
            let op = BatchNormEvalGrad { eps: 1e-5, relu, keep_masked };
            let mut case = Case::new(&format!("{dims:?} relu {relu} keep {keep_masked}"), op)
                .f32(dims, Fill::NORMAL)
                .f32(&c, Fill::NORMAL)
                .f32(&c, POSITIVE);
            if relu {
                case = case.f32(dims, Fill::NORMAL);
            }
            cases.push(case);
        }
    }
    cases
}

pub(super) fn affine_grad_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dims in SIZES {
        for relu in [false, true] {
            let c = dims[dims.len() - 1..].to_vec();
            let rows = dims.iter().product::<usize>() / c[0];
            let mut case = Case::new(&format!("{dims:?} relu {relu}"), BatchNormEvalAffineGrad { eps: 1e-5, relu })
                .f32(dims, Fill::NORMAL)
                .f32(&c, Fill::NORMAL)
                .f32(&c, POSITIVE)
                .f32(dims, Fill::NORMAL)
                .terms(rows);
            if relu {
                case = case.f32(dims, Fill::NORMAL);
            }
            cases.push(case);
        }
    }
    cases
}
