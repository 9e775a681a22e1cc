//! Batch normalisation in training, and its gradient. Shaders: `shaders/batch_norm.wgsl`, `batch_norm_grad.wgsl`; evaluation is in
//! `batch_norm_eval`.

use super::{Case, Fill};
use crate::gpu::Caps;
use crate::graph::{
    Backward, Bind, Graph, GraphError, Half, Launch, Left, Lowered, Lowering, MOMENT_ROWS, Op, Param, Scalars, Shape, Slot,
    Tensor, Value, choose, groups,
};
use crate::kernel::KernelId;

/// y = relu?(gamma * (x - mean) * inv_std + beta + residual?), mean and variance taken over all extents but the last.
///
/// Inputs x [N, .., C], gamma, beta, running_mean, running_var (all [C]; the running ones change in place, by PyTorch's rule)
/// and, if `residual`, one of x's shape; outputs y, mean [C], inv_std [C]. The scalar "n_valid" says how many of the N samples
/// are real: the others, which fill up a last batch, are normalised but not counted.
#[derive(Debug)]
pub struct BatchNorm {
    /// Added to the variance, against a division by 0.
    pub eps: f32,
    /// Share that this batch has in the new running statistics, 0..=1.
    pub momentum: f32,
    /// Whether a ReLU ends it.
    pub relu: bool,
    /// Whether a last input is added before the ReLU.
    pub residual: bool,
}

/// Inputs x, gamma, mean, inv_std, gy and what `passed` names; outputs gx, ggamma, gbeta and, if `keep_masked`, gy where y > 0 and
/// else 0, which is the residual's gradient.
#[derive(Debug)]
pub struct BatchNormGrad {
    /// Where the forward pass's ReLU let the gradient through.
    pub passed: Passed,
    /// Whether the residual's gradient is an output, too; then `passed` is of y.
    pub keep_masked: bool,
}

/// How a gradient knows where the ReLU that ended the forward pass let something through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// Everywhere: there was none.
    All,
    /// Where y > 0, of x and beta, an input: nothing but x was normalised and went into it.
    OfX,
    /// Where y > 0, an input.
    OfY,
}

impl Op for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        check_inputs(self.name(), inputs, 4, usize::from(self.residual))?;
        Ok(vec![inputs[0].clone(), inputs[1].clone(), inputs[1].clone()])
    }

    fn in_place(&self) -> &'static [usize] {
        &[3, 4]
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let t = Tiling::new(&l.inputs[0], l.caps);
        let partial = Slot::Scratch(0);
        let measure = t.over_rows(forward("measure"), &[], vec![("x", Slot::In(0)), ("partial", partial)], N_VALID, self.eps);
        let launches = [vec![measure], self.normalise(&t, &t, partial, l.left)].concat();
        Lowered { scratch: vec![t.partial()], launches }
    }

    fn lower_measured(&self, l: &Lowering) -> Option<Lowered> {
        let t = Tiling::new(&l.inputs[0], l.caps);
        let measured = Tiling { chunk: MOMENT_ROWS, chunks: t.rows.div_ceil(MOMENT_ROWS), ..t };
        Some(Lowered { scratch: Vec::new(), launches: self.normalise(&t, &measured, Slot::Moments, l.left) })
    }

    fn leaves(&self, _: Caps) -> Option<Half> {
        Some(Half::Plain)
    }

    fn backward(&self, g: &mut Graph, b: &Backward) -> Result<Vec<Option<Value>>, GraphError> {
        // The statistics are outputs for the gradient's sake; nothing else may depend on them.
        let [Some(gy), None, None] = b.grads else { return Err(GraphError::NoGradient(self.name())) };
        let mut inputs = vec![b.inputs[0], b.inputs[1], b.outputs[1], b.outputs[2], *gy];
        let passed = match (self.relu, self.residual) {
            (false, _) => Passed::All,
            (true, false) => Passed::OfX,
            (true, true) => Passed::OfY,
        };
        match passed {
            Passed::All => {}
            Passed::OfX => inputs.push(b.inputs[2]),
            Passed::OfY => inputs.push(b.outputs[0]),
        }
        let keep_masked = self.relu && self.residual && b.need[5];
        let grads = g.apply(BatchNormGrad { passed, keep_masked }, &inputs)?;
        let mut out = vec![Some(grads[0]), Some(grads[1]), Some(grads[2]), None, None];
        if self.residual {
            // Without a ReLU the sum passes the gradient on as it is.
            out.push(if self.relu { grads.get(3).copied() } else { Some(*gy) });
        }
        Ok(out)
    }

    fn oracle(&self, inputs: &[&Tensor], scalars: &Scalars) -> Vec<Tensor> {
        let (x, gamma, beta) = (inputs[0], &inputs[1].data, &inputs[2].data);
        let c = x.shape.last();
        let rows = valid_rows(x, scalars);
        let (mean, m2) = moments(&x.data, c, rows);
        let n = rows as f64;
        let inv_std: Vec<f64> = m2.iter().map(|m2| 1.0 / (m2 / n.max(1.0) + f64::from(self.eps)).sqrt()).collect();
        let y = (0..x.data.len())
            .map(|i| {
                let v = (x.data[i] - mean[i % c]) * inv_std[i % c] * gamma[i % c] + beta[i % c];
                let v = if self.residual { v + inputs[5].data[i] } else { v };
                if self.relu { v.max(0.0) } else { v }
            })
            .collect();
        let momentum = if rows > 0 { f64::from(self.momentum) } else { 0.0 };
        let mix = |old: &Tensor, new: &dyn Fn(usize) -> f64| {
            Tensor::new(old.shape.clone(), (0..c).map(|i| old.data[i] + momentum * (new(i) - old.data[i])).collect())
        };
        let running_mean = mix(inputs[3], &|i| mean[i]);
        let running_var = mix(inputs[4], &|i| m2[i] / (n - 1.0).max(1.0));
        let vector = |data| Tensor::new(Shape::f32(&[c]), data);
        vec![Tensor::new(x.shape.clone(), y), vector(mean), vector(inv_std), running_mean, running_var]
    }
}

