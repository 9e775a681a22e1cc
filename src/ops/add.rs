//! y = a + b: where gradients meet. Shader: `shaders/add.wgsl`.

use std::any::Any;
use std::sync::Arc;

use super::{Case, Conv2d, Conv2dAdd, Conv2dInputGrad, Fill};
use crate::gpu::Caps;
use crate::graph::{
    Backward, Graph, GraphError, Launch, Lowered, Lowering, Op, Param, Scalars, Shape, Slot, Tensor, Value, groups,
};
use crate::kernel::KernelId;

/// Elementwise sum of two values of one shape.
#[derive(Debug)]
pub struct Add;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        match inputs {
            [a, b] if a == b => Ok(vec![a.clone()]),
            _ => Err(GraphError::Shape { op: self.name(), why: format!("takes two equal shapes, got {inputs:?}") }),
        }
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let n = l.outputs[0].len();
        let quads = l.caps.load_quads(n / 4);
        let (kernel, owned, names) = match n % 4 {
            0 => (KernelId::new("add", "add").with(&[("QUADS", quads as u32)]), n / 4 / quads, ["a", "b", "y"]),
            _ => (KernelId::new("add", "add_each"), n, ["each_a", "each_b", "each_y"]),
        };
        Launch {
            kernel,
            bind: names.into_iter().zip([Slot::In(0), Slot::In(1), Slot::Out(0)]).collect(),
            params: vec![("n", Param::U32(owned as u32))],
            groups: groups(owned, 64),
        }
        .into()
    }

    /// On CPU drivers, where it was measured: on a GPU kernels of its own would make the start longer.
    fn after(&self, before: &dyn Op, caps: Caps) -> Option<Arc<dyn Op>> {
        let before = before as &dyn Any;
        let forward = || before.downcast_ref().map(|conv: &Conv2d| Arc::new(Conv2dAdd(*conv)) as Arc<dyn Op>);
        let gradient = || before.downcast_ref().map(|conv: &Conv2dInputGrad| Arc::new(Conv2dAdd(*conv)) as Arc<dyn Op>);
        if caps.cpu { forward().or_else(gradient) } else { None }
    }

    fn backward(&self, _: &mut Graph, b: &Backward) -> Result<Vec<Option<Value>>, GraphError> {
        Ok(vec![b.grads[0]; 2])
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let sum = inputs[0].data.iter().zip(&inputs[1].data).map(|(a, b)| a + b).collect();
        vec![Tensor::new(inputs[0].shape.clone(), sum)]
    }
}

pub(super) fn cases() -> Vec<Case> {
    [&[1, 7][..], &[3, 5, 5, 4], &[257, 16]]
        .into_iter()
        .map(|dims| Case::new(&format!("{dims:?}"), Add).f32(dims, Fill::NORMAL).f32(dims, Fill::NORMAL))
        .collect()
}
