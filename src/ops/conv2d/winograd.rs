//! Launches of a 3x3 convolution and its gradients by Winograd's F(4x4, 3x3) (Lavin and Gray 2016). Shader:
//! `shaders/winograd.wgsl`; its products: the staging's, `shaders/conv2d_shuffle.wgsl` or `shaders/products_tile.wgsl`.

use super::shuffle::{shuffle, shuffle_weights};
use super::tile::Tile;
use super::{Extents, flip, sum_slices};
use crate::gpu::{Caps, Staging};
use crate::graph::{Bind, Launch, Lowered, Param, Shape, Slot, groups};
use crate::kernel::KernelId;

/// Channels from which Winograd's fewer products outweigh its transforms of the images, where loads are gathers and elsewhere, and
/// tiles from which they outweigh that of the weights; and the bytes that a buffer of points may take: a binding has 128 MiB everywhere.
const CHANNELS_BY_GATHERS: usize = 16;
const CHANNELS: usize = 32;
const TILES: usize = 32;
const BYTES: u64 = 128 << 20;
/// Bytes of points of images at a time: they stay in the cache from one launch to the next, and memory hardly grows with the batch.
const STRIP: usize = 8 << 20;
/// The same of a GPU's last cache.
const GPU_STRIP: usize = 16 << 20;
/// Strips, about: each is three launches.
const MOST_STRIPS: usize = 64;
/// Bytes of points of weights at a time, in their gradient.
const BLOCK_BYTES: usize = 5 << 19;
/// Tiles that the product takes in one workgroup.
const BLOCK: usize = 128;
/// Products a tile of 4x4 outputs takes.
const POINTS: usize = 36;
/// On tiles: workgroups that keep a GPU busy in a weight gradient, and tiles below which a slice of it is not worth its sum.
const GROUPS: usize = 1024;
const FEWEST: usize = 64;

/// Whether it is the faster way.
pub(super) fn wins(e: &Extents, caps: Caps) -> bool {
    matches!(caps.staging, Staging::SubgroupShuffle | Staging::WinogradTile)
        && (e.kernel, e.stride, e.pad) == (3, 1, 1)
        && e.ci.min(e.co) >= if caps.gathers { CHANNELS_BY_GATHERS } else { CHANNELS }
        && e.ci.is_multiple_of(8)
        && e.co.is_multiple_of(8)
        && e.tiles() >= TILES
        && [points(e.ci, e.co), points(BLOCK, e.ci.max(e.co))].iter().all(|s| s.bytes() <= BYTES)
}

/// Whether it is the faster way for the weight gradient.
pub(super) fn wins_weights(e: &Extents, caps: Caps) -> bool {
    wins(e, caps) && (caps.staging == Staging::WinogradTile || outer_lanes(e, caps).is_some())
}

