//! Tiles of the stagings workgroup-tile and winograd-tile. Shaders: `shaders/conv2d_tile.wgsl`, `shaders/products_tile.wgsl`.

use crate::kernel::KernelId;

/// What a workgroup of workgroup-tile computes: 16 `each` rows by `channels`. An invocation owns `each` rows, 4 or 8, by
/// 4 channels.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub each: usize,
    channels: usize,
}

impl Tile {
    /// As wide as there are channels to fill it.
    pub fn new(each: usize, channels: usize) -> Tile {
        Tile { each, channels: channels.next_power_of_two().clamp(16, 64) }
    }

    /// The large one, unless more than a fifth of its work is for rows past the last.
    pub fn fitting(rows: usize, channels: usize) -> Tile {
        let (small, large) = (Tile::new(4, channels), Tile::new(8, channels));
        let work = |tile: &Tile| tile.grid(rows, channels)[0] * tile.each;
        if 5 * work(&small) < 4 * work(&large) { small } else { large }
    }

    /// Tiles along rows and channels.
    pub fn grid(&self, rows: usize, channels: usize) -> [usize; 2] {
        [rows.div_ceil(16 * self.each), channels.div_ceil(self.channels)]
    }

    pub fn kernel(&self, entry: &'static str) -> KernelId {
        self.kernel_of("conv2d_tile", entry)
    }

    /// The same of another file.
    pub fn kernel_of(&self, file: &'static str, entry: &'static str) -> KernelId {
        let loads = (8 * self.each / self.channels).max(1);
        let consts = [("BN", self.channels), ("TM", self.each), ("LOADS", loads)];
        KernelId::new(file, entry).with(&consts.map(|(name, x)| (name, x as u32)))
    }
}
