//! Launches of a 3x3 convolution and its gradients by Winograd's F(4x4, 3x3) (Lavin and Gray 2016). Shader:
//! `shaders/winograd.wgsl`; its products: the staging's.

use super::{Extents, shuffle, shuffle_weights};
use crate::gpu::{Caps, Staging};
use crate::graph::{Bind, Launch, Lowered, Param, Shape, Slot, groups};
use crate::kernel::KernelId;

/// Channels from which Winograd's fewer products outweigh its transforms of the images, and tiles from which they outweigh that of
/// the weights; and the bytes that a buffer of points may take: a binding has 128 MiB everywhere.
const CHANNELS: usize = 32;
const TILES: usize = 32;
const BYTES: u64 = 128 << 20;
/// Bytes of points of images at a time: they stay in the cache from one launch to the next, and memory hardly grows with the batch.
const STRIP: usize = 8 << 20;
/// Strips, about: each is three launches.
const MOST_STRIPS: usize = 64;
/// Bytes of points of weights at a time, in their gradient.
const BLOCK_BYTES: usize = 5 << 19;
/// Tiles that the product takes in one workgroup.
const BLOCK: usize = 128;
/// Products a tile of 4x4 outputs takes.
const POINTS: usize = 36;

/// Whether it is the faster way.
pub(super) fn wins(e: &Extents, caps: Caps) -> bool {
    caps.staging == Staging::SubgroupShuffle
        && (e.kernel, e.stride, e.pad) == (3, 1, 1)
        && e.ci.min(e.co) >= CHANNELS
        && e.ci.is_multiple_of(8)
        && e.co.is_multiple_of(8)
        && e.tiles() >= TILES
        && [points(e.ci, e.co), points(BLOCK, e.ci.max(e.co))].iter().all(|s| s.bytes() <= BYTES)
}

/// Whether it is the faster way for the weight gradient.
pub(super) fn wins_weights(e: &Extents, caps: Caps) -> bool {
    let lanes = |c: usize| c.is_multiple_of(4 * caps.subgroup.unwrap_or(1) as usize);
    wins(e, caps) && lanes(e.ci) && lanes(e.co)
}

/// Room for the points of a matrix: `common/points.wgsl` says why 32 more than they hold.
fn points(rows: usize, c: usize) -> Shape {
    Shape::f32(&[POINTS, rows * c + 32])
}

/// Tiles from `first` on.
#[derive(Clone, Copy)]
struct Strip {
    first: usize,
    tiles: usize,
}

impl Extents {
    fn tile_grid(&self) -> [usize; 2] {
        self.output.map(|x| x.div_ceil(4))
    }

    fn tiles(&self) -> usize {
        self.n * self.tile_grid().iter().product::<usize>()
    }

    /// All tiles, the largest strip first.
    fn strips(&self) -> Vec<Strip> {
        let few = (STRIP / (4 * POINTS * (self.ci + self.co))).max(self.tiles() / MOST_STRIPS);
        let each = (few / BLOCK).max(1) * BLOCK;
        (0..self.tiles()).step_by(each).map(|first| Strip { first, tiles: each.min(self.tiles() - first) }).collect()
    }

    /// A launch of `winograd.wgsl`'s `entry` in `invocations`, with channels `ci` and `c`, of which `[c0, cn]`: cn from c0 on; the points'
    /// in blocks of `pack`.
    fn transform(
        &self,
        entry: &'static str,
        bind: Vec<Bind>,
        [ci, c, pack]: [usize; 3],
        strip: Strip,
        [c0, cn]: [usize; 2],
        invocations: usize,
    ) -> Launch {
        let ([th, tw], [h, w]) = (self.tile_grid(), self.output);
        let extents = [("n", self.n), ("h", h), ("w", w), ("c8", c / 8), ("th", th), ("tw", tw), ("ci", ci), ("pack", pack / 4)];
        Launch {
            kernel: KernelId::new("winograd", entry),
            bind,
            params: extents
                .into_iter()
                .chain([("first", strip.first), ("tiles", strip.tiles), ("c0", c0 / 8), ("cn", cn / 8)])
                .map(|(name, value)| (name, Param::U32(value as u32)))
                .collect(),
            groups: groups(invocations, 64),
        }
    }
}