impl BatchNorm {
    /// What follows once `partial` holds the moments of the chunks of `measured`.
    fn normalise(&self, t: &Tiling, measured: &Tiling, partial: Slot, left: Left) -> Vec<Launch> {
        let [x, gamma, beta, running_mean, running_var] = [0, 1, 2, 3, 4].map(Slot::In);
        let [y, mean, inv_std] = [0, 1, 2].map(Slot::Out);
        let state = vec![
            ("partial", partial),
            ("new_mean", mean),
            ("new_inv_std", inv_std),
            ("running_mean", running_mean),
            ("running_var", running_var),
        ];
        let finish = measured.over_chunks(forward("finish"), state, N_VALID, self.eps, self.momentum);
        let mut affine = vec![
            ("x", x),
            ("gamma", gamma),
            ("beta", beta),
            ("mean", mean),
            ("inv_std", inv_std),
            ("residual", if self.residual { Slot::In(5) } else { x }),
            ("new_y", y),
        ];
        let flags = [("RELU", u32::from(self.relu)), ("RESIDUAL", u32::from(self.residual))];
        let flags = [&flags[..], &left.consts(t.planes, "new_y", &mut affine)].concat();
        vec![finish, t.over_rows(forward("normalise"), &flags, affine, N_VALID, self.eps)]
    }
}

