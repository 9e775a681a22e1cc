// 3x3 convolution, stride 1, padding 1, by Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray 2016) with the points 0, +-1,
// +-2 and infinity: a tile of 4x4 outputs takes 36 products where the direct sum takes 144. Per tile and channel
//   V = B' d B (d: the 6x6 inputs around the tile), U = G g G' (g: the 3x3 weights), M = sum over ci of V U, Y = A' M A.
// Input gradient: the same with the upstream gradient as x, g flipped (FLIP = 1) and U transposed (by the products). Weight gradient, the
// transpose of it all: N = A y A' (y: the upstream gradient's 4x4), P = sum over tiles of V N, gradient of g = G' P G.
// The 36 products are matrix products over (tile, ci, co): `product` and `outer` of the convolution's staging.
//
// x, y [n, h, w, 4 c4]; weights g [3, 3, ci, 4 c4]; points, products [36, rows, 4 cn], `pitch` apart: rows are tiles (V of x, M and N of
// y) or ci (U and P of g), channels the 4 cn from 4 c0 on, in blocks of 4 pack: cn / pack times [rows, 4 pack], so that a product of pack
// lanes reads on and on. All f32, bound as vec4 along channels. Tiles: (image, th, tw), row by row; th = ceil(h / 4), tw = ceil(w / 4);
// rows are the `tiles` tiles from `first` on.
// An invocation owns one tile (input, upstream, output) or ci (weights, weight_gradient) of 4 channels.
const FLIP = 0u;
//: include index
//: include points
struct Params { n: u32, h: u32, w: u32, c4: u32, th: u32, tw: u32, ci: u32, pack: u32, first: u32, tiles: u32, c0: u32, cn: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> points: array<vec4f>;
@group(0) @binding(3) var<storage, read> products: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;

struct Six { a: vec4f, b: vec4f, c: vec4f, d: vec4f, e: vec4f, f: vec4f }
struct Three { a: vec4f, b: vec4f, c: vec4f }
struct Four { a: vec4f, b: vec4f, c: vec4f, d: vec4f }

// B' s
fn of_inputs(s: Six) -> Six {
    return Six(
        4.0 * s.a - 5.0 * s.c + s.e,
        s.d + s.e - 4.0 * (s.b + s.c),
        s.e - s.d + 4.0 * (s.b - s.c),
        s.e - s.c + 2.0 * (s.d - s.b),
        s.e - s.c - 2.0 * (s.d - s.b),
        4.0 * s.b - 5.0 * s.d + s.f);
}

// G s
fn of_weights(a: vec4f, b: vec4f, c: vec4f) -> Six {
    return Six(
        a / 4.0,
        -(a + b + c) / 6.0,
        (b - a - c) / 6.0,
        a / 24.0 + b / 12.0 + c / 6.0,
        a / 24.0 - b / 12.0 + c / 6.0,
        c);
}

// A' s
fn of_products(s: Six) -> Four {
    return Four(
        s.a + s.b + s.c + s.d + s.e,
        s.b - s.c + 2.0 * (s.d - s.e),
        s.b + s.c + 4.0 * (s.d + s.e),
        s.b - s.c + 8.0 * (s.d - s.e) + s.f);
}

// A s
fn of_upstream(a: vec4f, b: vec4f, c: vec4f, d: vec4f) -> Six {
    return Six(
        a,
        a + b + c + d,
        a - b + c - d,
        a + 2.0 * b + 4.0 * c + 8.0 * d,
        a - 2.0 * b + 4.0 * c - 8.0 * d,
        d);
}

// G' s
fn of_gradients(s: Six) -> Three {
    return Three(
        s.a / 4.0 - (s.b + s.c) / 6.0 + (s.d + s.e) / 24.0,
        (s.c - s.b) / 6.0 + (s.d - s.e) / 12.0,
        (s.d + s.e - s.b - s.c) / 6.0 + s.f);
}

// Where channels c of a row of points begin.
fn packed(row: u32, rows: u32, c: u32) -> u32 {
    let block = c / p.pack;
    return (block * rows + row) * p.pack + c - block * p.pack;
}

// Row i of the 6x6 points at `at`, `step` apart.
fn put(i: u32, at: u32, step: u32, s: Six) {
    points[at + (6u * i) * step] = s.a;
    points[at + (6u * i + 1u) * step] = s.b;
    points[at + (6u * i + 2u) * step] = s.c;
    points[at + (6u * i + 3u) * step] = s.d;
    points[at + (6u * i + 4u) * step] = s.e;
    points[at + (6u * i + 5u) * step] = s.f;
}

// Where the tile of invocation i lies: its place among the points, its channels, the first pixel of its image, the row and column
// of its first output.
struct Tile { inside: bool, at: u32, c: u32, base: u32, y: u32, x: u32 }

fn tile(i: u32) -> Tile {
    let t = i / p.cn;
    let image = (p.first + t) / (p.th * p.tw);
    let r = p.first + t - image * p.th * p.tw;
    let c = i - t * p.cn;
    let row = r / p.tw;
    return Tile(t < p.tiles, packed(t, p.tiles, c), p.c0 + c, image * p.h * p.w * p.c4, row * 4u, (r - row * p.tw) * 4u);
}

// A row or column of x: where it begins, and whether it is there.
struct Line { at: u32, inside: bool }

fn line(i: i32, extent: u32, step: u32) -> Line {
    return Line(u32(i) * step, i >= 0 && i < i32(extent));
}

// The vec4 of x where a row and a column cross; zero outside.
fn pixel(base: u32, row: Line, column: Line) -> vec4f {
    let inside = row.inside && column.inside;
    return select(vec4f(), x[select(0u, base + row.at + column.at, inside)], inside);
}

@compute @workgroup_size(64)
fn input(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    let t = tile(i);
    if (!t.inside) {
        return;
    }
    let base = t.base + t.c;
//: for j in 0..6
    let r{j} = line(i32(t.y) - 1 + {j}, p.h, p.w * p.c4);
//: end
//: for j in 0..6
    let c{j} = line(i32(t.x) - 1 + {j}, p.w, p.c4);
    let s{j} = of_inputs(Six(
        pixel(base, r0, c{j}), pixel(base, r1, c{j}), pixel(base, r2, c{j}),
        pixel(base, r3, c{j}), pixel(base, r4, c{j}), pixel(base, r5, c{j})));
//: end
    let step = pitch(p.tiles, p.cn);
    put(0u, t.at, step, of_inputs(Six(s0.a, s1.a, s2.a, s3.a, s4.a, s5.a)));
    put(1u, t.at, step, of_inputs(Six(s0.b, s1.b, s2.b, s3.b, s4.b, s5.b)));
    put(2u, t.at, step, of_inputs(Six(s0.c, s1.c, s2.c, s3.c, s4.c, s5.c)));
    put(3u, t.at, step, of_inputs(Six(s0.d, s1.d, s2.d, s3.d, s4.d, s5.d)));
    put(4u, t.at, step, of_inputs(Six(s0.e, s1.e, s2.e, s3.e, s4.e, s5.e)));
    put(5u, t.at, step, of_inputs(Six(s0.f, s1.f, s2.f, s3.f, s4.f, s5.f)));
}

// The weights' tap t.
fn tap(t: u32, i: u32) -> vec4f {
    return x[i + select(t, 8u - t, FLIP == 1u) * p.ci * p.c4];
}

@compute @workgroup_size(64)
fn weights(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if (i >= p.ci * p.c4) {
        return;
    }
    let step = pitch(p.ci, p.c4);
//: for j in 0..3
    let s{j} = of_weights(tap({j}u, i), tap({j + 3}u, i), tap({j + 6}u, i));
//: end
    put(0u, i, step, of_weights(s0.a, s1.a, s2.a));
    put(1u, i, step, of_weights(s0.b, s1.b, s2.b));
    put(2u, i, step, of_weights(s0.c, s1.c, s2.c));
    put(3u, i, step, of_weights(s0.d, s1.d, s2.d));
    put(4u, i, step, of_weights(s0.e, s1.e, s2.e));
    put(5u, i, step, of_weights(s0.f, s1.f, s2.f));
}

@compute @workgroup_size(64)
fn upstream(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    let t = tile(i);
    if (!t.inside) {
        return;
    }
    let base = t.base + t.c;
//: for j in 0..4
    let r{j} = line(i32(t.y) + {j}, p.h, p.w * p.c4);
//: end
//: for j in 0..4
    let c{j} = line(i32(t.x) + {j}, p.w, p.c4);
    let s{j} = of_upstream(pixel(base, r0, c{j}), pixel(base, r1, c{j}), pixel(base, r2, c{j}), pixel(base, r3, c{j}));
//: end
    let step = pitch(p.tiles, p.cn);
    put(0u, t.at, step, of_upstream(s0.a, s1.a, s2.a, s3.a));
    put(1u, t.at, step, of_upstream(s0.b, s1.b, s2.b, s3.b));
    put(2u, t.at, step, of_upstream(s0.c, s1.c, s2.c, s3.c));
    put(3u, t.at, step, of_upstream(s0.d, s1.d, s2.d, s3.d));
    put(4u, t.at, step, of_upstream(s0.e, s1.e, s2.e, s3.e));
    put(5u, t.at, step, of_upstream(s0.f, s1.f, s2.f, s3.f));
}

@compute @workgroup_size(64)
fn output(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    let t = tile(i);
    if (!t.inside) {
        return;
    }
    let step = pitch(p.tiles, p.cn);
//: for j in 0..6
    let s{j} = of_products(Six(
        products[t.at + {j}u * step], products[t.at + ({j}u + 6u) * step], products[t.at + ({j}u + 12u) * step],
        products[t.at + ({j}u + 18u) * step], products[t.at + ({j}u + 24u) * step], products[t.at + ({j}u + 30u) * step]));
//: end
    row(t, 0u, of_products(Six(s0.a, s1.a, s2.a, s3.a, s4.a, s5.a)));
    row(t, 1u, of_products(Six(s0.b, s1.b, s2.b, s3.b, s4.b, s5.b)));
    row(t, 2u, of_products(Six(s0.c, s1.c, s2.c, s3.c, s4.c, s5.c)));
    row(t, 3u, of_products(Six(s0.d, s1.d, s2.d, s3.d, s4.d, s5.d)));
}

// Row i of a tile's outputs, as far as they are inside.
fn row(t: Tile, i: u32, s: Four) {
    if (t.y + i >= p.h) {
        return;
    }
    let at = t.base + ((t.y + i) * p.w + t.x) * p.c4 + t.c;
    y[at] = s.a;
    if (t.x + 1u < p.w) { y[at + p.c4] = s.b; }
    if (t.x + 2u < p.w) { y[at + 2u * p.c4] = s.c; }
    if (t.x + 3u < p.w) { y[at + 3u * p.c4] = s.d; }
}

@compute @workgroup_size(64)
fn weight_gradient(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    let row = i / p.cn;
    let c = i - row * p.cn;
    if (row >= p.ci) {
        return;
    }
    let step = pitch(p.ci, p.cn);
    let at = packed(row, p.ci, c);
//: for j in 0..6
    let s{j} = of_gradients(Six(
        products[at + {j}u * step], products[at + ({j}u + 6u) * step], products[at + ({j}u + 12u) * step],
        products[at + ({j}u + 18u) * step], products[at + ({j}u + 24u) * step], products[at + ({j}u + 30u) * step]));
//: end
    let r0 = of_gradients(Six(s0.a, s1.a, s2.a, s3.a, s4.a, s5.a));
    let r1 = of_gradients(Six(s0.b, s1.b, s2.b, s3.b, s4.b, s5.b));
    let r2 = of_gradients(Six(s0.c, s1.c, s2.c, s3.c, s4.c, s5.c));
    let to = row * p.c4 + p.c0 + c;
//: for j in 0..3
    y[to + {j * 3}u * p.ci * p.c4] = r{j}.a;
    y[to + ({j * 3}u + 1u) * p.ci * p.c4] = r{j}.b;
    y[to + ({j * 3}u + 2u) * p.ci * p.c4] = r{j}.c;
//: end
}
