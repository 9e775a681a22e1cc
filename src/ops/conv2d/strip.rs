//! Launches of a 3x3 convolution and its gradients where there are few channels: a subgroup takes a strip of pixels. Shaders:
//! `shaders/conv2d_strip.wgsl`, `conv2d_weights.wgsl`.

use super::{Extents, summed};
use crate::gpu::{Caps, Staging};
use crate::graph::{Launch, Lowered, Param, Shape, Slot, groups};
use crate::kernel::KernelId;

/// Channels below which a subgroup along channels has too few lanes at work.
const CHANNELS: usize = 32;
/// Pixels of a strip: what others gave is in docs/performance.md.
const GATHER_PIXELS: usize = 32;
const WEIGHT_PIXELS: u32 = 4;
/// Subgroups that share the image rows of a weight gradient, about.
const SLICES: usize = 64;

/// The subgroup's size where it is the faster way.
pub(super) fn wins(e: &Extents, caps: Caps) -> Option<u32> {
    let few = (e.kernel, e.stride, e.pad) == (3, 1, 1) && e.ci.min(e.co) < CHANNELS;
    caps.subgroup.filter(|_| few && caps.staging == Staging::SubgroupShuffle)
}

/// y from x and w, or gx from gy and w (`flip`); `from` and `to` are (height, width, channels) of what is read and written.
pub(super) fn gather(e: &Extents, from: ([usize; 2], usize), to: ([usize; 2], usize), subgroup: u32, flip: bool) -> Lowered {
    let lanes = subgroup as usize;
    let blocks = to.1.div_ceil(2 * lanes);
    let u = |x: usize| Param::U32(x as u32);
    let values = blocks * 9 * from.1 * 2 * lanes;
    let pairs = Launch {
        kernel: KernelId::new("conv2d_weights", "pairs").with(&[("SG", subgroup), ("FLIP", u32::from(flip))]),
        bind: vec![("w", Slot::In(1)), ("wt", Slot::Scratch(0))],
        params: vec![("taps", u(9)), ("ci", u(e.ci)), ("co", u(e.co))],
        groups: groups(values / 8, 64),
    };
    let across = e.output[1].div_ceil(GATHER_PIXELS);
    let consts = [("SG", subgroup), ("PX", GATHER_PIXELS as u32), ("EDGES", u32::from(across > 1))];
    let main = Launch {
        kernel: KernelId::new("conv2d_strip", "gather").with(&consts),
        bind: vec![("x", Slot::In(0)), ("w", Slot::Scratch(0)), ("y", Slot::Out(0))],
        params: e.params(from, to, [1, 1, 1], [0, 0]),
        groups: [(e.n * e.output[0] * across).div_ceil(4) as u32, blocks as u32, 1],
    };
    Lowered { scratch: vec![Shape::f32(&[values])], launches: vec![pairs, main] }
}

/// gw from x and gy.
pub(super) fn weight_gradient(e: &Extents, subgroup: u32) -> Lowered {
    let rows = e.n * e.output[0];
    let each = rows.div_ceil(SLICES);
    let workgroups = rows.div_ceil(4 * each);
    let wide = if e.ci.is_multiple_of(8) { 8 } else { 4 };
    let consts = [("SG", subgroup), ("PX", WEIGHT_PIXELS), ("XW", wide)];
    let main = Launch {
        kernel: KernelId::new("conv2d_strip", "weight_gradient").with(&consts),
        bind: vec![("x", Slot::In(0)), ("gy", Slot::In(1)), ("slices", Slot::Scratch(0))],
        params: e.params((e.input, e.ci), (e.output, e.co), [1, 1, 1], [each, 0]),
        groups: [workgroups as u32, e.ci as u32 / wide, e.co.div_ceil(2 * subgroup as usize) as u32],
    };
    summed(main, 4 * workgroups, 9 * e.ci * e.co / 4)
}
