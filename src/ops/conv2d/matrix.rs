//! The staging cooperative-matrix: its kernels, and the scale that gradients go into f16 by. Shaders:
//! `shaders/conv2d_matrix.wgsl`, `shaders/scale.wgsl`.

use super::FEW_GROUPS;
use crate::gpu::{Caps, Matrix};
use crate::graph::{Launch, Lowered, Param, Shape, Slot};
use crate::kernel::KernelId;

const FILE: &str = "conv2d_matrix";
/// Rows of a workgroup's tile.
const ROWS: usize = 64;
/// Maxima that a tensor is first reduced to: one workgroup takes them.
const MAXIMA: usize = 256;

/// The kernel `entry` for `rows` x `channels` results in each of `layers`, and its tiles along rows and channels.
pub(super) fn kernel(entry: &'static str, caps: Caps, rows: usize, channels: usize, layers: usize) -> (KernelId, [usize; 2]) {
    let Matrix { side, lanes } = caps.matrix.unwrap_or_default();
    let tiles = |half: usize| [rows.div_ceil(ROWS), channels.div_ceil(2 * half)];
    // Half the channels where there are no more, or where a GPU would idle.
    let few = tiles(32).iter().product::<usize>() * layers < FEW_GROUPS;
    let half = if channels <= 32 || few { 16 } else { 32 };
    let loads = 4 * half as u32 / lanes;
    let consts = [("S", side), ("SG", lanes), ("HALF", half as u32), ("LOADS", loads)];
    (KernelId::new(FILE, entry).with(&consts), tiles(half))
}

/// `lowered`, a gradient, with the power of two that brings `gy`, the upstream gradient in input `slot`, into the range of f16.
pub(super) fn scaled(mut lowered: Lowered, slot: usize, gy: &Shape) -> Lowered {
    let first = lowered.scratch.len();
    let [maxima, scale] = [("maxima", Slot::Scratch(first)), ("scale", Slot::Scratch(first + 1))];
    lowered.scratch.extend([Shape::f32(&[MAXIMA]), Shape::f32(&[2])]);
    for launch in lowered.launches.iter_mut().filter(|launch| launch.kernel.file == FILE) {
        launch.kernel.consts.push(("SCALED", 1));
        launch.bind.push(scale);
    }
    let n4 = gy.len() / 4;
    let count = n4.div_ceil(256).min(MAXIMA);
    let measure = |entry, bind, groups| Launch {
        kernel: KernelId::new("scale", entry),
        bind,
        params: [("n4", n4), ("count", count)].map(|(name, x)| (name, Param::U32(x as u32))).to_vec(),
        groups: [groups as u32, 1, 1],
    };
    let found = [measure("largest", vec![("x", Slot::In(slot)), maxima], count), measure("choose", vec![maxima, scale], 1)];
    lowered.launches.splice(0..0, found);
    lowered
}
