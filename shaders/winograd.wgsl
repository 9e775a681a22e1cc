// 3x3 convolution, stride 1, padding 1, by Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray 2016) with the points 0, +-1,
// +-2 and infinity: a tile of 4x4 outputs takes 36 products where the direct sum takes 144. Per tile and channel
//   V = B' d B (d: the 6x6 inputs around the tile), U = G g G' (g: the 3x3 weights), M = sum over ci of V U, Y = A' M A.
// The 36 products M are matrix products over (tile, ci, co): `product` of the convolution's staging.
//
// x, y [n, h, w, 4 c4]; weights g [3, 3, ci, 4 c4]; points [36, rows, 4 c4]: rows are tiles (V of x, M of y) or ci (U of g). All f32,
// bound as vec4 along channels. Tiles: (image, th, tw), row by row; th = ceil(h / 4), tw = ceil(w / 4).
// An invocation owns one tile (input, output) or ci (weights) of 4 channels.
//: include index
struct Params { n: u32, h: u32, w: u32, c4: u32, th: u32, tw: u32, ci: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> points: array<vec4f>;
@group(0) @binding(3) var<storage, read> products: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;

struct Six { a: vec4f, b: vec4f, c: vec4f, d: vec4f, e: vec4f, f: vec4f }
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

// Row i of the 6x6 points at `at`, `step` apart.
fn put(i: u32, at: u32, step: u32, s: Six) {
    points[at + (6u * i) * step] = s.a;
    points[at + (6u * i + 1u) * step] = s.b;
    points[at + (6u * i + 2u) * step] = s.c;
    points[at + (6u * i + 3u) * step] = s.d;
    points[at + (6u * i + 4u) * step] = s.e;
    points[at + (6u * i + 5u) * step] = s.f;
}

// The pixel at (iy, ix) of an image that begins at `base`; zero outside.
fn pixel(base: u32, iy: i32, ix: i32, c: u32) -> vec4f {
    let inside = iy >= 0 && ix >= 0 && iy < i32(p.h) && ix < i32(p.w);
    return select(vec4f(), x[select(0u, base + (u32(iy) * p.w + u32(ix)) * p.c4 + c, inside)], inside);
}

@compute @workgroup_size(64)
fn input(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    let tiles = p.n * p.th * p.tw;
    let tile = i / p.c4;
    let c = i - tile * p.c4;
    if (tile >= tiles) {
        return;
    }
    let image = tile / (p.th * p.tw);
    let t = tile - image * p.th * p.tw;
    let base = image * p.h * p.w * p.c4;
    let y0 = i32(t / p.tw * 4u) - 1;
    let x0 = i32(t % p.tw * 4u) - 1;
//: for j in 0..6
    let s{j} = of_inputs(Six(
        pixel(base, y0, x0 + {j}, c), pixel(base, y0 + 1, x0 + {j}, c), pixel(base, y0 + 2, x0 + {j}, c),
        pixel(base, y0 + 3, x0 + {j}, c), pixel(base, y0 + 4, x0 + {j}, c), pixel(base, y0 + 5, x0 + {j}, c)));
//: end
    let step = tiles * p.c4;
    put(0u, i, step, of_inputs(Six(s0.a, s1.a, s2.a, s3.a, s4.a, s5.a)));
    put(1u, i, step, of_inputs(Six(s0.b, s1.b, s2.b, s3.b, s4.b, s5.b)));
    put(2u, i, step, of_inputs(Six(s0.c, s1.c, s2.c, s3.c, s4.c, s5.c)));
    put(3u, i, step, of_inputs(Six(s0.d, s1.d, s2.d, s3.d, s4.d, s5.d)));
    put(4u, i, step, of_inputs(Six(s0.e, s1.e, s2.e, s3.e, s4.e, s5.e)));
    put(5u, i, step, of_inputs(Six(s0.f, s1.f, s2.f, s3.f, s4.f, s5.f)));
}

@compute @workgroup_size(64)
fn weights(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    let step = p.ci * p.c4;
    if (i >= step) {
        return;
    }
//: for j in 0..3
    let s{j} = of_weights(x[i + {j}u * step], x[i + ({j}u + 3u) * step], x[i + ({j}u + 6u) * step]);
//: end
    put(0u, i, step, of_weights(s0.a, s1.a, s2.a));
    put(1u, i, step, of_weights(s0.b, s1.b, s2.b));
    put(2u, i, step, of_weights(s0.c, s1.c, s2.c));
    put(3u, i, step, of_weights(s0.d, s1.d, s2.d));
    put(4u, i, step, of_weights(s0.e, s1.e, s2.e));
    put(5u, i, step, of_weights(s0.f, s1.f, s2.f));
}

@compute @workgroup_size(64)
fn output(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    let tiles = p.n * p.th * p.tw;
    let tile = i / p.c4;
    let c = i - tile * p.c4;
    if (tile >= tiles) {
        return;
    }
    let image = tile / (p.th * p.tw);
    let t = tile - image * p.th * p.tw;
    let y0 = t / p.tw * 4u;
    let x0 = t % p.tw * 4u;
    let step = tiles * p.c4;
//: for j in 0..6
    let s{j} = of_products(Six(
        products[i + {j}u * step], products[i + ({j}u + 6u) * step], products[i + ({j}u + 12u) * step],
        products[i + ({j}u + 18u) * step], products[i + ({j}u + 24u) * step], products[i + ({j}u + 30u) * step]));
//: end
    row(image, y0, x0, c, of_products(Six(s0.a, s1.a, s2.a, s3.a, s4.a, s5.a)));
    row(image, y0 + 1u, x0, c, of_products(Six(s0.b, s1.b, s2.b, s3.b, s4.b, s5.b)));
    row(image, y0 + 2u, x0, c, of_products(Six(s0.c, s1.c, s2.c, s3.c, s4.c, s5.c)));
    row(image, y0 + 3u, x0, c, of_products(Six(s0.d, s1.d, s2.d, s3.d, s4.d, s5.d)));
}

// Four pixels of y from (oy, ox) on, as far as they are inside.
fn row(image: u32, oy: u32, ox: u32, c: u32, s: Four) {
    if (oy >= p.h) {
        return;
    }
    let at = ((image * p.h + oy) * p.w + ox) * p.c4 + c;
    y[at] = s.a;
    if (ox + 1u < p.w) { y[at + p.c4] = s.b; }
    if (ox + 2u < p.w) { y[at + 2u * p.c4] = s.c; }
    if (ox + 3u < p.w) { y[at + 3u * p.c4] = s.d; }
}