impl Op for BatchNormGrad {
    fn name(&self) -> &'static str {
        "batch_norm_grad"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        // beta, where it is one, stands behind gy.
        let (own, beta) = inputs.split_at(inputs.len() - usize::from(self.passed == Passed::OfX && inputs.len() > 5));
        check_inputs(self.name(), own, 3, 1 + usize::from(self.passed == Passed::OfY))?;
        if self.passed == Passed::OfX && beta != &inputs[1..2] {
            let why = format!("takes beta of gamma's shape {} last, got {beta:?}", inputs[1]);
            return Err(GraphError::Shape { op: self.name(), why });
        }
        let (x, gamma) = (inputs[0].clone(), inputs[1].clone());
        let mut outputs = vec![x.clone(), gamma.clone(), gamma];
        outputs.extend(self.keep_masked.then_some(x));
        Ok(outputs)
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let t = Tiling::new(&l.inputs[0], l.caps);
        let [x, gamma, mean, inv_std, gy] = [0, 1, 2, 3, 4].map(Slot::In);
        let [gx, ggamma, gbeta] = [0, 1, 2].map(Slot::Out);
        let (partial, coefficient) = (("partial", Slot::Scratch(0)), ("coefficient", Slot::Scratch(1)));
        let kept = self.keep_masked.then_some(Slot::Out(3));
        let read = Slot::In(5);
        let (relu, masked) = masking(gy, (self.passed == Passed::OfY).then_some(read));
        let from_x = ("FROM_X", u32::from(self.passed == Passed::OfX));
        let (keep, kept_as) = keeping(kept);
        let mut sums: Vec<Bind> = [("x", x), ("mean", mean), partial].into_iter().chain(masked.clone()).chain(kept_as).collect();
        let mut vectors =
            vec![partial, ("gamma", gamma), ("inv_std", inv_std), ("ggamma", ggamma), ("gbeta", gbeta), coefficient];
        // What was kept is masked already.
        let (apply_relu, masked) = kept.map_or((relu, masked), |kept| masking(kept, None));
        if self.passed == Passed::OfX {
            sums.extend([("gamma", gamma), ("inv_std", inv_std), ("beta", read)]);
        }
        let mut apply: Vec<Bind> = [("x", x), ("mean", mean), coefficient, ("gx", gx)].into_iter().chain(masked).collect();
        apply.extend((self.passed == Passed::OfX).then_some(("beta", read)));
        let mut scratch = vec![t.partial(), Shape::f32(&[t.c4, 12])];
        let left = l.left.consts(t.planes, "gx", &mut apply);
        let scaled = !left.is_empty();
        if scaled {
            let (tops, bounds) = (("tops", Slot::Scratch(2)), ("bounds", Slot::Scratch(3)));
            scratch.extend([t.partial(), Shape::f32(&[t.c4, 4])]);
            sums.push(tops);
            vectors.extend([tops, bounds]);
            apply.push(("scale", Slot::ScaleOut));
        }
        let mut launches = vec![
            t.over_rows(gradient("sum_gradient"), &[&[relu, from_x, keep][..], &left].concat(), sums, N_VALID, 0.0),
            t.over_chunks(gradient("finish_gradient"), vectors, N_VALID, 0.0, 0.0),
            t.over_rows(gradient("apply_gradient"), &[&[apply_relu, from_x][..], &left].concat(), apply, N_VALID, 0.0),
        ];
        if scaled {
            launches[1].kernel.consts.extend(left);
            launches.insert(2, choose(Slot::Scratch(3), Slot::ScaleOut, 4 * t.c4));
        }
        Lowered { scratch, launches }
    }

    fn leaves(&self, _: Caps) -> Option<Half> {
        Some(Half::Scaled)
    }

    fn oracle(&self, inputs: &[&Tensor], scalars: &Scalars) -> Vec<Tensor> {
        let [x, gamma, mean, inv_std, gy] = [0, 1, 2, 3, 4].map(|i| inputs[i]);
        let c = x.shape.last();
        let rows = valid_rows(x, scalars);
        let xhat = |i: usize| (x.data[i] - mean.data[i % c]) * inv_std.data[i % c];
        let g = match self.passed {
            Passed::All => masked(gy, None),
            Passed::OfY => masked(gy, Some(inputs[5])),
            Passed::OfX => {
                let y = (0..gy.data.len()).map(|i| gamma.data[i % c] * xhat(i) + inputs[5].data[i % c]).collect();
                masked(gy, Some(&Tensor::new(gy.shape.clone(), y)))
            }
        };
        let (mut sum_g, mut sum_gx) = (vec![0.0; c], vec![0.0; c]);
        for i in 0..rows * c {
            sum_g[i % c] += g[i];
            sum_gx[i % c] += g[i] * xhat(i);
        }
        let n = (rows as f64).max(1.0);
        let gx = (0..g.len())
            .map(|i| match i / c < rows {
                true => gamma.data[i % c] * inv_std.data[i % c] * (g[i] - sum_g[i % c] / n - xhat(i) * sum_gx[i % c] / n),
                false => 0.0,
            })
            .collect();
        let vector = |data| Tensor::new(gamma.shape.clone(), data);
        let mut out = vec![Tensor::new(x.shape.clone(), gx), vector(sum_gx), vector(sum_g)];
        out.extend(self.keep_masked.then(|| Tensor::new(x.shape.clone(), g)));
        out
    }
}

/// Checks x [N, .., C], then `vectors` inputs of shape [C], then `like_x` of x's shape.
pub(super) fn check_inputs(op: &'static str, inputs: &[Shape], vectors: usize, like_x: usize) -> Result<(), GraphError> {
    let fail = |why: String| Err(GraphError::Shape { op, why });
    let expected = 1 + vectors + like_x;
    if inputs.len() != expected {
        return fail(format!("takes {expected} inputs, got {}", inputs.len()));
    }
    let x = &inputs[0];
    let channels = x.last();
    if x.dims.len() < 2 || x.is_empty() || !channels.is_multiple_of(4) {
        return fail(format!("takes [samples, .., channels] with channels a multiple of 4, got {x}"));
    }
    if let Some(v) = inputs[1..=vectors].iter().find(|v| **v != Shape::f32(&[channels])) {
        return fail(format!("x is {x}, so what goes with its channels must be [{channels}], got {v}"));
    }
    match inputs[vectors + 1..].iter().find(|v| *v != x) {
        Some(v) => fail(format!("x is {x}, so residuals and gradients must be too, got {v}")),
        None => Ok(()),
    }
}

