// 2-D convolution as implicit GEMM, staging "cooperative-matrix": the multiply-adds of workgroup-tile on matrix units. Operands lie in
// memory as f16 (common/half), subgroups load S x S matrices of them from workgroup memory, products are added up in f32. Needs
// cooperative matrices of f16 with f32 sums, f16 and subgroup operations (Vulkan, Metal); for `--precision mixed` and `split`.
// Formulas, shapes and parameters: conv2d_shuffle.wgsl; x, w and gy hold PLANES times as much, in f16.
//
// A workgroup is 4 SG invocations: 4 subgroups where each has SG lanes, the most it can have; where they have fewer, the subgroups
// past the fourth only load and store. Its output tile is 2 WM rows x 2 WN channels; a subgroup owns a quarter, WM x WN, as
// matrices that stay in registers for all of K, whose steps are 32 long. While one step is multiplied, the next one's values are on
// their way from global memory to registers; with two BUFFERS they then go to the other pair of tiles, so that a step takes one barrier.
// An operand may be stored with K along rows or along columns: matrices load either.
// gather: rows are the pixels of one residue class; K is (tap, ci) without gaps, so that 4 channels fill a step as well as 64 do.
// TURNED = 1: w is the forward pass's, [kernel, kernel, 4 co4, 4 ci4] from here, and taken flipped and transposed; else shift is 0.
// Grid: pixels / (2 WM), channels / (2 WN), div^2 classes.
// weight_gradient: rows are (tap, ci); K is the pixels of one slice's image rows. Grid: rows / (2 WM), channels / (2 WN), slices.
//
// PLANES = 1: an operand is rounded to f16. PLANES = 2: it is hi + lo / 2^11, both f16, and a product hi hi + (hi lo + lo hi) / 2^11: what
// is left out is 2^-22 of it (Ootomo and Yokota 2022). The two sums are kept apart until the end.
// Where SCALED, the upstream gradient was multiplied by scale[0], and the sums are by scale[1] = 1 / scale[0] (half.wgsl).
enable f16;
enable wgpu_cooperative_matrix;
// naga wants matrix operations in uniform control flow and counts nothing that depends on a variable as such; all of it here does
// so uniformly: on the step, or on the subgroup.
diagnostic(off, derivative_uniformity);
const S = 16u; // side of the matrices
const SG = 32u;
const WM = 32u;
const WN = 32u;
const XLOADS = 4u; // vec4 of x that an invocation loads a step and plane: 4 WM / SG
const WLOADS = 4u; // vec4 of w or gy: 4 WN / SG
const BUFFERS = 2u;
const VEC = 4u; // f16 of an element of workgroup memory, 4 or 1: Metal loads matrices from single values only
const PLANES = 1u;
const SCALED = 0u;
const TURNED = 0u;
const STRAIGHT = 0u; // 1: matrices are stored where they belong, if nothing else is done to the sums and VEC is 4
const F32 = 1u; // how y is left: in f32, in f16 or in both
const HALF = 0u;

alias Operand = vec4<f16>;
//: include extents
//: include conv2d
//: include half
@group(0) @binding(8) var<storage, read> scale: array<f32>;
@group(0) @binding(9) var<storage, read_write> half: array<vec4<f16>>;

//: for s in S..S + 1
alias Left = coop_mat{s}x{s}<f16, A>;
alias Right = coop_mat{s}x{s}<f16, B>;
alias Sums = coop_mat{s}x{s}<f32, C>;
//: end
//: for v in 0..VEC / 4
alias Held = vec4<f16>;
//: end
//: for v in 0..VEC % 4
alias Held = f16;
//: end

// Rows end with 8 unused values: neighbours lie in other banks, and each row at a multiple of 16 bytes. All in f16.
const KS = 40u; // a row of 32 of K
const TS = 2u * WM + 8u; // a row of rows, weight_gradient
const WS = 2u * WN + 8u; // a row of channels
const XTILE = max(2u * WM * KS, 32u * TS);
const WTILE = max(2u * WN * KS, 32u * WS);
var<workgroup> xs: array<Held, BUFFERS * PLANES * XTILE / VEC>;
var<workgroup> ws: array<Held, BUFFERS * PLANES * WTILE / VEC>;
// A matrix of sums for each of the four subgroups, on its way out. Zeros at first: no two languages agree on what a matrix holds
// that nothing was assigned to.
var<workgroup> sums: array<f32, 4u * S * S>;