/// Lanes of a subgroup along the channels of a weight gradient's products: all, or half where there are few; none where neither is filled.
fn outer_lanes(e: &Extents, caps: Caps) -> Option<u32> {
    let filled = |lanes: &u32| [e.ci, e.co].iter().all(|c| c.is_multiple_of(4 * *lanes as usize));
    let subgroup = caps.subgroup?;
    [subgroup, subgroup / 2].into_iter().find(filled)
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
    fn strips(&self, caps: Caps) -> Vec<Strip> {
        let bytes = if caps.staging == Staging::WinogradTile { GPU_STRIP } else { STRIP };
        let few = (bytes / (4 * POINTS * (self.ci + self.co))).max(self.tiles() / MOST_STRIPS);
        let each = (few / BLOCK).max(1) * BLOCK;
        (0..self.tiles()).step_by(each).map(|first| Strip { first, tiles: each.min(self.tiles() - first) }).collect()
    }

    /// A launch of `winograd.wgsl`'s `entry` for `rows` of points, with channels `ci` and `c`, of which cn from c0 on; the points' in
    /// blocks of `pack`.
    fn transform(
        &self,
        caps: Caps,
        entry: &'static str,
        bind: Vec<Bind>,
        [ci, c, pack]: [usize; 3],
        strip: Strip,
        [rows, c0, cn]: [usize; 3],
    ) -> Launch {
        let ([th, tw], [h, w]) = (self.tile_grid(), self.output);
        // Channels of an invocation: its points fill a GPU's registers as four do.
        let quads = if caps.wide { 2 } else { 1 };
        let each = 4 * quads;
        let extents =
            [("n", self.n), ("h", h), ("w", w), ("cl", c / each), ("th", th), ("tw", tw), ("ci", ci), ("pack", pack / 4)];
        Launch {
            kernel: KernelId::new("winograd", entry).with(&[("QUADS", quads as u32)]),
            bind,
            params: extents
                .into_iter()
                .chain([("first", strip.first), ("tiles", strip.tiles), ("c0", c0 / each), ("cn", cn / each)])
                .map(|(name, value)| (name, Param::U32(value as u32)))
                .collect(),
            groups: groups(rows * cn / each, 64),
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
    let strips = e.strips(caps);
    let largest = strips[0];
    let [u, v, m] = [0, 1, 2].map(Slot::Scratch);
    let mut scratch = vec![points(ci, co), points(largest.tiles, ci), points(largest.tiles, co)];
    let mut launches = Vec::new();
    // The shuffle kernel reads the points of weights turned; tiles want these as they are multiplied.
    let turned = caps.staging == Staging::SubgroupShuffle && back == 1;
    let (g, [rows, c]) = if back == 0 || turned {
        (Slot::In(1), [e.ci, e.co])
    } else {
        let to = Slot::Scratch(scratch.len());
        scratch.push(Shape::f32(&[e.taps(), e.co, e.ci]));
        launches.push(flip(e, to));
        (to, [e.co, e.ci])
    };
    let mut weights = e.transform(caps, "weights", vec![("x", g), ("points", u)], [rows, c, c], largest, [rows, 0, c]);
    weights.kernel = weights.kernel.with(&[("FLIP", u32::from(turned))]);
    launches.push(weights);
    for strip in strips {
        let Strip { tiles, .. } = strip;
        let product = match caps.staging {
            Staging::SubgroupShuffle => {
                let (kernel, [x, y]) = shuffle("product", caps.subgroup.unwrap_or(1), tiles, co);
                Launch {
                    kernel: kernel.with(&[("TURNED", back)]),
                    bind: vec![("x", v), ("w", u), ("turned", u), ("y", m)],
                    params: Extents { n: tiles, ..*e }.params((e.input, ci), (e.output, co), [1, 1, 0], [0, 0]),
                    groups: [x, y, POINTS as u32],
                }
            }
            _ => {
                let tile = caps.own.map_or_else(|| Tile::filling(tiles, co, POINTS), |own| Tile::new(own, co));
                on_tiles("product", tile, [tiles, co], [v, u, m], [tiles, ci, co, 0, 0], 1)
            }
        };
        launches.extend([
            e.transform(caps, "input", vec![("x", Slot::In(0)), ("points", v)], [ci, ci, ci], strip, [tiles, 0, ci]),
            product,
            e.transform(caps, "output", vec![("products", m), ("y", Slot::Out(0))], [ci, co, co], strip, [tiles, 0, co]),
        ]);
    }
    Lowered { scratch, launches }
}

/// `products_tile.wgsl`'s `entry` for an output of [rows, channels] at each point, in `slices`; `params` are [rows, k, n, a_slice, add].
fn on_tiles(
    entry: &'static str,
    tile: Tile,
    [rows, channels]: [usize; 2],
    [x, w, y]: [Slot; 3],
    [of, k, n, a_slice, add]: [usize; 5],
    slices: usize,
) -> Launch {
    let [gx, gy] = tile.grid(rows, channels);
    let params = [("rows", of), ("k4", k / 4), ("n4", n / 4), ("a_slice", a_slice), ("add", add)];
    Launch {
        kernel: tile.kernel("products_tile", entry),
        bind: vec![("x", x), ("w", w), ("y", y)],
        params: params.map(|(name, value)| (name, Param::U32(value as u32))).to_vec(),
        groups: [gx as u32, gy as u32, (POINTS * slices) as u32],
    }
}

/// gw, from x and gy, whose channels fill subgroups; as many co at a time as keep the points of their weights in the cache.
pub(super) fn weight_gradient(e: &Extents, caps: Caps) -> Lowered {
    if caps.staging == Staging::WinogradTile {
        return weight_gradient_on_tiles(e, caps);
    }
    let (subgroup, lanes) = (caps.subgroup.unwrap_or(1), outer_lanes(e, caps).unwrap_or(1));
    let (outer, own) = shuffle_weights("outer", subgroup, lanes, e.ci, e.co);
    // Channels of a subgroup.
    let [x_pack, pack] = own.map(|c| c * lanes as usize);
    let strips = e.strips(caps);
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
                launches.push(e.transform(caps, "input", bind, [e.ci, e.ci, x_pack], strip, [tiles, 0, e.ci]));
            }
            let bind = vec![("x", Slot::In(1)), ("points", n)];
            launches.push(e.transform(caps, "upstream", bind, [e.ci, e.co, pack], strip, [tiles, c0, cn]));
            launches.push(Launch {
                kernel: outer.clone(),
                bind: vec![("x", v), ("gy", n), ("slices", products)],
                params: Extents { n: tiles, ..*e }.params((e.input, e.ci), (e.output, cn), [1, 1, 0], [0, add]),
                groups: [e.ci.div_ceil(4 * x_pack) as u32, (cn / pack) as u32, POINTS as u32],
            });
        }
        let bind = vec![("products", products), ("y", Slot::Out(0))];
        launches.push(e.transform(caps, "weight_gradient", bind, [e.ci, e.co, pack], strips[0], [e.ci, c0, cn]));
    }
    let tiles = strips[0].tiles;
    Lowered { scratch: vec![points(e.ci, block), points(tiles, e.ci), points(tiles, block)], launches }
}

