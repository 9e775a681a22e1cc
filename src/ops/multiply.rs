//! y = a * b: a product by element, or a mask of channels. Shader: `shaders/multiply.wgsl`.

use super::{Case, Fill};
use crate::graph::{
    Backward, Graph, GraphError, Launch, Lowered, Lowering, Op, Param, Scalars, Shape, Slot, Tensor, Value, groups,
};
use crate::kernel::KernelId;

/// Elementwise product of a [.., C] and b, which has a's shape, or is [C]: a number for each channel, as a mask is.
///
/// It has gradients for both where the shapes are equal, and for a alone where b is a mask.
#[derive(Debug)]
pub struct Multiply;

impl Op for Multiply {
    fn name(&self) -> &'static str {
        "multiply"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        match inputs {
            [a, b] if a == b || *b == Shape::f32(&[a.last()]) => Ok(vec![a.clone()]),
            _ => {
                let why = format!("takes two equal shapes, or [.., C] and [C], got {inputs:?}");
                Err(GraphError::Shape { op: self.name(), why })
            }
        }
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let n = l.outputs[0].len();
        Launch {
            kernel: KernelId::new("multiply", "multiply"),
            bind: vec![("a", Slot::In(0)), ("b", Slot::In(1)), ("y", Slot::Out(0))],
            params: vec![("n", Param::U32(n as u32)), ("period", Param::U32(l.inputs[1].len() as u32))],
            groups: groups(n, 64),
        }
        .into()
    }

    fn backward(&self, g: &mut Graph, b: &Backward) -> Result<Vec<Option<Value>>, GraphError> {
        let [Some(gy)] = b.grads else { return Err(GraphError::NoGradient(self.name())) };
        let mask = g.shape(b.inputs[0]) != g.shape(b.inputs[1]);
        if mask && b.need[1] {
            return Err(GraphError::NoGradient(self.name()));
        }
        let mut times = |other: usize| Ok::<_, GraphError>(g.apply(Multiply, &[*gy, b.inputs[other]])?[0]);
        let left = if b.need[0] { Some(times(1)?) } else { None };
        let right = if b.need[1] { Some(times(0)?) } else { None };
        Ok(vec![left, right])
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let (a, b) = (inputs[0], inputs[1]);
        let product = a.data.iter().enumerate().map(|(i, a)| a * b.data[i % b.data.len()]).collect();
        vec![Tensor::new(a.shape.clone(), product)]
    }
}

pub(super) fn cases() -> Vec<Case> {
    let sizes: [(&[usize], &[usize]); 4] =
        [(&[1, 7], &[1, 7]), (&[3, 5, 5, 4], &[3, 5, 5, 4]), (&[257, 12], &[12]), (&[5, 3, 3, 8], &[8])];
    let case = |(a, b): (&[usize], &[usize])| {
        Case::new(&format!("{a:?} times {b:?}"), Multiply).f32(a, Fill::NORMAL).f32(b, Fill::NORMAL)
    };
    sizes.into_iter().map(case).collect()
}