fn put_x(at: u32, v: vec4<f16>) {
//: for v in 0..VEC / 4
    xs[at / 4u] = v;
//: end
//: for v in 0..VEC % 4
//: for q in 0..4
    xs[at + {q}u] = v[{q}];
//: end
//: end
}

fn put_w(at: u32, v: vec4<f16>) {
//: for v in 0..VEC / 4
    ws[at / 4u] = v;
//: end
//: for v in 0..VEC % 4
//: for q in 0..4
    ws[at + {q}u] = v[{q}];
//: end
//: end
}

// The values of a matrix of each subgroup that leave together, by their number q: the subgroup, the row and the quad of columns.
fn place(q: u32) -> vec3u {
    let owner = q / (S * S / 4u);
    return vec3u(owner, q % (S * S / 4u) / (S / 4u), q % (S / 4u));
}

@compute @workgroup_size(4u * SG)
fn gather(
    @builtin(workgroup_id) g: vec3u,
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let div = 1u << p.shift;
    let py = g.z >> p.shift;
    let px = g.z & (div - 1u);
    let ch = (p.oh - py + div - 1u) >> p.shift;
    let cw = (p.ow - px + div - 1u) >> p.shift;
    let count = p.n * ch * cw;
    let tile = g.x * 2u * WM;
    let ky0 = (p.off - py) & (div - 1u);
    let kx0 = (p.off - px) & (div - 1u);
    let taps_y = (max(p.kernel, ky0) - ky0 + div - 1u) >> p.shift;
    let taps_x = (max(p.kernel, kx0) - kx0 + div - 1u) >> p.shift;
    let end4 = taps_y * taps_x * p.ci4;
    let steps = (end4 + 7u) / 8u;
    // Neighbours load the 8 vec4 of a step of one pixel, then the next pixel's. Pixel j of this invocation: its row in the tile, and the
    // input position of tap (0, 0) times div.
    let part = index % 8u;
    let line = index / 8u;
//: for j in 0..XLOADS
    let o{j} = output_pixel(tile + line + {j}u * (SG / 2u), g.z, ch, cw);
    let sy{j} = i32(o{j}.y * p.mul) - i32(p.off);
    let sx{j} = select(-1048576, i32(o{j}.z * p.mul) - i32(p.off), tile + line + {j}u * (SG / 2u) < count);
    var in{j} = false;
    var at{j} = 0u;
//: end
    // The vec4 of K that is next, as tap and channels; where its tap lies in w.
    var next4 = part;
    var c = p.ci4;
    var back = 0u;
    let c4 = g.y * (WN / 2u) + index % (WN / 2u);
    var down = 1.0;
//: for i in 0..SCALED
    down = scale[1];
//: end
    for (var q = index; q < 4u * S * S; q += 4u * SG) {
        sums[q] = 0.0;
    }
    workgroupBarrier();
    let top = subgroup / 2u * WM;
    let left = subgroup % 2u * WN;
    let zero = coopLoadT<Sums>(&sums[0], S);
//: for i in 0..WM / S
//: for j in 0..WN / S
//: for b in 0..PLANES
    var a{i}_{j}_{b} = zero;
//: end
//: end
//: end
    for (var s = 0u; s <= steps; s++) {
//: for b in 0..PLANES
//: for j in 0..XLOADS
        var u{j}_{b} = vec4<f16>();
//: end
//: for j in 0..WLOADS
        var v{j}_{b} = vec4<f16>();
//: end
//: end
        if (s < steps) {
            if (c >= p.ci4) { // a new tap
                let tap = next4 / p.ci4;
                c = next4 - tap * p.ci4;
                let row = tap / taps_x;
                let ky = ky0 + (row << p.shift);
                let kx = kx0 + ((tap - row * taps_x) << p.shift);
                back = (p.kernel * p.kernel - 1u - min(ky * p.kernel + kx, p.kernel * p.kernel - 1u)) * p.co4 * 4u;
//: for j in 0..XLOADS
                let ty{j} = sy{j} + i32(ky);
                let tx{j} = sx{j} + i32(kx);
                let iy{j} = u32(ty{j}) >> p.shift;
                let ix{j} = u32(tx{j}) >> p.shift;
                in{j} = ty{j} >= 0 && tx{j} >= 0 && iy{j} < p.ih && ix{j} < p.iw;
                at{j} = ((o{j}.x * p.ih + iy{j}) * p.iw + ix{j}) * p.ci4;
//: end
            }
            if (next4 < end4) {
//: for j in 0..XLOADS
                if (in{j}) {
//: for b in 0..PLANES
                    u{j}_{b} = x[{b}u * plane(arrayLength(&x)) + at{j} + c];
//: end
                }
//: end
//: for t in 0..TURNED
//: for j in 0..WLOADS
                let n{j} = g.y * 2u * WN + line + {j}u * (SG / 2u);
                if (n{j} < p.co4 * 4u) {
//: for b in 0..PLANES
                    v{j}_{b} = w[{b}u * plane(arrayLength(&w)) + (back + n{j}) * p.ci4 + c];
//: end
                }
//: end
//: end
            }
//: for t in TURNED..1
//: for j in 0..WLOADS
            let k{j} = s * 32u + index / (WN / 2u) + {j}u * (8u * SG / WN);
            if (k{j} < 4u * end4 && c4 < p.co4) {
//: for b in 0..PLANES
                v{j}_{b} = w[{b}u * plane(arrayLength(&w)) + k{j} * p.co4 + c4];
//: end
            }
//: end
//: end
            next4 += 8u;
            c += 8u;
        }
        if (s > 0u && subgroup < 4u) {
            let full = (s - 1u) % BUFFERS * PLANES;
//: for k in 0..32 / S
//: for b in 0..PLANES
//: for i in 0..WM / S
            let x{k}_{i}_{b} = coopLoadT<Left>(&xs[((full + {b}u) * XTILE + (top + {i}u * S) * KS + {k}u * S) / VEC], KS / VEC);
//: end
//: for t in 0..TURNED
//: for j in 0..WN / S
            let w{k}_{j}_{b} = coopLoad<Right>(&ws[((full + {b}u) * WTILE + (left + {j}u * S) * KS + {k}u * S) / VEC], KS / VEC);
//: end
//: end
//: for t in TURNED..1
//: for j in 0..WN / S
            let w{k}_{j}_{b} = coopLoadT<Right>(&ws[((full + {b}u) * WTILE + {k}u * S * WS + left + {j}u * S) / VEC], WS / VEC);
//: end
//: end
//: end
//: include matrix_products
//: end
        }
        if (BUFFERS == 1u) {
            workgroupBarrier();
        }
        if (s < steps) {
            let free = s % BUFFERS * PLANES;
//: for b in 0..PLANES
//: for j in 0..XLOADS
            put_x((free + {b}u) * XTILE + (line + {j}u * (SG / 2u)) * KS + part * 4u, u{j}_{b});
//: end
//: for j in 0..WLOADS
            if (TURNED == 1u) {
                put_w((free + {b}u) * WTILE + (line + {j}u * (SG / 2u)) * KS + part * 4u, v{j}_{b});
            } else {
                put_w((free + {b}u) * WTILE + (index / (WN / 2u) + {j}u * (8u * SG / WN)) * WS + index % (WN / 2u) * 4u, v{j}_{b});
            }
//: end
//: end
        }
        workgroupBarrier();
    }
//: for b in 1..PLANES
//: for i in 0..WM / S
//: for j in 0..WN / S
    a{i}_{j}_0 = a{i}_{j}_0 + a{i}_{j}_1 * (1.0 / LOW);
//: end
//: end
//: end
    // A whole tile that leaves as it is needs no addresses of its values. (naga 30 wants names for what a store is given.)
    let width = p.co4;
//: for v in 0..STRAIGHT
    if (p.shift == 0u && tile + 2u * WM <= count && (g.y + 1u) * (WN / 2u) <= p.co4) {
        if (subgroup < 4u) {
            let corner = (tile + top) * p.co4 + g.y * (WN / 2u) + left / 4u;
//: for i in 0..WM / S
//: for j in 0..WN / S
            let at{i}_{j} = corner + {i}u * S * width + {j}u * (S / 4u);
            let left{i}_{j} = a{i}_{j}_0 * down;
            coopStoreT(left{i}_{j}, &y[at{i}_{j}], width);
//: end
//: end
        }
        return;
    }
//: end
    // Else a matrix of each subgroup at a time: through memory, where its rows may end and its values have addresses.
//: for i in 0..WM / S
//: for j in 0..WN / S
    if (subgroup < 4u) {
        coopStoreT(a{i}_{j}_0, &sums[subgroup * S * S], S);
    }
    workgroupBarrier();
    for (var q = index; q < S * S; q += 4u * SG) {
        let at = place(q);
        let m = tile + at.x / 2u * WM + {i}u * S + at.y;
        let to4 = g.y * (WN / 2u) + (at.x % 2u * WN + {j}u * S) / 4u + at.z;
        if (m < count && to4 < p.co4) {
            var to = m;
            if (p.shift > 0u) { // else there is one class, whose pixels are numbered as y's are
                let o = output_pixel(m, g.z, ch, cw);
                to = (o.x * p.oh + o.y) * p.ow + o.z;
            }
            let value = vec4f(sums[4u * q], sums[4u * q + 1u], sums[4u * q + 2u], sums[4u * q + 3u]);
            let end = to * p.co4 + to4;
            let left = ended(down * value, end, to4);
//: for f in 0..F32
            y[end] = left;
//: end
//: for h in 0..HALF
            put_half(end, left);
//: end
        }
    }
    workgroupBarrier();
//: end
//: end
}

