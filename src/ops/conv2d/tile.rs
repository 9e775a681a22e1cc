//! Tiles of the stagings workgroup-tile and winograd-tile. Shaders: `shaders/conv2d_tile.wgsl`, `shaders/products_tile.wgsl`.

use super::FEW_GROUPS;
use crate::kernel::KernelId;

/// What a workgroup computes: 16 `rows` rows by `channels`. An invocation owns `rows` rows, 4 or 8, by `quads` times 4 channels.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    rows: usize,
    quads: usize,
    channels: usize,
}

impl Tile {
    /// As wide as there are `channels` to fill it; an invocation owns [rows, channels].
    pub fn new([rows, each]: [u32; 2], channels: usize) -> Tile {
        Tile { rows: rows as usize, quads: each as usize / 4, channels: channels.next_power_of_two().clamp(16, 64) }
    }

    /// The small one where the large one leaves a GPU idle in one of `layers`.
    pub fn filling(rows: usize, channels: usize, layers: usize) -> Tile {
        let [large, small] = [[8, 4], [4, 4]].map(|own| Tile::new(own, channels));
        if large.grid(rows, channels).iter().product::<usize>() * layers < FEW_GROUPS { small } else { large }
    }

    /// The large one, unless more than a fifth of its work is for rows past the last.
    pub fn fitting(rows: usize, channels: usize) -> Tile {
        let [large, small] = [[8, 4], [4, 4]].map(|own| Tile::new(own, channels));
        let work = |tile: Tile| tile.grid(rows, channels)[0] * tile.rows;
        if 5 * work(small) < 4 * work(large) { small } else { large }
    }

    /// Tiles along rows and channels.
    pub fn grid(&self, rows: usize, channels: usize) -> [usize; 2] {
        [rows.div_ceil(16 * self.rows), channels.div_ceil(self.channels)]
    }

    /// `entry` of a `file` whose workgroups have such tiles.
    pub fn kernel(&self, file: &'static str, entry: &'static str) -> KernelId {
        let Tile { rows, quads, channels } = *self;
        let loads = (8 * rows * quads / channels).max(1);
        let consts = [("BN", channels), ("TM", rows), ("TN", quads), ("LOADS", loads)];
        KernelId::new(file, entry).with(&consts.map(|(name, x)| (name, x as u32)))
    }
}
