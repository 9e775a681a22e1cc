//! Tiles of the staging workgroup-tile. Shader: `shaders/conv2d_tile.wgsl`.

use crate::kernel::KernelId;

/// What a workgroup of workgroup-tile computes: 16 `each` rows by `channels`. An invocation owns `each` rows, 4 or 8, by
/// 4 channels.
pub(super) struct Tile {
    pub each: usize,
    channels: usize,
}

impl Tile {
    /// As wide as there are channels to fill it.
    pub fn new(each: usize, channels: usize) -> Tile {
        Tile { each, channels: channels.next_power_of_two().clamp(16, 64) }
    }

    /// Tiles along rows and channels.
    pub fn grid(&self, rows: usize, channels: usize) -> [usize; 2] {
        [rows.div_ceil(16 * self.each), channels.div_ceil(self.channels)]
    }

    pub fn kernel(&self, entry: &'static str) -> KernelId {
        let loads = (8 * self.each / self.channels).max(1);
        let consts = [("BN", self.channels), ("TM", self.each), ("LOADS", loads)];
        KernelId::new("conv2d_tile", entry).with(&consts.map(|(name, x)| (name, x as u32)))
    }
}
