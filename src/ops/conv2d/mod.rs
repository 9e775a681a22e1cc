//! 2-D convolution without bias and its two gradients, as one implicit GEMM in several stagings.
//! Shaders: `conv2d_tile.wgsl`, `conv2d_shuffle.wgsl`, `conv2d_register.wgsl`, `conv2d_matrix.wgsl` (one per staging), `winograd.wgsl`,
//! `conv2d_weights.wgsl`, `reduce.wgsl`.

mod add;
mod cases;
mod matrix;
mod norm;
mod shuffle;
mod strip;
mod sum;
mod tile;
mod winograd;

pub use add::Conv2dAdd;
pub use cases::matrices_add_up;
pub(super) use cases::{add_cases, cases, input_grad_add_cases, input_grad_cases, norm_cases, weight_grad_cases};
pub use norm::Conv2dNorm;

use shuffle::{lanes, owned, shuffle, shuffle_weights};
use sum::{sum_slices, summed};
use tile::Tile;

use crate::gpu::{Caps, Staging};
use crate::graph::{
    Backward, Graph, GraphError, Launch, Lowered, Lowering, MOMENT_ROWS, Op, Param, Scalars, Shape, Slot, Tensor, Value, groups,
};
use crate::kernel::KernelId;

/// y[n, oy, ox, co] = sum of x[n, oy stride + ky - pad, ox stride + kx - pad, ci] w[ky, kx, ci, co].
/// x [N, H, W, CI], w [K, K, CI, CO], CI and CO multiples of 4 -> y [N, H', W', CO], H' = (H + 2 pad - K) / stride + 1.
#[derive(Clone, Copy, Debug)]
pub struct Conv2d {
    /// Pixels from one window to the next, a power of two.
    pub stride: u32,
    /// Zeros on each side of the image, fewer than K.
    pub pad: u32,
}

/// The gradient with respect to x, of height and width `input`: gy [N, H', W', CO], w -> gx [N, H, W, CI].
#[derive(Clone, Copy, Debug)]
pub struct Conv2dInputGrad {
    /// The forward pass's.
    pub stride: u32,
    /// The forward pass's.
    pub pad: u32,
    /// [H, W] of x.
    pub input: [usize; 2],
}

/// The gradient with respect to w: x, gy -> gw [K, K, CI, CO].
#[derive(Debug)]
pub struct Conv2dWeightGrad {
    /// The forward pass's.
    pub stride: u32,
    /// The forward pass's.
    pub pad: u32,
    /// Height and width of w, K.
    pub kernel: usize,
}

/// All extents of one convolution, from its forward point of view.
#[derive(Clone, Copy, Debug)]
struct Extents {
    n: usize,
    input: [usize; 2],
    output: [usize; 2],
    ci: usize,
    co: usize,
    kernel: usize,
    stride: usize,
    pad: usize,
}

impl Extents {
    fn new(op: &'static str, n: usize, input: [usize; 2], w: &Shape, stride: u32, pad: u32) -> Result<Extents, GraphError> {
        let fail = |why: String| Err(GraphError::Shape { op, why });
        let &[kernel, k2, ci, co] = &w.dims[..] else { return fail(format!("weights must be [K, K, CI, CO], got {w}")) };
        if kernel != k2 || !ci.is_multiple_of(4) || !co.is_multiple_of(4) {
            return fail(format!("weights must be square with channels in multiples of 4, got {w}"));
        }
        let (stride, pad) = (stride as usize, pad as usize);
        if !stride.is_power_of_two() {
            return fail(format!("the stride must be a power of two, got {stride}"));
        }
        if pad >= kernel || input.iter().any(|&x| x + 2 * pad < kernel) {
            return fail(format!(
                "a {kernel}x{kernel} kernel, stride {stride}, padding {pad} does not fit an image of {input:?}"
            ));
        }
        let output = input.map(|x| (x + 2 * pad - kernel) / stride + 1);
        Ok(Extents { n, input, output, ci, co, kernel, stride, pad })
    }

    /// Batches up to the next power of two compare alike.
    fn class(&self, op: &str) -> String {
        let Extents { input: [h, w], ci, co, kernel, stride, pad, .. } = self;
        format!("{op} {kernel}x{kernel} stride {stride} pad {pad}, {ci} to {co}, {h}x{w}, batch {}", self.n.next_power_of_two())
    }

    fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// Multiplications and additions of one run (either direction).
    fn flops(&self) -> u64 {
        2 * (self.n * self.output[0] * self.output[1] * self.kernel * self.kernel * self.ci * self.co) as u64
    }

