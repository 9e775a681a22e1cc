//! A convolution with what follows it in evaluation, in one pass over its output. Shaders: `common/epilogue.wgsl` in those of the convolution,
//! `batch_norm.wgsl`.

use super::{Conv2d, matrix};
use crate::gpu::{Caps, Staging};
use crate::graph::{GraphError, Half, Launch, Lowered, Lowering, Op, Scalars, Shape, Slot, Tensor};
use crate::ops::BatchNormEval;

/// y = relu?(gamma * (conv - running_mean) / sqrt(running_var + eps) + beta + residual?), conv as [`Conv2d`] has it of x and w.
///
/// Inputs x, w, gamma, beta, running_mean, running_var (these [CO]) and, if `norm.residual`, one of y's shape. Plans put it in place of the two
/// ops, after gradients are made: it has none of its own.
#[derive(Debug)]
pub struct Conv2dNorm {
    /// What is normalised.
    pub conv: Conv2d,
    /// How, and what follows.
    pub norm: BatchNormEval,
}

/// Inputs of the convolution.
const OWN: usize = 2;

/// The launches of a convolution that write its output, made ready to change the sums on their way out.
pub(super) fn writing(lowered: &mut Lowered) -> Vec<&mut Launch> {
    let y = ("y", Slot::Out(0));
    let mut writing: Vec<&mut Launch> = lowered.launches.iter_mut().filter(|launch| launch.bind.contains(&y)).collect();
    writing.iter_mut().for_each(|launch| matrix::changes(launch));
    writing
}

impl Op for Conv2dNorm {
    fn name(&self) -> &'static str {
        "conv2d_norm"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        let (own, rest) = inputs.split_at(inputs.len().min(OWN));
        let y = self.conv.outputs(own);
        y.and_then(|y| self.norm.outputs(&[&y, rest].concat())).map_err(|e| match e {
            GraphError::Shape { why, .. } => GraphError::Shape { op: self.name(), why },
            e => e,
        })
    }

    fn tuning_class(&self, inputs: &[Shape]) -> Option<String> {
        self.conv.tuning_class(inputs.get(..OWN)?)
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let mut lowered = self.conv.lower(&Lowering { inputs: &l.inputs[..OWN], ..*l });
        let affine = Slot::Scratch(lowered.scratch.len());
        lowered.scratch.push(Shape::f32(&[l.outputs[0].last() / 4, 2, 4]));
        for launch in writing(&mut lowered) {
            let flags = [("RESIDUAL", self.norm.residual), ("RELU", self.norm.relu)].map(|(name, on)| (name, u32::from(on)));
            launch.kernel.consts.push(("AFFINE", 1));
            launch.kernel.consts.extend(flags);
            launch.bind.push(("affine", affine));
            launch.bind.extend(self.norm.residual.then_some(("residual", Slot::In(OWN + 4))));
            // The kernel has its planes already.
            let left = l.left.consts(1, "y", &mut launch.bind);
            launch.kernel.consts.extend(left.into_iter().filter(|(name, _)| *name != "PLANES"));
        }
        let vectors = [0, 1, 2, 3].map(|i| Slot::In(OWN + i));
        lowered.launches.insert(0, self.norm.fold(&l.outputs[0], vectors, affine, l.caps));
        lowered
    }

    fn leaves(&self, caps: Caps) -> Option<Half> {
        (caps.staging == Staging::CooperativeMatrix).then_some(Half::Plain)
    }

    fn oracle(&self, inputs: &[&Tensor], scalars: &Scalars) -> Vec<Tensor> {
        let conv = self.conv.oracle(&inputs[..OWN], scalars);
        self.norm.oracle(&conv.iter().chain(inputs[OWN..].iter().copied()).collect::<Vec<_>>(), scalars)
    }

    fn flops(&self, inputs: &[Shape]) -> u64 {
        inputs.get(..OWN).map_or(0, |own| self.conv.flops(own))
    }
}
