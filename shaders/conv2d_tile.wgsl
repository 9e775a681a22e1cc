// 2-D convolution as implicit GEMM, staging "workgroup-tile": a workgroup copies tiles of both operands into its memory, where
// 16 invocations read each value of x and 16 each value of w. For GPUs, where that memory is far nearer than the caches.
// Needs no more than WebGPU's default limits. Formulas, shapes and parameters: conv2d_shuffle.wgsl.
//
// The workgroup has BN / (4 TN) x 16 invocations and an output tile of 16 TM rows x BN channels; invocation (i, j) owns TN quads of
// channels, i of the tile and every BN / (4 TN) after it, and TM rows. It walks K in steps of 8. While it multiplies one step's tiles, the next step's values are on
// their way from global memory to registers; they then go to the other pair of tiles, so that a step takes one barrier.
// gather: rows are the pixels of one residue class, an invocation's are j, j + 16, ..; K is (ky, kx, ci), a step 8 channels
// within one tap. Grid: pixels / (16 TM), channels / BN, div^2 classes. With CHUNKS = TM / 4 it also writes the moments of each
// chunk of 64 pixels, as batch_norm.measure does for a chunk of its own: [pixels / 64][co4][2], mean and sum of squares about it over
// the first n_valid images.
// weight_gradient: rows are (tap, ci), an invocation's are those of the vec4s j, j + 16, ..; K is the pixels of one slice's
// image rows, a step 8 of them. Grid: rows / (16 TM), channels / BN, slices.
const BN = 64u;
const TM = 8u;
const TN = 1u; // quads of channels that an invocation owns, BN / (4 TN) apart
const CHUNKS = 0u;
const LOADS = 1u; // vec4 of x that an invocation loads a step: 8 TM TN / BN, at least 1

//: include extents
alias Operand = vec4f;
//: include conv2d
@group(0) @binding(8) var<storage, read_write> moments: array<vec4f>;

// Two tiles of x and two of w (gather) or gy (weight_gradient). In x's, [j] holds what the invocations (i, j) read, so that all
// their offsets are constants; two vec4 more than that is let neighbours lie in other banks.
var<workgroup> xs: array<array<array<vec4f, 2u * TM + 2u>, 16>, 2>;
var<workgroup> ws: array<array<array<vec4f, BN / 4u>, 8>, 2>;

// How many of the pixels m, m + 16, m + 32, m + 48 count, of the first n_valid images.
fn rows_of(m: u32, count: u32) -> u32 {
    let valid = min(p.n_valid * p.oh * p.ow, count);
    return min((max(valid, m) - m + 15u) / 16u, 4u);
}