    /// `Params` of the convolution shaders. `from` and `to` are (height, width, channels) of x and y as the shader sees them,
    /// `slices` is [rows_a_slice, add].
    fn params(
        &self,
        from: ([usize; 2], usize),
        to: ([usize; 2], usize),
        map: [usize; 3],
        slices: [usize; 2],
    ) -> Vec<(&'static str, Param)> {
        let u = |x: usize| Param::U32(x as u32);
        vec![
            ("n", u(self.n)),
            ("ih", u(from.0[0])),
            ("iw", u(from.0[1])),
            ("ci4", u(from.1 / 4)),
            ("oh", u(to.0[0])),
            ("ow", u(to.0[1])),
            ("co4", u(to.1 / 4)),
            ("kernel", u(self.kernel)),
            ("mul", u(map[0])),
            ("shift", Param::U32(map[1].trailing_zeros())),
            ("off", u(map[2])),
            ("rows_a_slice", u(slices[0])),
            ("add", u(slices[1])),
            ("n_valid", u(self.n)),
        ]
    }

    /// Calls `f` with (x index, w index, y index) for each multiply-add: the definition, for the oracles.
    fn each_term(&self, mut f: impl FnMut(usize, usize, usize)) {
        let inside = |o: usize, k: usize, extent: usize| (o * self.stride + k).checked_sub(self.pad).filter(|&i| i < extent);
        for n in 0..self.n {
            for oy in 0..self.output[0] {
                for ox in 0..self.output[1] {
                    for ky in 0..self.kernel {
                        for kx in 0..self.kernel {
                            let Some(iy) = inside(oy, ky, self.input[0]) else { continue };
                            let Some(ix) = inside(ox, kx, self.input[1]) else { continue };
                            let xi = ((n * self.input[0] + iy) * self.input[1] + ix) * self.ci;
                            let wi = (ky * self.kernel + kx) * self.ci * self.co;
                            let yi = ((n * self.output[0] + oy) * self.output[1] + ox) * self.co;
                            for ci in 0..self.ci {
                                for co in 0..self.co {
                                    f(xi + ci, wi + ci * self.co + co, yi + co);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Pixels an invocation of register-block accumulates.
const REGISTER_PIXELS: usize = 8;

/// Workgroups below which a GPU would idle: smaller tiles are better, though each multiply-add then takes more loads.
const FEW_GROUPS: usize = 256;
/// The file of workgroup-tile.
const TILE: &str = "conv2d_tile";
/// Pixels of a slice below which a weight gradient's tile would spend more on being written and summed than on multiplying.
const TILE_PIXELS: usize = 64;

/// Bytes that a CPU core's own cache holds.
const CACHE: usize = 384 << 10;
/// Slices of a weight gradient for the cache's sake: memory does not grow with the batch.
const MOST_SLICES: usize = 64;

/// `gather`: y from inputs x and w, or gx from gy and w, `back`: then the weights are taken flipped and transposed. `from` and `to` are
/// (height, width, channels) of what is read and written, `map` is [mul, div, off].
fn gather(e: &Extents, from: ([usize; 2], usize), to: ([usize; 2], usize), map: [usize; 3], back: bool, caps: Caps) -> Lowered {
    let div = map[1];
    let co4 = to.1 / 4;
    // The largest residue class: all classes get its grid.
    let pixels = e.n * to.0[0].div_ceil(div) * to.0[1].div_ceil(div);
    let classes = (div * div) as u32;
    let (kernel, grid) = match (caps.staging, caps.subgroup) {
        (Staging::CooperativeMatrix, _) => {
            let (kernel, [x, y]) = matrix::kernel("gather", caps, pixels, to.1, div * div);
            let kernel = kernel.with(&[("TURNED", u32::from(back))]);
            let bind = vec![("x", Slot::Half(0)), ("w", Slot::Half(1)), ("y", Slot::Out(0))];
            let mut launch =
                Launch { kernel, bind, params: e.params(from, to, map, [0, 0]), groups: [x as u32, y as u32, classes] };
            if back {
                matrix::scaled(&mut launch, 0);
            }
            return launch.into();
        }
        (Staging::SubgroupShuffle, Some(sg)) => {
            // These lanes read the weights as they lie.
            let (kernel, [x, y]) = shuffle("gather", sg, pixels, to.1);
            let bind = vec![("x", Slot::In(0)), ("w", Slot::In(1)), ("turned", Slot::In(1)), ("y", Slot::Out(0))];
            let kernel = kernel.with(&[("TURNED", u32::from(back))]);
            return Launch { kernel, bind, params: e.params(from, to, map, [0, 0]), groups: [x, y, classes] }.into();
        }
        (Staging::WorkgroupTile | Staging::WinogradTile, _) => {
            let tile = caps.own.map_or_else(|| Tile::filling(pixels, to.1, div * div), |own| Tile::new(own, to.1));
            let [x, y] = tile.grid(pixels, to.1);
            (tile.kernel(TILE, "gather"), [x as u32, y as u32, classes])
        }
        _ => {
            let [x, y, _] = groups(pixels.div_ceil(REGISTER_PIXELS) * co4.div_ceil(2), 64);
            (KernelId::new("conv2d_register", "gather").with(&[("MT", REGISTER_PIXELS as u32)]), [x, y, classes])
        }
    };
    let w = if back { Slot::Scratch(0) } else { Slot::In(1) };
    let bind = vec![("x", Slot::In(0)), ("w", w), ("y", Slot::Out(0))];
    let main = Launch { kernel, bind, params: e.params(from, to, map, [0, 0]), groups: grid };
    if !back {
        return main.into();
    }
    Lowered { scratch: vec![Shape::f32(&[e.taps(), e.co, e.ci])], launches: vec![flip(e, w), main] }
}

/// The weights, input 1, with their taps from last to first and transposed, `to` [taps, co, ci].
fn flip(e: &Extents, to: Slot) -> Launch {
    Launch {
        kernel: KernelId::new("conv2d_weights", "flip"),
        bind: vec![("w", Slot::In(1)), ("wt", to)],
        params: [("taps", e.taps()), ("ci", e.ci), ("co", e.co)].map(|(name, n)| (name, Param::U32(n as u32))).to_vec(),
        groups: groups(e.taps() * e.co * e.ci / 4, 64),
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        let e = self.extents(inputs)?;
        Ok(vec![Shape::f32(&[e.n, e.output[0], e.output[1], e.co])])
    }

    fn tuning_class(&self, inputs: &[Shape]) -> Option<String> {
        Some(self.extents(inputs).ok()?.class(self.name()))
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let Ok(e) = self.extents(l.inputs) else { return Lowered::default() };
        if winograd::wins(&e, l.caps) {
            return winograd::launches(&e, winograd::Form::Forward, l.caps);
        }
        let (from, to) = ((e.input, e.ci), (e.output, e.co));
        if let Some(subgroup) = strip::wins(&e, l.caps) {
            return strip::gather(&e, from, to, subgroup, false);
        }
        gather(&e, from, to, [e.stride, 1, e.pad], false, l.caps)
    }

    fn lower_measuring(&self, l: &Lowering) -> Option<Lowered> {
        let e = self.extents(l.inputs).ok()?;
        let tiles = matches!(l.caps.staging, Staging::WorkgroupTile | Staging::WinogradTile);
        if !tiles || winograd::wins(&e, l.caps) {
            return None;
        }
        let mut lowered = gather(&e, (e.input, e.ci), (e.output, e.co), [e.stride, 1, e.pad], false, l.caps);
        let launch = lowered.launches.last_mut()?;
        let &(_, each) = launch.kernel.consts.iter().find(|(name, _)| *name == "TM")?;
        launch.kernel.consts.push(("CHUNKS", 16 * each / MOMENT_ROWS as u32));
        launch.bind.push(("moments", Slot::Moments));
        launch.params.retain(|(name, _)| *name != "n_valid");
        launch.params.push(("n_valid", Param::Scalar("n_valid")));
        Some(lowered)
    }

    fn backward(&self, g: &mut Graph, b: &Backward) -> Result<Vec<Option<Value>>, GraphError> {
        let Some(gy) = b.grads[0] else { return Ok(vec![None, None]) };
        let (x, w) = (b.inputs[0], b.inputs[1]);
        let [_, h, width, _] = g.shape(x).dims[..] else { return Ok(vec![None, None]) };
        let kernel = g.shape(w).dims[0];
        let Conv2d { stride, pad } = *self;
        let gw = if b.need[1] { Some(g.apply(Conv2dWeightGrad { stride, pad, kernel }, &[x, gy])?[0]) } else { None };
        let input = [h, width];
        let gx = if b.need[0] { Some(g.apply(Conv2dInputGrad { stride, pad, input }, &[gy, w])?[0]) } else { None };
        Ok(vec![gx, gw])
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let shapes: Vec<Shape> = inputs.iter().map(|t| t.shape.clone()).collect();
        #[expect(clippy::expect_used, reason = "a graph refuses shapes that do not fit before an oracle sees them")]
        let e = self.extents(&shapes).expect("shapes were checked when the graph was built");
        let mut y = Tensor::zeros(Shape::f32(&[e.n, e.output[0], e.output[1], e.co]));
        e.each_term(|xi, wi, yi| y.data[yi] += inputs[0].data[xi] * inputs[1].data[wi]);
        vec![y]
    }

    fn flops(&self, inputs: &[Shape]) -> u64 {
        self.extents(inputs).map_or(0, |e| e.flops())
    }
}

impl Conv2d {
    fn extents(&self, inputs: &[Shape]) -> Result<Extents, GraphError> {
        let fail = |why: String| Err(GraphError::Shape { op: "conv2d", why });
        let [x, w] = inputs else { return fail(format!("takes x and w, got {} inputs", inputs.len())) };
        let &[n, h, width, ci] = &x.dims[..] else { return fail(format!("x must be [N, H, W, CI], got {x}")) };
        let e = Extents::new("conv2d", n, [h, width], w, self.stride, self.pad)?;
        if e.ci != ci {
            return fail(format!("x {x} has {ci} channels, the weights {w} take {}", e.ci));
        }
        Ok(e)
    }
}

impl Op for Conv2dInputGrad {
    fn name(&self) -> &'static str {
        "conv2d_input_grad"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        let e = self.extents(inputs)?;
        Ok(vec![Shape::f32(&[e.n, e.input[0], e.input[1], e.ci])])
    }

    fn tuning_class(&self, inputs: &[Shape]) -> Option<String> {
        Some(self.extents(inputs).ok()?.class(self.name()))
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let Ok(e) = self.extents(l.inputs) else { return Lowered::default() };
        if winograd::wins(&e, l.caps) {
            return winograd::launches(&e, winograd::Form::InputGradient, l.caps);
        }
        let (from, to) = ((e.output, e.co), (e.input, e.ci));
        if let Some(subgroup) = strip::wins(&e, l.caps) {
            return strip::gather(&e, from, to, subgroup, true);
        }
        let map = [1, e.stride, e.kernel - 1 - e.pad];
        gather(&e, from, to, map, true, l.caps)
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let shapes: Vec<Shape> = inputs.iter().map(|t| t.shape.clone()).collect();
        #[expect(clippy::expect_used, reason = "a graph refuses shapes that do not fit before an oracle sees them")]
        let e = self.extents(&shapes).expect("shapes were checked when the graph was built");
        let mut gx = Tensor::zeros(Shape::f32(&[e.n, e.input[0], e.input[1], e.ci]));
        e.each_term(|xi, wi, yi| gx.data[xi] += inputs[0].data[yi] * inputs[1].data[wi]);
        vec![gx]
    }

    fn flops(&self, inputs: &[Shape]) -> u64 {
        self.extents(inputs).map_or(0, |e| e.flops())
    }
}

impl Conv2dInputGrad {
    fn extents(&self, inputs: &[Shape]) -> Result<Extents, GraphError> {
        let fail = |why: String| Err(GraphError::Shape { op: "conv2d_input_grad", why });
        let [gy, w] = inputs else { return fail(format!("takes gy and w, got {} inputs", inputs.len())) };
        let n = gy.dims.first().copied().unwrap_or(0);
        let e = Extents::new("conv2d_input_grad", n, self.input, w, self.stride, self.pad)?;
        if gy.dims != [e.n, e.output[0], e.output[1], e.co] {
            return fail(format!("gy {gy} is not the output of weights {w} on an image of {:?}", self.input));
        }
        Ok(e)
    }
}

impl Op for Conv2dWeightGrad {
    fn name(&self) -> &'static str {
        "conv2d_weight_grad"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        let e = self.extents(inputs)?;
        Ok(vec![Shape::f32(&[e.kernel, e.kernel, e.ci, e.co])])
    }

    fn tuning_class(&self, inputs: &[Shape]) -> Option<String> {
        Some(self.extents(inputs).ok()?.class(self.name()))
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let Ok(e) = self.extents(l.inputs) else { return Lowered::default() };
        if winograd::wins_weights(&e, l.caps) {
            return winograd::weight_gradient(&e, l.caps);
        }
        if let Some(subgroup) = strip::wins(&e, l.caps) {
            return strip::weight_gradient(&e, subgroup);
        }
        let rows4 = e.kernel * e.kernel * e.ci / 4;
        let co4 = e.co / 4;
        let image_rows = e.n * e.output[0];
        // Workgroups that keep the adapter busy; slices beyond that only cost memory and a longer sum.
        let matrices = l.caps.staging == Staging::CooperativeMatrix;
        let on_gpu = if matrices { matrix::WANTED } else { 1024 };
        let wanted: usize = if l.caps.cpu { 16 } else { on_gpu };
        // Slices that a workgroup takes together, and the fewest image rows that are worth a slice.
        let (kernel, tiles, together, fewest) = match (l.caps.staging, l.caps.subgroup) {
            (Staging::SubgroupShuffle, Some(sg)) => {
                let own = [e.ci, e.co].map(|c| owned(sg, c) as usize);
                let rows = rows4 * 4 / own[0];
                let cl = lanes(sg, e.co / own[1]).min(lanes(sg, rows));
                let (id, _) = shuffle_weights("weight_gradient", sg, cl, e.ci, e.co);
                let cl = cl as usize;
                (id, [rows.div_ceil(4 * cl), e.co.div_ceil(own[1] * cl)], sg as usize / cl, 1)
            }
            (Staging::WorkgroupTile | Staging::WinogradTile, _) => {
                let tile = l.caps.own.map_or_else(|| Tile::fitting(rows4 * 4, e.co), |own| Tile::new(own, e.co));
                (tile.kernel(TILE, "weight_gradient"), tile.grid(rows4 * 4, e.co), 1, TILE_PIXELS.div_ceil(e.output[1]))
            }
            (Staging::CooperativeMatrix, _) => {
                // As many slices as make up for few tiles.
                let (kernel, tiles) = matrix::kernel("weight_gradient", l.caps, rows4 * 4, e.co, wanted);
                (kernel, tiles, 1, matrix::PIXELS.div_ceil(e.output[1]))
            }
            _ => (KernelId::new("conv2d_register", "weight_gradient"), [(rows4 * co4.div_ceil(2)).div_ceil(64), 1], 1, 1),
        };
        let mut groups_z = wanted.div_ceil(tiles[0] * tiles[1]);
        if l.caps.cpu {
            // A CPU runs the tiles of a slice one after another: let what they all read stay in its cache, as long as the slices are
            // no more to write and sum than what is read.
            let read = 4 * e.n * (e.input[0] * e.input[1] * e.ci + e.output[0] * e.output[1] * e.co);
            let written = 4 * rows4 * 4 * e.co * together;
            groups_z = groups_z.max((read / CACHE).min(read / written).min(MOST_SLICES));
        }
        let groups_z = groups_z.min(image_rows.div_ceil(together * fewest)).max(1);
        let rows_a_slice = image_rows.div_ceil(groups_z * together);
        let groups_z = image_rows.div_ceil(rows_a_slice * together);
        let slices = groups_z * together;
        let operand = if matrices { Slot::Half } else { Slot::In };
        let mut main = Launch {
            kernel,
            bind: vec![("x", operand(0)), ("gy", operand(1)), ("slices", Slot::Scratch(0))],
            params: e.params((e.input, e.ci), (e.output, e.co), [e.stride, 1, e.pad], [rows_a_slice, 0]),
            groups: [tiles[0] as u32, tiles[1] as u32, groups_z as u32],
        };
        if matrices {
            matrix::scaled(&mut main, 1);
        }
        summed(main, slices, rows4 * 4 * co4)
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let shapes: Vec<Shape> = inputs.iter().map(|t| t.shape.clone()).collect();
        #[expect(clippy::expect_used, reason = "a graph refuses shapes that do not fit before an oracle sees them")]
        let e = self.extents(&shapes).expect("shapes were checked when the graph was built");
        let mut gw = Tensor::zeros(Shape::f32(&[e.kernel, e.kernel, e.ci, e.co]));
        e.each_term(|xi, wi, yi| gw.data[wi] += inputs[0].data[xi] * inputs[1].data[yi]);
        vec![gw]
    }

    fn flops(&self, inputs: &[Shape]) -> u64 {
        self.extents(inputs).map_or(0, |e| e.flops())
    }
}

impl Conv2dWeightGrad {
    fn extents(&self, inputs: &[Shape]) -> Result<Extents, GraphError> {
        let fail = |why: String| Err(GraphError::Shape { op: "conv2d_weight_grad", why });
        let [x, gy] = inputs else { return fail(format!("takes x and gy, got {} inputs", inputs.len())) };
        let &[n, h, width, ci] = &x.dims[..] else { return fail(format!("x must be [N, H, W, CI], got {x}")) };
        let w = Shape::f32(&[self.kernel, self.kernel, ci, gy.last()]);
        let e = Extents::new("conv2d_weight_grad", n, [h, width], &w, self.stride, self.pad)?;
        if gy.dims != [e.n, e.output[0], e.output[1], e.co] {
            return fail(format!("gy {gy} is not the output of {}x{} weights on {x}", self.kernel, self.kernel));
        }
        Ok(e)
    }
}
