//! Batch normalisation in training, and its gradient. Shader: `shaders/batch_norm.wgsl`; evaluation is in `batch_norm_eval`.

use super::{Case, Fill};
use crate::gpu::Caps;
use crate::graph::{
    Backward, Bind, Graph, GraphError, Launch, Lowered, Lowering, Op, Param, Scalars, Shape, Slot, Tensor, Value, groups,
};
use crate::kernel::KernelId;

/// y = relu?(gamma * (x - mean) * inv_std + beta + residual?) with the batch's own mean and variance over all extents but the last.
///
/// Inputs x [N, .., C], gamma, beta, running_mean, running_var (all [C]; the running ones change in place, with the unbiased
/// variance, as PyTorch's) and, if `residual`, one of x's shape; outputs y, mean [C], inv_std [C]. The scalar "n_valid" says how
/// many of the N samples are real: the others (padding of a last batch) are normalised but not counted.
#[derive(Debug)]
pub struct BatchNorm {
    pub eps: f32,
    pub momentum: f32,
    pub relu: bool,
    pub residual: bool,
}

/// Inputs x, gamma, mean, inv_std, gy and, if `relu`, y; outputs gx, ggamma, gbeta and, if `mask_out`, gy where y > 0, which is
/// the residual's gradient.
#[derive(Debug)]
pub struct BatchNormGrad {
    pub relu: bool,
    pub mask_out: bool,
}

/// Checks x [N, .., C] and the [C] inputs that follow it, then optional inputs of x's shape.
pub(super) fn check_inputs(op: &'static str, inputs: &[Shape], vectors: usize, like_x: usize) -> Result<(), GraphError> {
    let fail = |why: String| Err(GraphError::Shape { op, why });
    let Some((x, rest)) = inputs.split_first().filter(|(_, rest)| rest.len() == vectors + like_x) else {
        return fail(format!("takes {} inputs, got {}", 1 + vectors + like_x, inputs.len()));
    };
    let channels = x.last();
    if x.dims.len() < 2 || channels == 0 || !channels.is_multiple_of(4) {
        return fail(format!("takes [samples, .., channels] with channels a multiple of 4, got {x}"));
    }
    if let Some(v) = rest[..vectors].iter().find(|v| **v != Shape::f32(&[channels])) {
        return fail(format!("x is {x}, so each channel's values must be [{channels}], got {v}"));
    }
    match rest[vectors..].iter().find(|v| *v != x) {
        Some(v) => fail(format!("x is {x}, so the residual and y's gradient must be too, got {v}")),
        None => Ok(()),
    }
}

/// How the rows of an activation are dealt out to workgroups and lanes.
pub(super) struct Tiling {
    samples: usize,
    rows: usize,
    c4: usize,
    chunk: usize,
    chunks: usize,
    lanes: [usize; 2],
    /// Lanes of the kernels that combine the chunks.
    finish_lanes: [usize; 2],
}

/// `total` lanes: along channels as many as there are quadruples, `widest` at most, and along rows the rest.
fn split_lanes(c4: usize, total: usize, widest: usize) -> [usize; 2] {
    let along_c = c4.next_power_of_two().min(widest);
    [along_c, total / along_c]
}

impl Tiling {
    pub fn new(x: &Shape, caps: Caps) -> Tiling {
        let (rows, c4) = (x.rows(), x.last() / 4);
        // A CPU driver wants workgroups of one subgroup, few and long; a GPU wants enough to fill it.
        let (lanes, finish_lanes, workgroups, fewest, most) = if caps.cpu {
            let sg = caps.subgroup.unwrap_or(8) as usize;
            (split_lanes(c4, sg, sg), split_lanes(c4, sg, sg), 128, 16, 256)
        } else {
            (split_lanes(c4, 256, 16), split_lanes(c4, 256, 4), 1024, 4, 64)
        };
        let wanted = (rows * c4.div_ceil(lanes[0])).div_ceil(workgroups);
        let chunk = wanted.clamp(fewest * lanes[1], most * lanes[1]);
        Tiling { samples: x.dims[0], rows, c4, chunk, chunks: rows.div_ceil(chunk), lanes, finish_lanes }
    }

    /// A vec4 pair a chunk and channel quadruple.
    fn partial(&self) -> Shape {
        Shape::f32(&[self.chunks, self.c4, 8])
    }

    fn params(&self, n_valid: Param, eps: f32, momentum: f32) -> Vec<(&'static str, Param)> {
        let extents = [
            ("rows", self.rows),
            ("c4", self.c4),
            ("chunk", self.chunk),
            ("chunks", self.chunks),
            ("sample_rows", self.rows / self.samples.max(1)),
        ];
        let mut params: Vec<_> = extents.into_iter().map(|(name, n)| (name, Param::U32(n as u32))).collect();
        params.extend([("n_valid", n_valid), ("eps", Param::F32(eps)), ("momentum", Param::F32(momentum))]);
        params
    }

    /// A launch over all rows.
    pub fn over_rows(&self, entry: &'static str, flags: &[Flag], bind: Vec<Bind>, n_valid: Param, eps: f32) -> Launch {
        let [lc, lr] = self.lanes;
        Launch {
            kernel: kernel(entry, self.lanes).with(flags),
            bind,
            params: self.params(n_valid, eps, 0.0),
            groups: groups(self.c4.div_ceil(lc) * self.chunks, 1),
        }
        .tap_lanes(lr)
    }

    /// A launch that combines the chunks.
    fn over_chunks(&self, entry: &'static str, bind: Vec<Bind>, eps: f32, momentum: f32) -> Launch {
        Launch {
            kernel: kernel(entry, self.finish_lanes),
            bind,
            params: self.params(N_VALID, eps, momentum),
            groups: [self.c4.div_ceil(self.finish_lanes[0]) as u32, 1, 1],
        }
    }
}