/// The same with the products on tiles, in slices that keep a GPU busy and are summed at the end.
fn weight_gradient_on_tiles(e: &Extents, caps: Caps) -> Lowered {
    let (ci, co, strips) = (e.ci, e.co, e.strips(caps));
    let tile = caps.own.map_or_else(|| Tile::fitting(ci, co), |own| Tile::new(own, co));
    let sums = points(ci, co);
    let most = strips[0].tiles.div_ceil(FEWEST).min((BYTES / sums.bytes()) as usize);
    let slices = GROUPS.div_ceil(tile.grid(ci, co).iter().product::<usize>() * POINTS).min(most).max(1);
    let [parts, v, n, products] = [0, 1, 2, 3].map(Slot::Scratch);
    let mut scratch = vec![Shape::f32(&[slices, sums.len()]), points(strips[0].tiles, ci), points(strips[0].tiles, co)];
    let mut launches = Vec::new();
    for &strip in &strips {
        let Strip { first, tiles } = strip;
        let params = [tiles, ci, co, tiles.div_ceil(slices), usize::from(first > 0)];
        launches.extend([
            e.transform(caps, "input", vec![("x", Slot::In(0)), ("points", v)], [ci, ci, ci], strip, [tiles, 0, ci]),
            e.transform(caps, "upstream", vec![("x", Slot::In(1)), ("points", n)], [ci, co, co], strip, [tiles, 0, co]),
            on_tiles("outer", tile, [ci, co], [v, n, parts], params, slices),
        ]);
    }
    let mut from = parts;
    if slices > 1 {
        from = products;
        launches.push(sum_slices(parts, products, slices, sums.len() / 4));
        scratch.push(sums);
    }
    launches.push(e.transform(
        caps,
        "weight_gradient",
        vec![("products", from), ("y", Slot::Out(0))],
        [ci, co, co],
        strips[0],
        [ci, 0, co],
    ));
    Lowered { scratch, launches }
}