@compute @workgroup_size(BN / (4u * TN), 16)
fn gather(
    @builtin(workgroup_id) g: vec3u,
    @builtin(local_invocation_id) l: vec3u,
    @builtin(local_invocation_index) index: u32,
) {
    let div = 1u << p.shift;
    let py = g.z >> p.shift;
    let px = g.z & (div - 1u);
    let ch = (p.oh - py + div - 1u) >> p.shift;
    let cw = (p.ow - px + div - 1u) >> p.shift;
    let count = p.n * ch * cw;
    let tile = g.x * 16u * TM;
//: for n in 0..TN
    let l{n} = l.x + {n}u * (BN / (4u * TN));
    let c{n} = g.y * (BN / 4u) + l{n};
//: end
    let ky0 = (p.off - py) & (div - 1u);
    let kx0 = (p.off - px) & (div - 1u);
    let taps_y = (max(p.kernel, ky0) - ky0 + div - 1u) >> p.shift;
    let taps_x = (max(p.kernel, kx0) - kx0 + div - 1u) >> p.shift;
    let steps = taps_y * taps_x * ((p.ci4 + 1u) / 2u);
    // Neighbours load the two vec4 of a step's channels of one pixel, then the next pixel's. Pixel j of this invocation: its
    // row in the tile, and the input position of tap (0, 0) times div.
    let part = index % 2u;
//: for j in 0..LOADS
    let row{j} = index / 2u + {j}u * 2u * (BN / TN);
    let o{j} = output_pixel(tile + row{j}, g.z, ch, cw);
    let sy{j} = i32(o{j}.y * p.mul) - i32(p.off);
    let sx{j} = select(-1048576, i32(o{j}.z * p.mul) - i32(p.off), row{j} < 16u * TM && tile + row{j} < count);
    var in{j} = false;
    var at{j} = 0u;
//: end
//: for i in 0..TM
//: for n in 0..TN
    var a{i}_{n} = vec4f();
//: end
//: end
    var ky = ky0;
    var kx = kx0;
    var c = 0u;
    for (var s = 0u; s <= steps; s++) {
//: for j in 0..LOADS
        var u{j} = vec4f();
//: end
//: for n in 0..TN
        var v{n} = vec4f();
//: end
        if (s < steps) {
            if (c == 0u) { // a new tap
//: for j in 0..LOADS
                let ty{j} = sy{j} + i32(ky);
                let tx{j} = sx{j} + i32(kx);
                let iy{j} = u32(ty{j}) >> p.shift;
                let ix{j} = u32(tx{j}) >> p.shift;
                in{j} = ty{j} >= 0 && tx{j} >= 0 && iy{j} < p.ih && ix{j} < p.iw;
                at{j} = ((o{j}.x * p.ih + iy{j}) * p.iw + ix{j}) * p.ci4 + part;
//: end
            }
//: for j in 0..LOADS
            if (in{j} && c + part < p.ci4) {
                u{j} = x[at{j} + c];
            }
//: end
//: for n in 0..TN
            if (l.y < 8u && c + l.y / 4u < p.ci4 && c{n} < p.co4) {
                v{n} = w[(((ky * p.kernel + kx) * p.ci4 + c) * 4u + l.y) * p.co4 + c{n}];
            }
//: end
            c += 2u;
            if (c >= p.ci4) {
                c = 0u;
                kx += div;
                if (kx >= p.kernel) {
                    kx = kx0;
                    ky += div;
                }
            }
        }
//: include tile_product
    }
//: for i in 0..TM
    let m{i} = tile + {i}u * 16u + l.y;
    if (m{i} < count) {
        var to{i} = m{i};
        if (p.shift > 0u) { // else there is one class, whose pixels are numbered as y's are
            let y{i} = output_pixel(m{i}, g.z, ch, cw);
            to{i} = (y{i}.x * p.oh + y{i}.y) * p.ow + y{i}.z;
        }
//: for n in 0..TN
        if (c{n} < p.co4) {
            let at{i}_{n} = to{i} * p.co4 + c{n};
            y[at{i}_{n}] = ended(a{i}_{n}, at{i}_{n}, c{n});
        }
//: end
    }
//: end
//: for q in 0..CHUNKS
    let first{q} = tile + {q * 64}u; // the chunk's first pixel; its rows of this invocation are a quarter of those of the tile
    let own{q} = rows_of(first{q} + l.y, count);
//: for n in 0..TN
    var mean{q}_{n} = vec4f();
    var squares{q}_{n} = vec4f();
//: for i in 0..4
    mean{q}_{n} += select(vec4f(), a{q * 4 + i}_{n}, {i}u < own{q});
//: end
    mean{q}_{n} /= f32(max(own{q}, 1u));
//: for i in 0..4
    let d{q}_{i}_{n} = select(vec4f(), a{q * 4 + i}_{n} - mean{q}_{n}, {i}u < own{q});
    squares{q}_{n} += d{q}_{i}_{n} * d{q}_{i}_{n};
//: end
    xs[l{n} / 8u][l.y][l{n} % 8u] = mean{q}_{n};
    ws[l.y / 8u][l.y % 8u][l{n}] = squares{q}_{n};
//: end
    workgroupBarrier();
//: for n in 0..TN
    if (l.y == {q}u && c{n} < p.co4 && first{q} < count) {
        // Chan, Golub and LeVeque (1979), as in batch_norm.
        var n = 0.0;
        var mean = vec4f();
        var squares = vec4f();
        for (var r = 0u; r < 16u; r++) {
            let more = f32(rows_of(first{q} + r, count));
            let share = more / max(n + more, 1.0);
            let d = xs[l{n} / 8u][r][l{n} % 8u] - mean;
            mean += d * share;
            squares += ws[r / 8u][r % 8u][l{n}] + d * d * (n * share);
            n += more;
        }
        let to = 2u * (first{q} / 64u * p.co4 + c{n});
        moments[to] = mean;
        moments[to + 1u] = squares;
    }
//: end
    workgroupBarrier();
//: end
}