const N_VALID: Param = Param::Scalar("n_valid");

/// An entry point of the forward pass.
pub(super) fn forward(entry: &'static str) -> KernelId {
    KernelId::new("batch_norm", entry)
}

/// An entry point of the gradients.
pub(super) fn gradient(entry: &'static str) -> KernelId {
    KernelId::new("batch_norm_grad", entry)
}

/// A constant of a kernel.
type Flag = (&'static str, u32);

/// How rows and channels are dealt out to workgroups and lanes.
#[derive(Clone, Copy)]
pub(super) struct Tiling {
    samples: usize,
    rows: usize,
    c4: usize,
    /// Quads of channels in a load.
    quads: usize,
    /// Rows of a workgroup.
    chunk: usize,
    chunks: usize,
    lanes: [usize; 2],
    /// Lanes of the kernels that combine the chunks.
    finish_lanes: [usize; 2],
    /// Of what is left in f16.
    pub(super) planes: u32,
}

impl Tiling {
    pub(super) fn new(x: &Shape, caps: Caps) -> Tiling {
        let (rows, c4) = (x.rows(), x.last() / 4);
        let quads = caps.load_quads(c4);
        let loads = c4 / quads;
        // Of `total` lanes as many as there are `pieces` go along channels, `widest` at most, and the rest along rows.
        let split = |pieces: usize, total: usize, widest: usize| {
            let along_c = pieces.next_power_of_two().min(widest);
            [along_c, total / along_c]
        };
        // A CPU driver wants workgroups of one subgroup, few and long; a GPU wants enough of them to be filled.
        let (lanes, finish_lanes, workgroups, fewest, most) = match (caps.cpu, caps.subgroup.unwrap_or(8) as usize) {
            (true, sg) => (split(loads, sg, sg), split(c4, sg, sg), 128, 16, 256),
            (false, _) => (split(loads, 256, 16), split(c4, 256, 4), 1024, 4, 64),
        };
        let wanted = (rows * loads.div_ceil(lanes[0])).div_ceil(workgroups);
        let chunk = wanted.clamp(fewest * lanes[1], most * lanes[1]);
        Tiling {
            samples: x.dims[0],
            rows,
            c4,
            quads,
            chunk,
            chunks: rows.div_ceil(chunk),
            lanes,
            finish_lanes,
            planes: caps.matrix.map_or(1, |m| m.planes),
        }
    }

    /// All samples count.
    pub(super) fn all(&self) -> Param {
        Param::U32(self.samples as u32)
    }

    /// Two vec4 a chunk and channel quadruple.
    pub(super) fn partial(&self) -> Shape {
        Shape::f32(&[self.chunks, self.c4, 8])
    }

    fn launch(&self, kernel: KernelId, lanes: [usize; 2], bind: Vec<Bind>, workgroups: usize) -> Launch {
        let consts = [("LANES_C", lanes[0] as u32), ("LANES_R", lanes[1] as u32)];
        let extents = [
            ("rows", self.rows),
            ("c4", self.c4),
            ("chunk", self.chunk),
            ("chunks", self.chunks),
            ("sample_rows", self.rows / self.samples),
        ];
        Launch {
            kernel: kernel.with(&consts),
            bind,
            params: extents.map(|(name, n)| (name, Param::U32(n as u32))).to_vec(),
            groups: groups(workgroups, 1),
        }
    }

    /// A launch with a workgroup a chunk and block of channels.
    pub(super) fn over_rows(&self, kernel: KernelId, flags: &[Flag], bind: Vec<Bind>, n_valid: Param, eps: f32) -> Launch {
        let blocks = (self.c4 / self.quads).div_ceil(self.lanes[0]);
        let mut launch = self.launch(kernel, self.lanes, bind, self.chunks * blocks);
        launch.kernel = launch.kernel.with(&[("QUADS", self.quads as u32)]).with(flags);
        launch.params.extend([("n_valid", n_valid), ("eps", Param::F32(eps)), ("momentum", Param::F32(0.0))]);
        launch
    }

    /// A launch with a workgroup a block of channels.
    pub(super) fn over_chunks(&self, kernel: KernelId, bind: Vec<Bind>, n_valid: Param, eps: f32, momentum: f32) -> Launch {
        let mut launch = self.launch(kernel, self.finish_lanes, bind, self.c4.div_ceil(self.finish_lanes[0]));
        launch.kernel = launch.kernel.with(&[("QUADS", 1)]);
        launch.params.extend([("n_valid", n_valid), ("eps", Param::F32(eps)), ("momentum", Param::F32(momentum))]);
        launch
    }
}

/// How a gradient's launch gets at gy, and at y where it reads that.
pub(super) fn masking(gy: Slot, y: Option<Slot>) -> (Flag, Vec<Bind>) {
    (("FROM_Y", u32::from(y.is_some())), [("gy", gy)].into_iter().chain(y.map(|y| ("y", y))).collect())
}

/// Has a launch also write gy where y > 0 to `kept`.
pub(super) fn keeping(kept: Option<Slot>) -> (Flag, Option<Bind>) {
    (("KEEP", u32::from(kept.is_some())), kept.map(|slot| ("gresidual", slot)))
}

/// gy where y > 0, else 0; all of gy without a ReLU.
pub(super) fn masked(gy: &Tensor, y: Option<&Tensor>) -> Vec<f64> {
    gy.data.iter().enumerate().map(|(i, g)| if y.is_none_or(|y| y.data[i] > 0.0) { *g } else { 0.0 }).collect()
}

fn valid_rows(x: &Tensor, scalars: &Scalars) -> usize {
    let valid = scalars["n_valid"] as usize;
    (valid * (x.shape.rows() / x.shape.dims[0])).min(x.shape.rows())
}

/// Each channel's mean over the first `rows` rows, and its sum of squares about that.
fn moments(x: &[f64], c: usize, rows: usize) -> (Vec<f64>, Vec<f64>) {
    let n = rows.max(1) as f64;
    let mut mean = vec![0.0; c];
    let mut m2 = vec![0.0; c];
    for i in 0..rows * c {
        mean[i % c] += x[i] / n;
    }
    for i in 0..rows * c {
        m2[i % c] += (x[i] - mean[i % c]).powi(2);
    }
    (mean, m2)
}

/// Shapes with one chunk and several, lanes left over, rank 2 and 4; the number of valid samples.
const SIZES: [(&[usize], f64); 4] = [(&[3, 5, 7, 12], 3.0), (&[2, 3, 3, 20], 1.0), (&[700, 36], 513.0), (&[5, 33, 31, 16], 4.0)];
const POSITIVE: Fill = Fill::Uniform { low: 0.5, high: 1.5 };

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (dims, valid) in SIZES {
        for (relu, residual, mean) in [(false, false, 50.0), (true, false, 0.5), (true, true, 0.0), (false, true, 0.0)] {
            let name = format!("{dims:?} relu {relu} residual {residual} mean {mean}");
            let c = dims[dims.len() - 1..].to_vec();
            let mut case = Case::new(&name, BatchNorm { eps: 1e-5, momentum: 0.1, relu, residual })
                .f32(dims, Fill::Normal { mean, std: 1.0 })
                .f32(&c, Fill::Normal { mean: 1.0, std: 0.3 })
                .f32(&c, Fill::NORMAL)
                .f32(&c, Fill::NORMAL)
                .f32(&c, POSITIVE)
                .scalar("n_valid", valid)
                .terms(Shape::f32(dims).rows());
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
    for (dims, valid) in SIZES {
        let ways = [(Passed::All, false), (Passed::OfX, false), (Passed::OfY, false), (Passed::OfY, true)];
        for (passed, keep_masked) in ways {
            let c = dims[dims.len() - 1..].to_vec();
            let mut case =
                Case::new(&format!("{dims:?} passed {passed:?} keep {keep_masked}"), BatchNormGrad { passed, keep_masked })
                    .f32(dims, Fill::Normal { mean: 5.0, std: 1.0 })
                    .f32(&c, Fill::NORMAL)
                    .f32(&c, Fill::Normal { mean: 5.0, std: 0.1 })
                    .f32(&c, POSITIVE)
                    .f32(dims, Fill::NORMAL)
                    .scalar("n_valid", valid)
                    .terms(Shape::f32(dims).rows());
            match passed {
                Passed::All => {}
                Passed::OfX => case = case.f32(&c, Fill::NORMAL),
                Passed::OfY => case = case.f32(dims, Fill::NORMAL),
            }
            cases.push(case);
        }
    }
    cases
}
