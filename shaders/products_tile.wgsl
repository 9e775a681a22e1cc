// Winograd's 36 matrix products, staging "winograd-tile": a workgroup copies tiles of both operands into its memory, as in conv2d_tile.wgsl,
// whose loops these are without an image's edges. winograd.wgsl says what is multiplied. All f32; matrices of one buffer are `pitch` apart.
//
// product: M = V U. x: V [36, rows, 4 k4]; w: U [36, 4 k4, 4 n4]; y: M [36, rows, 4 n4]. The workgroup's BN / (4 TN) x 16 invocations have an output
// tile of 16 TM rows x BN channels; invocation (i, j) owns TN quads of channels, i of the tile and every BN / (4 TN) after it, and TM rows: j, j + 16, .. It walks K in steps of 8.
// Grid: rows / (16 TM), channels / BN, 36.
// outer: P = V' N, in slices of the rows that it sums over. x: V [36, rows, 4 k4]; w: N [36, rows, 4 n4]; y: P [slices, 36, 4 k4, 4 n4], added to
// what is there where `add`. An invocation owns TN quads of channels and TM rows of P: those of the vec4s j, j + 16, .. It walks the slice's `a_slice` rows in
// steps of 8. Grid: 4 k4 / (16 TM), channels / BN, 36 slices.
// While one step's tiles are multiplied, the next step's values are on their way from global memory to registers, and go to the other pair of tiles.
const BN = 64u;
const TM = 8u;
const TN = 1u; // quads of channels that an invocation owns, BN / (4 TN) apart
const LOADS = 1u; // vec4 of x that an invocation loads a step: 8 TM TN / BN, at least 1

//: include points
struct Params { rows: u32, k4: u32, n4: u32, a_slice: u32, add: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> w: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

// Two tiles of each; in x's [j] holds what the invocations (i, j) read, with two vec4 more so that neighbours lie in other banks.
var<workgroup> xs: array<array<array<vec4f, 2u * TM + 2u>, 16>, 2>;
var<workgroup> ws: array<array<array<vec4f, BN / 4u>, 8>, 2>;

@compute @workgroup_size(BN / (4u * TN), 16)
fn product(
    @builtin(workgroup_id) g: vec3u,
    @builtin(local_invocation_id) l: vec3u,
    @builtin(local_invocation_index) index: u32,
) {
    let tile = g.x * 16u * TM;
//: for n in 0..TN
    let l{n} = l.x + {n}u * (BN / (4u * TN));
    let c{n} = g.y * (BN / 4u) + l{n};
//: end
    let from_x = g.z * pitch(p.rows, p.k4);
    let from_w = g.z * pitch(4u * p.k4, p.n4);
    let steps = (p.k4 + 1u) / 2u;
    // Neighbours load the two vec4 of a step of one row, then the next row's.
    let part = index % 2u;
//: for j in 0..LOADS
    let row{j} = index / 2u + {j}u * 2u * (BN / TN);
    let inside{j} = row{j} < 16u * TM && tile + row{j} < p.rows;
    let at{j} = from_x + (tile + row{j}) * p.k4 + part;
//: end
//: for i in 0..TM
//: for n in 0..TN
    var a{i}_{n} = vec4f();
//: end
//: end
    for (var s = 0u; s <= steps; s++) {
//: for j in 0..LOADS
        var u{j} = vec4f();
//: end
//: for n in 0..TN
        var v{n} = vec4f();
//: end
        if (s < steps) {
//: for j in 0..LOADS
            if (inside{j} && 2u * s + part < p.k4) {
                u{j} = x[at{j} + 2u * s];
            }
//: end
//: for n in 0..TN
            if (l.y < 8u && 8u * s + l.y < 4u * p.k4 && c{n} < p.n4) {
                v{n} = w[from_w + (8u * s + l.y) * p.n4 + c{n}];
            }
//: end
        }
//: include tile_product
    }
    let to = g.z * pitch(p.rows, p.n4);
//: for i in 0..TM
    let m{i} = tile + {i}u * 16u + l.y;
//: for n in 0..TN
    if (m{i} < p.rows && c{n} < p.n4) {
        y[to + m{i} * p.n4 + c{n}] = a{i}_{n};
    }
//: end
//: end
}

@compute @workgroup_size(BN / (4u * TN), 16)
fn outer(
    @builtin(workgroup_id) g: vec3u,
    @builtin(local_invocation_id) l: vec3u,
    @builtin(local_invocation_index) index: u32,
) {
    let slice = g.z / 36u;
    let point = g.z - 36u * slice;
    let tile = g.x * 4u * TM;
//: for n in 0..TN
    let l{n} = l.x + {n}u * (BN / (4u * TN));
    let c{n} = g.y * (BN / 4u) + l{n};
//: end
    let start = slice * p.a_slice;
    let end = min(start + p.a_slice, p.rows);
    let steps = (max(end, start) - start + 7u) / 8u;
    // Neighbours load neighbouring channels of one row; an invocation keeps to its channels.
    let row = index % (4u * TM);
    let from_x = point * pitch(p.rows, p.k4) + min(tile + row, p.k4 - 1u);
    let from_w = point * pitch(p.rows, p.n4);
//: for j in 0..LOADS
    let k{j} = index / (4u * TM) + {j}u * (BN / (TM * TN));
//: end
//: for i in 0..TM / 4
//: for q in 0..4
//: for n in 0..TN
    var a{i}{q}_{n} = vec4f();
//: end
//: end
//: end
    for (var s = 0u; s <= steps; s++) {
//: for j in 0..LOADS
        var u{j} = vec4f();
//: end
//: for n in 0..TN
        var v{n} = vec4f();
//: end
        if (s < steps) {
            let first = start + s * 8u;
//: for j in 0..LOADS
            if (k{j} < 8u && first + k{j} < end) {
                u{j} = x[from_x + (first + k{j}) * p.k4];
            }
//: end
//: for n in 0..TN
            if (l.y < 8u && first + l.y < end && c{n} < p.n4) {
                v{n} = w[from_w + (first + l.y) * p.n4 + c{n}];
            }
//: end
        }
//: include tile_outer
    }
    let to = g.z * pitch(4u * p.k4, p.n4);
//: for i in 0..TM / 4
    let r{i} = tile + {i}u * 16u + l.y;
//: for n in 0..TN
    if (r{i} < p.k4 && c{n} < p.n4) {
//: for q in 0..4
        let at{i}{q}_{n} = to + (r{i} * 4u + {q}u) * p.n4 + c{n};
        if (p.add == 1u) {
            a{i}{q}_{n} += y[at{i}{q}_{n}];
        }
        y[at{i}{q}_{n}] = a{i}{q}_{n};
//: end
    }
//: end
//: end
}