@compute @workgroup_size(4u * SG)
fn weight_gradient(
    @builtin(workgroup_id) g: vec3u,
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let rows = p.kernel * p.kernel * p.ci4;
    let tile4 = g.x * (WM / 2u);
    let c4 = g.y * (WN / 2u) + index % (WN / 2u);
    // The slice's pixels: gy holds them one after the other.
    let start = g.z * p.rows_a_slice * p.ow;
    let end = min((g.z + 1u) * p.rows_a_slice, p.n * p.oh) * p.ow;
    let steps = (max(end, start) - start + 31u) / 32u;
    // Neighbours load neighbouring rows of one pixel; an invocation keeps to its row.
    let r = min(tile4 + index % (WM / 2u), rows - 1u);
    let tap = r / p.ci4;
    let c_in = r - tap * p.ci4;
    let ky = tap / p.kernel;
    let dy = i32(ky) - i32(p.off);
    let dx = i32(tap - ky * p.kernel) - i32(p.off);
    // Pixel j of this invocation: its number in the step, and its image, row and column in gy.
//: for j in 0..XLOADS
    let k{j} = index / (WM / 2u) + {j}u * (8u * SG / WM);
    let t{j} = (start + k{j}) / p.ow;
    var n{j} = t{j} / p.oh;
    var oy{j} = t{j} - n{j} * p.oh;
    var ox{j} = start + k{j} - t{j} * p.ow;
//: end
    // A step's 32 pixels as images, rows and columns: adding these with carries takes no division.
    let step_x = 32u % p.ow;
    let step_y = 32u / p.ow % p.oh;
    let step_n = 32u / p.ow / p.oh;
    var down = 1.0;
//: for i in 0..SCALED
    down = scale[1];
//: end
    for (var q = index; q < 4u * S * S; q += 4u * SG) {
        sums[q] = 0.0;
    }
    workgroupBarrier();
    let top = subgroup / 2u * WM;
    let left = subgroup % 2u * WN;
    let zero = coopLoadT<Sums>(&sums[0], S);
//: for i in 0..WM / S
//: for j in 0..WN / S
//: for b in 0..PLANES
    var a{i}_{j}_{b} = zero;
//: end
//: end
//: end
    for (var s = 0u; s <= steps; s++) {
//: for b in 0..PLANES
//: for j in 0..XLOADS
        var u{j}_{b} = vec4<f16>();
//: end
//: for j in 0..WLOADS
        var v{j}_{b} = vec4<f16>();
//: end
//: end
        if (s < steps) {
            let first = start + s * 32u;
//: for j in 0..XLOADS
            let iy{j} = i32(oy{j} * p.mul) + dy;
            let ix{j} = i32(ox{j} * p.mul) + dx;
            if (first + k{j} < end && iy{j} >= 0 && iy{j} < i32(p.ih) && ix{j} >= 0 && ix{j} < i32(p.iw)) {
                let at{j} = ((n{j} * p.ih + u32(iy{j})) * p.iw + u32(ix{j})) * p.ci4 + c_in;
//: for b in 0..PLANES
                u{j}_{b} = x[{b}u * plane(arrayLength(&x)) + at{j}];
//: end
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
//: for j in 0..WLOADS
            let from{j} = first + index / (WN / 2u) + {j}u * (8u * SG / WN);
            if (from{j} < end && c4 < p.co4) {
//: for b in 0..PLANES
                v{j}_{b} = gy[{b}u * plane(arrayLength(&gy)) + from{j} * p.co4 + c4];
//: end
            }
//: end
        }
        if (s > 0u && subgroup < 4u) {
            let full = (s - 1u) % BUFFERS * PLANES;
//: for k in 0..32 / S
//: for b in 0..PLANES
//: for i in 0..WM / S
            let x{k}_{i}_{b} = coopLoad<Left>(&xs[((full + {b}u) * XTILE + {k}u * S * TS + top + {i}u * S) / VEC], TS / VEC);
//: end
//: for j in 0..WN / S
            let w{k}_{j}_{b} = coopLoadT<Right>(&ws[((full + {b}u) * WTILE + {k}u * S * WS + left + {j}u * S) / VEC], WS / VEC);
//: end
//: end
//: include matrix_products
//: end
        }
        if (BUFFERS == 1u) {
            workgroupBarrier();
        }
        if (s < steps) {
            let free = s % BUFFERS * PLANES;
//: for b in 0..PLANES
//: for j in 0..XLOADS
            put_x((free + {b}u) * XTILE + k{j} * TS + index % (WM / 2u) * 4u, u{j}_{b});
//: end
//: for j in 0..WLOADS
            put_w((free + {b}u) * WTILE + (index / (WN / 2u) + {j}u * (8u * SG / WN)) * WS + index % (WN / 2u) * 4u, v{j}_{b});
//: end
//: end
        }
        workgroupBarrier();
    }
//: for b in 1..PLANES
//: for i in 0..WM / S
//: for j in 0..WN / S
    a{i}_{j}_0 = a{i}_{j}_0 + a{i}_{j}_1 * (1.0 / LOW);
//: end
//: end
//: end
    let width = p.co4;
//: for v in 0..STRAIGHT
    if ((tile4 + WM / 2u) <= rows && (g.y + 1u) * (WN / 2u) <= p.co4) {
        if (subgroup < 4u) {
            let corner = (g.z * 4u * rows + tile4 * 4u + top) * p.co4 + g.y * (WN / 2u) + left / 4u;
//: for i in 0..WM / S
//: for j in 0..WN / S
            let at{i}_{j} = corner + {i}u * S * width + {j}u * (S / 4u);
            let left{i}_{j} = a{i}_{j}_0 * down;
            coopStoreT(left{i}_{j}, &slices[at{i}_{j}], width);
//: end
//: end
        }
        return;
    }
//: end
//: for i in 0..WM / S
//: for j in 0..WN / S
    if (subgroup < 4u) {
        coopStoreT(a{i}_{j}_0, &sums[subgroup * S * S], S);
    }
    workgroupBarrier();
    for (var q = index; q < S * S; q += 4u * SG) {
        let at = place(q);
        let row = tile4 * 4u + at.x / 2u * WM + {i}u * S + at.y;
        let to4 = g.y * (WN / 2u) + (at.x % 2u * WN + {j}u * S) / 4u + at.z;
        if (row < 4u * rows && to4 < p.co4) {
            let value = vec4f(sums[4u * q], sums[4u * q + 1u], sums[4u * q + 2u], sums[4u * q + 3u]);
            slices[(g.z * 4u * rows + row) * p.co4 + to4] = down * value;
        }
    }
    workgroupBarrier();
//: end
//: end
}