/// Which of the two forward forms, and so which way the weights lie.
pub(super) enum Form {
    /// y from x and w.
    Forward,
    /// gx from gy and w.
    InputGradient,
}

/// y or gx, from input 0 and the weights, input 1.
pub(super) fn launches(e: &Extents, form: Form, caps: Caps) -> Lowered {
    // Channels as the products see them.
    let (ci, co, back) = match form {
        Form::Forward => (e.ci, e.co, 0),
        Form::InputGradient => (e.co, e.ci, 1),
    };
    let strips = e.strips();
    let largest = strips[0];
    let [u, v, m] = [0, 1, 2].map(Slot::Scratch);
    let mut weights =
        e.transform("weights", vec![("x", Slot::In(1)), ("points", u)], [e.ci, e.co, e.co], largest, [0, e.co], e.ci * e.co / 8);
    weights.kernel = weights.kernel.with(&[("FLIP", back)]);
    let mut launches = vec![weights];
    for strip in strips {
        let Strip { tiles, .. } = strip;
        let (kernel, [x, y]) = shuffle("product", caps.subgroup.unwrap_or(1), tiles, co);
        launches.extend([
            e.transform("input", vec![("x", Slot::In(0)), ("points", v)], [ci, ci, ci], strip, [0, ci], tiles * ci / 8),
            Launch {
                kernel: kernel.with(&[("TURNED", back)]),
                bind: vec![("x", v), ("w", u), ("turned", u), ("y", m)],
                params: Extents { n: tiles, ..*e }.params((e.input, ci), (e.output, co), [1, 1, 0], [0, 0]),
                groups: [x, y, POINTS as u32],
            },
            e.transform("output", vec![("products", m), ("y", Slot::Out(0))], [ci, co, co], strip, [0, co], tiles * co / 8),
        ]);
    }
    Lowered { scratch: vec![points(ci, co), points(largest.tiles, ci), points(largest.tiles, co)], launches }
}

/// gw, from x and gy, whose channels fill subgroups; as many co at a time as keep the points of their weights in the cache.
pub(super) fn weight_gradient(e: &Extents, caps: Caps) -> Lowered {
    let subgroup = caps.subgroup.unwrap_or(1);
    let (outer, own) = shuffle_weights("outer", subgroup, subgroup, e.ci, e.co);
    // Channels of a subgroup.
    let [x_pack, pack] = own.map(|c| c * subgroup as usize);
    let strips = e.strips();
    // Several strips would have to be gone through again for each block.
    let block = match strips.len() {
        1 => e.co.min((BLOCK_BYTES / (4 * POINTS * e.ci) / pack).max(1) * pack),
        _ => e.co,
    };
    let [products, v, n] = [0, 1, 2].map(Slot::Scratch);
    let mut launches = Vec::new();
    for c0 in (0..e.co).step_by(block) {
        let cn = block.min(e.co - c0);
        for &strip in &strips {
            let Strip { first, tiles } = strip;
            let add = usize::from(first > 0);
            // It is the same for all blocks.
            if c0 == 0 {
                let bind = vec![("x", Slot::In(0)), ("points", v)];
                launches.push(e.transform("input", bind, [e.ci, e.ci, x_pack], strip, [0, e.ci], tiles * e.ci / 8));
            }
            let bind = vec![("x", Slot::In(1)), ("points", n)];
            launches.push(e.transform("upstream", bind, [e.ci, e.co, pack], strip, [c0, cn], tiles * cn / 8));
            launches.push(Launch {
                kernel: outer.clone(),
                bind: vec![("x", v), ("gy", n), ("slices", products)],
                params: Extents { n: tiles, ..*e }.params((e.input, e.ci), (e.output, cn), [1, 1, 0], [0, add]),
                groups: [e.ci.div_ceil(4 * x_pack) as u32, (cn / pack) as u32, POINTS as u32],
            });
        }
        let bind = vec![("products", products), ("y", Slot::Out(0))];
        launches.push(e.transform("weight_gradient", bind, [e.ci, e.co, pack], strips[0], [c0, cn], e.ci * cn / 8));
    }
    let tiles = strips[0].tiles;
    Lowered { scratch: vec![points(e.ci, block), points(tiles, e.ci), points(tiles, block)], launches }
}
