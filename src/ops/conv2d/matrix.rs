//! The staging cooperative-matrix. Shader: `shaders/conv2d_matrix.wgsl`.

use super::FEW_GROUPS;
use crate::gpu::{Caps, MATRIX_TILES, Matrix};
use crate::graph::{Launch, Slot};
use crate::kernel::KernelId;

const FILE: &str = "conv2d_matrix";
/// Workgroups that share a weight gradient on a GPU, and the fewest pixels of a slice: its tiles are large, and each slice is written and read again.
pub(super) const WANTED: usize = 256;
pub(super) const PIXELS: usize = 1024;

/// What a workgroup computes, and how many pairs of tiles of operands it has.
#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    channels: usize,
    buffers: u32,
}

impl Tile {
    fn fitting(own: [u32; 2], matrix: Matrix) -> Option<Tile> {
        let [rows, channels] = own.map(|n| n as usize);
        matrix.buffers(own).map(|buffers| Tile { rows, channels, buffers })
    }

    fn grid(&self, rows: usize, channels: usize) -> [usize; 2] {
        [rows.div_ceil(self.rows), channels.div_ceil(self.channels)]
    }
}

/// The kernel `entry` for `rows` x `channels` results in each of `layers`, and its tiles along rows and channels.
pub(super) fn kernel(entry: &'static str, caps: Caps, rows: usize, channels: usize, layers: usize) -> (KernelId, [usize; 2]) {
    let matrix = caps.matrix.unwrap_or_default();
    // The smallest, and of the larger ones what fits; a CPU driver compiles these for long, and has nothing of them.
    let offered = |own: &[u32; 2]| *own == MATRIX_TILES[0] || !caps.cpu && matrix.fits_registers(*own);
    let sizes: Vec<Tile> = MATRIX_TILES.into_iter().filter(offered).filter_map(|own| Tile::fitting(own, matrix)).collect();
    // The largest that leaves no GPU idle and is not half empty; the smallest where all do.
    let count = |tile: &Tile| tile.grid(rows, channels).iter().product::<usize>() * layers;
    let good = |tile: &&Tile| count(tile) >= FEW_GROUPS && 2 * channels > tile.channels && 2 * rows > tile.rows;
    let by_rule = sizes.iter().rev().find(good).or(sizes.first()).copied();
    let asked = caps.own.and_then(|own| Tile::fitting(own, matrix));
    let tile = asked.or(by_rule).unwrap_or(Tile { rows: 64, channels: 32, buffers: 1 });
    let Matrix { side, lanes, vectors, planes, .. } = matrix;
    let loads = |n: usize| 2 * n as u32 / lanes;
    let consts = [
        ("S", side),
        ("SG", lanes),
        ("WM", tile.rows as u32 / 2),
        ("WN", tile.channels as u32 / 2),
        ("XLOADS", loads(tile.rows)),
        ("WLOADS", loads(tile.channels)),
        ("BUFFERS", tile.buffers),
        ("VEC", if vectors { 4 } else { 1 }),
        ("STRAIGHT", u32::from(vectors)),
        ("PLANES", planes),
    ];
    (KernelId::new(FILE, entry).with(&consts), tile.grid(rows, channels))
}

/// Has `launch` do something to the sums on their way out.
pub(super) fn changes(launch: &mut Launch) {
    launch.kernel.consts.iter_mut().filter(|(name, _)| *name == "STRAIGHT").for_each(|(_, straight)| *straight = 0);
}

/// `launch`, of a gradient, knows by what its upstream gradient was multiplied, which is input `slot`.
pub(super) fn scaled(launch: &mut Launch, slot: usize) {
    launch.kernel.consts.push(("SCALED", 1));
    launch.bind.push(("scale", Slot::Scale(slot)));
}