@compute @workgroup_size(BN / (4u * TN), 16)
fn weight_gradient(
    @builtin(workgroup_id) g: vec3u,
    @builtin(local_invocation_id) l: vec3u,
    @builtin(local_invocation_index) index: u32,
) {
    let rows = p.kernel * p.kernel * p.ci4;
    let tile = g.x * 4u * TM;
//: for n in 0..TN
    let l{n} = l.x + {n}u * (BN / (4u * TN));
    let c{n} = g.y * (BN / 4u) + l{n};
//: end
    // The slice's pixels: gy holds them one after the other.
    let start = g.z * p.rows_a_slice * p.ow;
    let end = min((g.z + 1u) * p.rows_a_slice, p.n * p.oh) * p.ow;
    let steps = (max(end, start) - start + 7u) / 8u;
    // Neighbours load neighbouring rows of one pixel; an invocation keeps to its row.
    let row = index % (4u * TM);
    let r = min(tile + row, rows - 1u);
    let tap = r / p.ci4;
    let c_in = r - tap * p.ci4;
    let ky = tap / p.kernel;
    let dy = i32(ky) - i32(p.off);
    let dx = i32(tap - ky * p.kernel) - i32(p.off);
    // Pixel j of this invocation: its number in the step, and its image, row and column in gy.
//: for j in 0..LOADS
    let k{j} = index / (4u * TM) + {j}u * (BN / (TM * TN));
    let t{j} = (start + k{j}) / p.ow;
    var n{j} = t{j} / p.oh;
    var oy{j} = t{j} - n{j} * p.oh;
    var ox{j} = start + k{j} - t{j} * p.ow;
//: end
    // A step's 8 pixels as images, rows and columns: adding these with carries takes no division.
    let step_x = 8u % p.ow;
    let step_y = 8u / p.ow % p.oh;
    let step_n = 8u / p.ow / p.oh;
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
            let iy{j} = i32(oy{j} * p.mul) + dy;
            let ix{j} = i32(ox{j} * p.mul) + dx;
            let in{j} = iy{j} >= 0 && iy{j} < i32(p.ih) && ix{j} >= 0 && ix{j} < i32(p.iw);
            if (in{j} && k{j} < 8u && first + k{j} < end) {
                u{j} = x[((n{j} * p.ih + u32(iy{j})) * p.iw + u32(ix{j})) * p.ci4 + c_in];
            }
            n{j} += step_n;
            oy{j} += step_y;
            ox{j} += step_x;
            if (ox{j} >= p.ow) {
                ox{j} -= p.ow;
                oy{j}++;
            }
            if (oy{j} >= p.oh) {
                oy{j} -= p.oh;
                n{j}++;
            }
//: end
//: for n in 0..TN
            if (l.y < 8u && first + l.y < end && c{n} < p.co4) {
                v{n} = gy[(first + l.y) * p.co4 + c{n}];
            }
//: end
        }
//: include tile_outer
    }
//: for i in 0..TM / 4
    let r{i} = tile + {i}u * 16u + l.y;
    if (r{i} < rows) {
//: for n in 0..TN
        if (c{n} < p.co4) {
//: for q in 0..4
            slices[((g.z * rows + r{i}) * 4u + {q}u) * p.co4 + c{n}] = a{i}{q}_{n};
//: end
        }
//: end
    }
//: end
}
