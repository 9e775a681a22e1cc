//! Launches of a 3x3 convolution and its gradients where there are few channels: a lane owns a strip of pixels. Shader:
//! `shaders/conv2d_strip.wgsl`.

use super::{Extents, summed};
use crate::graph::{Launch, Lowered, Slot};
use crate::kernel::KernelId;

/// Channels below which a subgroup along channels has too few lanes at work.
const CHANNELS: usize = 32;
/// Pixels of a strip: what 4, 8 and 16 gave is in docs/performance.md. Channels that it is multiplied for at a time.
const GATHER_PIXELS: usize = 16;
const WEIGHT_PIXELS: usize = 4;
const BLOCK: usize = 16;
/// Subgroups that share the strips of a weight gradient, about.
const GROUPS: usize = 16;

/// Whether it is the faster way.
pub(super) fn wins(e: &Extents) -> bool {
    (e.kernel, e.stride, e.pad) == (3, 1, 1) && e.ci.min(e.co) < CHANNELS
}

fn strips(e: &Extents, pixels: usize) -> usize {
    e.n * e.output[0] * e.output[1].div_ceil(pixels)
}

fn kernel(entry: &'static str, subgroup: u32, pixels: usize) -> KernelId {
    KernelId::new("conv2d_strip", entry).with(&[("SG", subgroup), ("WL", 16u32.div_ceil(subgroup)), ("PX", pixels as u32)])
}

/// y from x and `w`, which is bound as given; `from` and `to` are (height, width, channels) of x and y.
pub(super) fn gather(e: &Extents, from: ([usize; 2], usize), to: ([usize; 2], usize), subgroup: u32, w: Slot) -> Launch {
    Launch {
        kernel: kernel("gather", subgroup, GATHER_PIXELS),
        bind: vec![("x", Slot::In(0)), ("w", w), ("y", Slot::Out(0))],
        params: e.params(from, to, [1, 1, 1], [0, 0]),
        groups: [strips(e, GATHER_PIXELS).div_ceil(4 * subgroup as usize) as u32, to.1.div_ceil(BLOCK) as u32, 1],
    }
}

/// gw from x and gy.
pub(super) fn weight_gradient(e: &Extents, subgroup: u32) -> Lowered {
    let lanes = subgroup as usize;
    let each = strips(e, WEIGHT_PIXELS).div_ceil(lanes * GROUPS);
    let workgroups = strips(e, WEIGHT_PIXELS).div_ceil(4 * lanes * each);
    let main = Launch {
        kernel: kernel("weight_gradient", subgroup, WEIGHT_PIXELS),
        bind: vec![("x", Slot::In(0)), ("gy", Slot::In(1)), ("slices", Slot::Scratch(0))],
        params: e.params((e.input, e.ci), (e.output, e.co), [1, 1, 1], [each, 0]),
        groups: [workgroups as u32, (e.ci / 4) as u32, e.co.div_ceil(BLOCK) as u32],
    };
    summed(main, 4 * workgroups * lanes, 9 * e.ci * e.co / 4)
}
