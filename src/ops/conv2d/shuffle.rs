//! The staging subgroup-shuffle. Shader: `shaders/conv2d_shuffle.wgsl`.

use crate::kernel::KernelId;

/// Pixels a group of lanes accumulates.
const PIXELS: usize = 32;

/// Lanes along channels: the whole subgroup, or fewer where there are fewer loads of them.
pub(super) fn lanes(subgroup: u32, loads: usize) -> u32 {
    (loads.next_power_of_two() as u32).min(subgroup)
}

/// Channels that a lane of the subgroup-shuffle kernels owns: 8 where that leaves no lane without.
pub(super) fn owned(subgroup: u32, channels: usize) -> u32 {
    if channels.is_multiple_of(8 * subgroup as usize) { 8 } else { 4 }
}

/// The subgroup-shuffle kernel `entry` for `pixels` x `channels` outputs, and its grid.
pub(super) fn shuffle(entry: &'static str, subgroup: u32, pixels: usize, channels: usize) -> (KernelId, [u32; 2]) {
    let own = owned(subgroup, channels);
    let cl = lanes(subgroup, channels / own as usize);
    let consts = [("SG", subgroup), ("CL", cl), ("MT", PIXELS as u32), ("YW", own)];
    let block = 4 * PIXELS * (subgroup / cl) as usize;
    let grid = [pixels.div_ceil(block) as u32, channels.div_ceil((own * cl) as usize) as u32];
    (KernelId::new("conv2d_shuffle", entry).with(&consts), grid)
}

/// The subgroup-shuffle kernel `entry` of a weight gradient, and the channels of x and gy that its lanes own. Those with much to do a pixel
/// take fewer at a time: a loop that outgrows the instruction cache is slower, and that of `outer` has no edges to look after.
pub(super) fn shuffle_weights(entry: &'static str, subgroup: u32, lanes: u32, ci: usize, co: usize) -> (KernelId, [usize; 2]) {
    let own = [ci, co].map(|c| owned(subgroup, c));
    let step = match (entry, own) {
        ("outer", [4, 4]) => 4,
        ("weight_gradient", [8, 8]) => 1,
        _ => 2,
    };
    let consts = [("SG", subgroup), ("CL", lanes), ("XW", own[0]), ("YW", own[1]), ("STEP", step)];
    (KernelId::new("conv2d_shuffle", entry).with(&consts), own.map(|c| c as usize))
}
