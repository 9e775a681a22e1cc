//! The mean over an image's pixels. Shader: `shaders/global_avg_pool.wgsl`.

use super::{Case, Fill};
use crate::graph::{
    Backward, Bind, Graph, GraphError, Launch, Lowered, Lowering, Op, Param, Scalars, Shape, Slot, Tensor, Value, groups,
};
use crate::kernel::KernelId;

/// x [N, H, W, C] -> y [N, C].
#[derive(Debug)]
pub struct GlobalAvgPool;

/// gy [N, C] -> gx [N, height, width, C].
#[derive(Debug)]
pub struct GlobalAvgPoolGrad {
    /// Height of x, pixels.
    pub height: usize,
    /// Width of x, pixels.
    pub width: usize,
}

fn launch(entry: &'static str, bind: Vec<Bind>, pooled: &Shape, pixels: usize) -> Lowered {
    let c4 = pooled.last() / 4;
    let items = pooled.rows() * c4;
    let extents = [("items", items), ("pixels", pixels), ("c4", c4)];
    Launch {
        kernel: KernelId::new("global_avg_pool", entry),
        bind,
        params: extents.map(|(name, n)| (name, Param::U32(n as u32))).to_vec(),
        groups: groups(items, 64),
    }
    .into()
}

impl Op for GlobalAvgPool {
    fn name(&self) -> &'static str {
        "global_avg_pool"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        match inputs {
            [x] if x.dims.len() == 4 && x.last().is_multiple_of(4) && !x.is_empty() => {
                Ok(vec![Shape::f32(&[x.dims[0], x.dims[3]])])
            }
            _ => {
                let got: Vec<String> = inputs.iter().map(Shape::to_string).collect();
                let why = format!("takes [N, H, W, C] with C a multiple of 4, got {}", got.join(", "));
                Err(GraphError::Shape { op: self.name(), why })
            }
        }
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let [_, h, w, _] = l.inputs[0].dims[..] else { return Lowered::default() };
        launch("average", vec![("x", Slot::In(0)), ("y", Slot::Out(0))], &l.outputs[0], h * w)
    }

    fn backward(&self, g: &mut Graph, b: &Backward) -> Result<Vec<Option<Value>>, GraphError> {
        let (Some(gy), &[_, height, width, _]) = (b.grads[0], &g.shape(b.inputs[0]).dims[..]) else { return Ok(vec![None]) };
        Ok(vec![Some(g.apply(GlobalAvgPoolGrad { height, width }, &[gy])?[0])])
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let x = inputs[0];
        let [n, h, w, c] = [0, 1, 2, 3].map(|i| x.shape.dims[i]);
        let mut y = Tensor::zeros(Shape::f32(&[n, c]));
        for (i, v) in x.data.iter().enumerate() {
            y.data[i / (h * w * c) * c + i % c] += v / (h * w) as f64;
        }
        vec![y]
    }
}

impl Op for GlobalAvgPoolGrad {
    fn name(&self) -> &'static str {
        "global_avg_pool_grad"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        match inputs {
            [gy] if gy.dims.len() == 2 && gy.last().is_multiple_of(4) => {
                Ok(vec![Shape::f32(&[gy.dims[0], self.height, self.width, gy.dims[1]])])
            }
            _ => {
                let got: Vec<String> = inputs.iter().map(Shape::to_string).collect();
                let why = format!("takes [N, C] with C a multiple of 4, got {}", got.join(", "));
                Err(GraphError::Shape { op: self.name(), why })
            }
        }
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        launch("spread", vec![("gy", Slot::In(0)), ("gx", Slot::Out(0))], &l.inputs[0], self.height * self.width)
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let gy = inputs[0];
        let [n, c] = [0, 1].map(|i| gy.shape.dims[i]);
        let pixels = self.height * self.width;
        let data = (0..n * pixels * c).map(|i| gy.data[i / (pixels * c) * c + i % c] / pixels as f64).collect();
        vec![Tensor::new(Shape::f32(&[n, self.height, self.width, c]), data)]
    }
}

pub(super) fn cases() -> Vec<Case> {
    [[3, 4, 4, 8], [2, 7, 5, 12], [33, 1, 3, 20]]
        .into_iter()
        .map(|dims| Case::new(&format!("{dims:?}"), GlobalAvgPool).f32(&dims, Fill::NORMAL).terms(dims[1] * dims[2]))
        .collect()
}

pub(super) fn grad_cases() -> Vec<Case> {
    [[3, 4, 4, 8], [2, 7, 5, 12], [33, 1, 3, 20]]
        .into_iter()
        .map(|[n, height, width, c]| {
            let op = GlobalAvgPoolGrad { height, width };
            Case::new(&format!("{:?}", [n, height, width, c]), op).f32(&[n, c], Fill::NORMAL)
        })
        .collect()
}
