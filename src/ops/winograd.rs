//! Launches of a 3x3 convolution, forward or input gradient, by Winograd's F(4x4, 3x3) (Lavin and Gray 2016). Shader:
//! `shaders/winograd.wgsl`; its products: the staging's.

use super::conv2d::{Extents, shuffle};
use crate::gpu::{Caps, Staging};
use crate::graph::{Launch, Lowered, Param, Shape, Slot, groups};
use crate::kernel::KernelId;

/// Channels from which Winograd's fewer products outweigh its transforms of the images, and tiles from which they outweigh that of
/// the weights; and the bytes that its products may take: a binding has 128 MiB everywhere.
const CHANNELS: usize = 128;
const TILES: usize = 32;
const BYTES: usize = 128 << 20;
/// Products a tile of 4x4 outputs takes.
const POINTS: usize = 36;

fn tile_grid(e: &Extents) -> [usize; 2] {
    e.output.map(|x| x.div_ceil(4))
}

/// Whether it is the faster way.
pub(super) fn wins(e: &Extents, caps: Caps) -> bool {
    let [th, tw] = tile_grid(e);
    let bytes = 4 * POINTS * (e.n * th * tw).max(e.ci.min(e.co)) * e.ci.max(e.co);
    caps.staging == Staging::SubgroupShuffle
        && (e.kernel, e.stride, e.pad) == (3, 1, 1)
        && e.ci.min(e.co) >= CHANNELS
        && e.n * th * tw >= TILES
        && bytes <= BYTES
}

/// The launches of a 3x3 convolution by Winograd's F(4x4, 3x3), after those in `lowered`: y from x and w, which is bound as given,
/// with `ci` channels to `co`.
pub(super) fn launches(e: &Extents, (ci, co): (usize, usize), caps: Caps, w: Slot, mut lowered: Lowered) -> Lowered {
    let [th, tw] = tile_grid(e);
    let tiles = e.n * th * tw;
    let first = lowered.scratch.len();
    let [v, u, m] = [0, 1, 2].map(|i| Slot::Scratch(first + i));
    lowered.scratch.extend([[tiles, ci], [ci, co], [tiles, co]].map(|[rows, c]| Shape::f32(&[POINTS, rows, c])));
    let transform = |entry, bind, rows: usize, c4: usize| Launch {
        kernel: KernelId::new("winograd", entry),
        bind,
        params: [("n", e.n), ("h", e.output[0]), ("w", e.output[1]), ("c4", c4), ("th", th), ("tw", tw), ("ci", ci)]
            .map(|(name, value)| (name, Param::U32(value as u32)))
            .to_vec(),
        groups: groups(rows * c4, 64),
    };
    let (kernel, [x, y]) = shuffle("product", caps.subgroup.unwrap_or(1), tiles, co / 4);
    let rows = Extents { n: tiles, ..*e };
    lowered.launches.extend([
        transform("input", vec![("x", Slot::In(0)), ("points", v)], tiles, ci / 4),
        transform("weights", vec![("x", w), ("points", u)], ci, co / 4),
        Launch {
            kernel,
            bind: vec![("x", v), ("w", u), ("y", m)],
            params: rows.params((e.input, ci), (e.output, co), [1, 1, 0], 0),
            groups: [x, y, POINTS as u32],
        },
        transform("output", vec![("products", m), ("y", Slot::Out(0))], tiles, co / 4),
    ]);
    lowered
}
