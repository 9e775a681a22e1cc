//! What a classifier answers. Shader: `shaders/argmax.wgsl`.

use super::{Case, Fill};
use crate::graph::{GraphError, Launch, Lowered, Lowering, Op, Param, Scalars, Shape, Slot, Tensor, groups};
use crate::kernel::KernelId;

/// logits [N, K] -> the most likely class, u32 [N] (the first of equal ones), and its softmax probability [N].
#[derive(Debug)]
pub struct Argmax;

impl Op for Argmax {
    fn name(&self) -> &'static str {
        "argmax"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        match inputs {
            [logits] if logits.dims.len() == 2 && !logits.is_empty() => {
                Ok(vec![Shape::u32(&logits.dims[..1]), Shape::f32(&logits.dims[..1])])
            }
            _ => {
                let got: Vec<String> = inputs.iter().map(Shape::to_string).collect();
                Err(GraphError::Shape { op: self.name(), why: format!("takes logits [N, K], got {}", got.join(", ")) })
            }
        }
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let logits = &l.inputs[0];
        Launch {
            kernel: KernelId::new("argmax", "choose"),
            bind: vec![("logits", Slot::In(0)), ("best", Slot::Out(0)), ("confidence", Slot::Out(1))],
            params: vec![("n", Param::U32(logits.rows() as u32)), ("k", Param::U32(logits.last() as u32))],
            groups: groups(logits.rows(), 64),
        }
        .into()
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let logits = inputs[0];
        let rows = logits.data.chunks_exact(logits.shape.last());
        let (mut best, mut confidence) = (Vec::new(), Vec::new());
        for row in rows {
            // Strictly greater: the first of equal ones stays.
            let at = (1..row.len()).fold(0, |at, j| if row[j] > row[at] { j } else { at });
            best.push(at as f64);
            confidence.push(1.0 / row.iter().map(|z| (z - row[at]).exp()).sum::<f64>());
        }
        let n = best.len();
        vec![Tensor::new(Shape::u32(&[n]), best), Tensor::new(Shape::f32(&[n]), confidence)]
    }
}

pub(super) fn cases() -> Vec<Case> {
    let normal = Fill::Normal { mean: 0.0, std: 3.0 };
    // Whole numbers make ties.
    [(5, 10, normal), (131, 43, normal), (70, 10, Fill::Index { below: 3 }), (1, 1, normal)]
        .into_iter()
        .map(|(n, k, fill)| Case::new(&format!("{n}x{k} {fill:?}"), Argmax).f32(&[n, k], fill).terms(k))
        .collect()
}
