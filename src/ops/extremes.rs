//! The greatest and the least of an image's pixels, channel by channel. Shader: `shaders/extremes.wgsl`.

use super::{Case, Fill};
use crate::graph::{GraphError, Launch, Lowered, Lowering, Op, Param, Scalars, Shape, Slot, Tensor, groups};
use crate::kernel::KernelId;

/// x [N, H, W, C] -> high [N, C], low [N, C]. For looking at activations: it has no gradient.
#[derive(Debug)]
pub struct Extremes;

impl Op for Extremes {
    fn name(&self) -> &'static str {
        "extremes"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        match inputs {
            [x] if x.dims.len() == 4 && x.last().is_multiple_of(4) && !x.is_empty() => {
                Ok(vec![Shape::f32(&[x.dims[0], x.dims[3]]); 2])
            }
            _ => {
                let got: Vec<String> = inputs.iter().map(Shape::to_string).collect();
                let why = format!("takes [N, H, W, C] with C a multiple of 4, got {}", got.join(", "));
                Err(GraphError::Shape { op: self.name(), why })
            }
        }
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let [n, h, w, c] = l.inputs[0].dims[..] else { return Lowered::default() };
        let extents = [("items", n * c / 4), ("pixels", h * w), ("c4", c / 4)];
        Launch {
            kernel: KernelId::new("extremes", "extremes"),
            bind: vec![("x", Slot::In(0)), ("high", Slot::Out(0)), ("low", Slot::Out(1))],
            params: extents.map(|(name, n)| (name, Param::U32(n as u32))).to_vec(),
            groups: groups(n * c / 4, 64),
        }
        .into()
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let x = inputs[0];
        let [n, h, w, c] = [0, 1, 2, 3].map(|i| x.shape.dims[i]);
        let over = |start: f64, better: fn(f64, f64) -> f64| {
            let mut y = vec![start; n * c];
            for (i, v) in x.data.iter().enumerate() {
                let at = &mut y[i / (h * w * c) * c + i % c];
                *at = better(*at, *v);
            }
            Tensor::new(Shape::f32(&[n, c]), y)
        };
        vec![over(f64::NEG_INFINITY, f64::max), over(f64::INFINITY, f64::min)]
    }
}

pub(super) fn cases() -> Vec<Case> {
    let dims = [[3, 4, 4, 8], [2, 7, 5, 12], [33, 1, 1, 20]];
    dims.into_iter().map(|dims| Case::new(&format!("{dims:?}"), Extremes).f32(&dims, Fill::NORMAL)).collect()
}
