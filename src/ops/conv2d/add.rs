//! A convolution, or the gradient of one with respect to its input, plus another value, in one pass over its output. Shaders:
//! `common/epilogue.wgsl` in those of the convolution.

use super::{Conv2d, Conv2dInputGrad, norm};
use crate::graph::{GraphError, Lowered, Lowering, Op, Scalars, Shape, Slot, Tensor};
use crate::ops::Add;

/// y = conv + other, conv as [`Conv2d`] or [`Conv2dInputGrad`] has it of its two inputs.
///
/// Inputs: these two, and one of y's shape. Plans put it in place of the two ops, after gradients are made: it has none of its own.
#[derive(Debug)]
pub struct Conv2dAdd<C>(pub C);

/// Inputs of the convolution.
const OWN: usize = 2;

/// Its name with the sum.
pub trait Summed: Op + Copy {
    /// As [`Op::name`] says it.
    const NAME: &'static str;
}

impl Summed for Conv2d {
    const NAME: &'static str = "conv2d_add";
}

impl Summed for Conv2dInputGrad {
    const NAME: &'static str = "conv2d_input_grad_add";
}

impl<C: Summed> Op for Conv2dAdd<C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        let (own, rest) = inputs.split_at(inputs.len().min(OWN));
        let y = self.0.outputs(own);
        y.and_then(|y| Add.outputs(&[&y, rest].concat())).map_err(|e| match e {
            GraphError::Shape { why, .. } => GraphError::Shape { op: self.name(), why },
            e => e,
        })
    }

    fn tuning_class(&self, inputs: &[Shape]) -> Option<String> {
        self.0.tuning_class(inputs.get(..OWN)?)
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let mut lowered = self.0.lower(&Lowering { inputs: &l.inputs[..OWN], ..*l });
        for launch in norm::writing(&mut lowered) {
            launch.kernel.consts.push(("RESIDUAL", 1));
            launch.bind.push(("residual", Slot::In(OWN)));
        }
        lowered
    }

    fn oracle(&self, inputs: &[&Tensor], scalars: &Scalars) -> Vec<Tensor> {
        let conv = self.0.oracle(&inputs[..OWN], scalars);
        Add.oracle(&[&conv[0], inputs[OWN]], scalars)
    }

    fn flops(&self, inputs: &[Shape]) -> u64 {
        inputs.get(..OWN).map_or(0, |own| self.0.flops(own))
    }
}
