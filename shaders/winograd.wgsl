// 3x3 convolution, stride 1, padding 1, by Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray 2016) with the points 0, +-1,
// +-2 and infinity: a tile of 4x4 outputs takes 36 products where the direct sum takes 144. Per tile and channel
//   V = B' d B (d: the 6x6 inputs around the tile), U = G g G' (g: the 3x3 weights), M = sum over ci of V U, Y = A' M A.
// Input gradient: the same with the upstream gradient as x, g flipped (FLIP = 1) and U transposed (by the products). Weight gradient, the
// transpose of it all: N = A y A' (y: the upstream gradient's 4x4), P = sum over tiles of V N, gradient of g = G' P G.
// The 36 products are matrix products over (tile, ci, co): `product` and `outer` of the convolution's staging.
//
// With B = 4 QUADS channels a load: x, y [n, h, w, B cl]; weights g [3, 3, ci, B cl]; points, products [36, rows, B cn], `pitch` apart: rows are
// tiles (V of x, M and N of y) or ci (U and P of g), channels the B cn from B c0 on, in blocks of 4 pack: QUADS cn / pack times [rows, 4 pack], so
// that a product of whole subgroups reads on and on. All f32. Tiles: (image, th, tw), row by row; th = ceil(h / 4),
// tw = ceil(w / 4); rows are the `tiles` tiles from `first` on.
// An invocation owns one tile (input, upstream, output) or ci (weights, weight_gradient) of B channels.
const FLIP = 0u;
const QUADS = 2u; // quads of 4 channels that an invocation owns
//: include index
//: include points
//: include load{QUADS}
//: include epilogue
struct Params { n: u32, h: u32, w: u32, cl: u32, th: u32, tw: u32, ci: u32, pack: u32, first: u32, tiles: u32, c0: u32, cn: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Load>;
@group(0) @binding(2) var<storage, read_write> points: array<Load>;
@group(0) @binding(3) var<storage, read> products: array<Load>;
@group(0) @binding(4) var<storage, read_write> y: array<Load>;
@group(0) @binding(5) var<storage, read> affine: array<vec4f>;
@group(0) @binding(6) var<storage, read> residual: array<Load>;

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

// Where the load c of a row of points begin.
fn packed(row: u32, rows: u32, c: u32) -> u32 {
    let block = c * QUADS / p.pack;
    return (block * rows + row) * (p.pack / QUADS) + c - block * (p.pack / QUADS);
}

// How far apart the matrices of rows x c loads begin.
fn apart(rows: u32, c: u32) -> u32 {
    return pitch(rows, QUADS * c) / QUADS;
}

// Row i of the 6x6 points at `at`, `step` apart.
fn put(i: u32, at: u32, step: u32,
//: for q in 0..QUADS
    s{q}: Six,
//: end
) {
    points[at + (6u * i) * step] = load(
//: for q in 0..QUADS
        s{q}.a,
//: end
    );
    points[at + (6u * i + 1u) * step] = load(
//: for q in 0..QUADS
        s{q}.b,
//: end
    );
    points[at + (6u * i + 2u) * step] = load(
//: for q in 0..QUADS
        s{q}.c,
//: end
    );
    points[at + (6u * i + 3u) * step] = load(
//: for q in 0..QUADS
        s{q}.d,
//: end
    );
    points[at + (6u * i + 4u) * step] = load(
//: for q in 0..QUADS
        s{q}.e,
//: end
    );
    points[at + (6u * i + 5u) * step] = load(
//: for q in 0..QUADS
        s{q}.f,
//: end
    );
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
    return Tile(t < p.tiles, packed(t, p.tiles, c), p.c0 + c, image * p.h * p.w * p.cl, row * 4u, (r - row * p.tw) * 4u);
}

// A row or column of x: where it begins, and whether it is there.
struct Line { at: u32, inside: bool }

fn line(i: i32, extent: u32, step: u32) -> Line {
    return Line(u32(i) * step, i >= 0 && i < i32(extent));
}

// The channels of x where a row and a column cross; zero outside.
fn pixel(base: u32, row: Line, column: Line) -> Load {
    let inside = row.inside && column.inside;
    return select(Load(), x[select(0u, base + row.at + column.at, inside)], inside);
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
    let r{j} = line(i32(t.y) - 1 + {j}, p.h, p.w * p.cl);
//: end
//: for j in 0..6
    let c{j} = line(i32(t.x) - 1 + {j}, p.w, p.cl);
//: for i in 0..6
    let x{i}_{j} = pixel(base, r{i}, c{j});
//: end
//: for q in 0..QUADS
    let s{j}_{q} = of_inputs(Six(
        quad{q}(x0_{j}), quad{q}(x1_{j}), quad{q}(x2_{j}), quad{q}(x3_{j}), quad{q}(x4_{j}), quad{q}(x5_{j})));
//: end
//: end
    let step = apart(p.tiles, p.cn);
    put(0u, t.at, step,
//: for q in 0..QUADS
        of_inputs(Six(s0_{q}.a, s1_{q}.a, s2_{q}.a, s3_{q}.a, s4_{q}.a, s5_{q}.a)),
//: end
    );
    put(1u, t.at, step,
//: for q in 0..QUADS
        of_inputs(Six(s0_{q}.b, s1_{q}.b, s2_{q}.b, s3_{q}.b, s4_{q}.b, s5_{q}.b)),
//: end
    );
    put(2u, t.at, step,
//: for q in 0..QUADS
        of_inputs(Six(s0_{q}.c, s1_{q}.c, s2_{q}.c, s3_{q}.c, s4_{q}.c, s5_{q}.c)),
//: end
    );
    put(3u, t.at, step,
//: for q in 0..QUADS
        of_inputs(Six(s0_{q}.d, s1_{q}.d, s2_{q}.d, s3_{q}.d, s4_{q}.d, s5_{q}.d)),
//: end
    );
    put(4u, t.at, step,
//: for q in 0..QUADS
        of_inputs(Six(s0_{q}.e, s1_{q}.e, s2_{q}.e, s3_{q}.e, s4_{q}.e, s5_{q}.e)),
//: end
    );
    put(5u, t.at, step,
//: for q in 0..QUADS
        of_inputs(Six(s0_{q}.f, s1_{q}.f, s2_{q}.f, s3_{q}.f, s4_{q}.f, s5_{q}.f)),
//: end
    );
}

// The weights' tap t.
fn tap(t: u32, i: u32) -> Load {
    return x[i + select(t, 8u - t, FLIP == 1u) * p.ci * p.cl];
}

@compute @workgroup_size(64)
fn weights(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if (i >= p.ci * p.cl) {
        return;
    }
    let step = apart(p.ci, p.cl);
//: for j in 0..3
    let a{j} = tap({j}u, i);
    let b{j} = tap({j + 3}u, i);
    let c{j} = tap({j + 6}u, i);
//: for q in 0..QUADS
    let s{j}_{q} = of_weights(quad{q}(a{j}), quad{q}(b{j}), quad{q}(c{j}));
//: end
//: end
    put(0u, i, step,
//: for q in 0..QUADS
        of_weights(s0_{q}.a, s1_{q}.a, s2_{q}.a),
//: end
    );
    put(1u, i, step,
//: for q in 0..QUADS
        of_weights(s0_{q}.b, s1_{q}.b, s2_{q}.b),
//: end
    );
    put(2u, i, step,
//: for q in 0..QUADS
        of_weights(s0_{q}.c, s1_{q}.c, s2_{q}.c),
//: end
    );
    put(3u, i, step,
//: for q in 0..QUADS
        of_weights(s0_{q}.d, s1_{q}.d, s2_{q}.d),
//: end
    );
    put(4u, i, step,
//: for q in 0..QUADS
        of_weights(s0_{q}.e, s1_{q}.e, s2_{q}.e),
//: end
    );
    put(5u, i, step,
//: for q in 0..QUADS
        of_weights(s0_{q}.f, s1_{q}.f, s2_{q}.f),
//: end
    );
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
    let r{j} = line(i32(t.y) + {j}, p.h, p.w * p.cl);
//: end
//: for j in 0..4
    let c{j} = line(i32(t.x) + {j}, p.w, p.cl);
//: for i in 0..4
    let x{i}_{j} = pixel(base, r{i}, c{j});
//: end
//: for q in 0..QUADS
    let s{j}_{q} = of_upstream(quad{q}(x0_{j}), quad{q}(x1_{j}), quad{q}(x2_{j}), quad{q}(x3_{j}));
//: end
//: end
    let step = apart(p.tiles, p.cn);
    put(0u, t.at, step,
//: for q in 0..QUADS
        of_upstream(s0_{q}.a, s1_{q}.a, s2_{q}.a, s3_{q}.a),
//: end
    );
    put(1u, t.at, step,
//: for q in 0..QUADS
        of_upstream(s0_{q}.b, s1_{q}.b, s2_{q}.b, s3_{q}.b),
//: end
    );
    put(2u, t.at, step,
//: for q in 0..QUADS
        of_upstream(s0_{q}.c, s1_{q}.c, s2_{q}.c, s3_{q}.c),
//: end
    );
    put(3u, t.at, step,
//: for q in 0..QUADS
        of_upstream(s0_{q}.d, s1_{q}.d, s2_{q}.d, s3_{q}.d),
//: end
    );
    put(4u, t.at, step,
//: for q in 0..QUADS
        of_upstream(s0_{q}.e, s1_{q}.e, s2_{q}.e, s3_{q}.e),
//: end
    );
    put(5u, t.at, step,
//: for q in 0..QUADS
        of_upstream(s0_{q}.f, s1_{q}.f, s2_{q}.f, s3_{q}.f),
//: end
    );
}

@compute @workgroup_size(64)
fn output(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    let t = tile(i);
    if (!t.inside) {
        return;
    }
    let step = apart(p.tiles, p.cn);
    var own = Affine();
//: for q in 0..QUADS * AFFINE
    own.scale{q} = affine[2u * (t.c * QUADS + {q}u)];
    own.shift{q} = affine[2u * (t.c * QUADS + {q}u) + 1u];
//: end
//: for j in 0..6
//: for i in 0..6
    let m{i}_{j} = products[t.at + ({i * 6}u + {j}u) * step];
//: end
//: for q in 0..QUADS
    let s{j}_{q} = of_products(Six(
        quad{q}(m0_{j}), quad{q}(m1_{j}), quad{q}(m2_{j}), quad{q}(m3_{j}), quad{q}(m4_{j}), quad{q}(m5_{j})));
//: end
//: end
    row(t, 0u, own,
//: for q in 0..QUADS
        of_products(Six(s0_{q}.a, s1_{q}.a, s2_{q}.a, s3_{q}.a, s4_{q}.a, s5_{q}.a)),
//: end
    );
    row(t, 1u, own,
//: for q in 0..QUADS
        of_products(Six(s0_{q}.b, s1_{q}.b, s2_{q}.b, s3_{q}.b, s4_{q}.b, s5_{q}.b)),
//: end
    );
    row(t, 2u, own,
//: for q in 0..QUADS
        of_products(Six(s0_{q}.c, s1_{q}.c, s2_{q}.c, s3_{q}.c, s4_{q}.c, s5_{q}.c)),
//: end
    );
    row(t, 3u, own,
//: for q in 0..QUADS
        of_products(Six(s0_{q}.d, s1_{q}.d, s2_{q}.d, s3_{q}.d, s4_{q}.d, s5_{q}.d)),
//: end
    );
}

struct Affine {
//: for q in 0..QUADS
    scale{q}: vec4f,
    shift{q}: vec4f,
//: end
}

// The sums of y[at] as they leave.
fn ended(own: Affine, at: u32,
//: for q in 0..QUADS
    s{q}: vec4f,
//: end
) -> Load {
//: for q in 0..QUADS
    var v{q} = s{q};
//: end
//: for q in 0..QUADS * AFFINE
    v{q} = v{q} * own.scale{q} + own.shift{q};
//: end
//: for h in 0..RESIDUAL
    let more = residual[at];
//: for q in 0..QUADS
    v{q} += quad{q}(more);
//: end
//: end
//: for q in 0..QUADS * RELU
    v{q} = rectified(v{q});
//: end
    return load(
//: for q in 0..QUADS
        v{q},
//: end
    );
}

// Row i of a tile's outputs, as far as they are inside.
fn row(t: Tile, i: u32, own: Affine,
//: for q in 0..QUADS
    s{q}: Four,
//: end
) {
    if (t.y + i >= p.h) {
        return;
    }
    let at = t.base + ((t.y + i) * p.w + t.x) * p.cl + t.c;
    y[at] = ended(own, at,
//: for q in 0..QUADS
        s{q}.a,
//: end
    );
    if (t.x + 1u < p.w) {
        y[at + p.cl] = ended(own, at + p.cl,
//: for q in 0..QUADS
            s{q}.b,
//: end
        );
    }
    if (t.x + 2u < p.w) {
        y[at + 2u * p.cl] = ended(own, at + 2u * p.cl,
//: for q in 0..QUADS
            s{q}.c,
//: end
        );
    }
    if (t.x + 3u < p.w) {
        y[at + 3u * p.cl] = ended(own, at + 3u * p.cl,
//: for q in 0..QUADS
            s{q}.d,
//: end
        );
    }
}

@compute @workgroup_size(64)
fn weight_gradient(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    let row = i / p.cn;
    let c = i - row * p.cn;
    if (row >= p.ci) {
        return;
    }
    let step = apart(p.ci, p.cn);
    let at = packed(row, p.ci, c);
//: for j in 0..6
//: for i in 0..6
    let m{i}_{j} = products[at + ({i * 6}u + {j}u) * step];
//: end
//: for q in 0..QUADS
    let s{j}_{q} = of_gradients(Six(
        quad{q}(m0_{j}), quad{q}(m1_{j}), quad{q}(m2_{j}), quad{q}(m3_{j}), quad{q}(m4_{j}), quad{q}(m5_{j})));
//: end
//: end
//: for q in 0..QUADS
    let r0_{q} = of_gradients(Six(s0_{q}.a, s1_{q}.a, s2_{q}.a, s3_{q}.a, s4_{q}.a, s5_{q}.a));
    let r1_{q} = of_gradients(Six(s0_{q}.b, s1_{q}.b, s2_{q}.b, s3_{q}.b, s4_{q}.b, s5_{q}.b));
    let r2_{q} = of_gradients(Six(s0_{q}.c, s1_{q}.c, s2_{q}.c, s3_{q}.c, s4_{q}.c, s5_{q}.c));
//: end
    let to = row * p.cl + p.c0 + c;
//: for j in 0..3
    y[to + {j * 3}u * p.ci * p.cl] = load(
//: for q in 0..QUADS
        r{j}_{q}.a,
//: end
    );
    y[to + {j * 3 + 1}u * p.ci * p.cl] = load(
//: for q in 0..QUADS
        r{j}_{q}.b,
//: end
    );
    y[to + {j * 3 + 2}u * p.ci * p.cl] = load(
//: for q in 0..QUADS
        r{j}_{q}.c,
//: end
    );
//: end
}
