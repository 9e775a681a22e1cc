// 2-D convolution as implicit GEMM, staging "cooperative-matrix": the multiply-adds of workgroup-tile on matrix units. f32 operands
// become f16 on their way into workgroup memory, subgroups load S x S matrices there, products are added up in f32. Needs
// cooperative matrices of f16 with f32 sums, f16 and subgroup operations (Vulkan, Metal); for `--precision mixed` only.
// Formulas, shapes and parameters: conv2d_shuffle.wgsl.
//
// A workgroup is 4 SG invocations: 4 subgroups where each has SG lanes, the most it can have; where they have fewer, the subgroups
// past the fourth only load and store. Its output tile is 64 rows x 2 HALF channels; a subgroup owns a quarter, 32 x HALF, as
// matrices that stay in registers for all of K, whose steps are 32 long. While one step is multiplied, the next one's values are on
// their way from global memory to registers. An operand may be stored with K along rows or along columns: matrices load either.
// gather: rows are the pixels of one residue class; K is (tap, ci) without gaps, so that 4 channels fill a step as well as 64 do.
// Grid: pixels / 64, channels / (2 HALF), div^2 classes.
// weight_gradient: rows are (tap, ci); K is the pixels of one slice's image rows. Grid: rows / 64, channels / (2 HALF), slices.
//
// f16 holds 6e-8 .. 65504, and full precision from 6e-5 on. Weights and activations lie within; gradients lie below. Where SCALED,
// the upstream gradient is multiplied by scale[0], a power of two that brings its largest value to 2^14 .. 2^15 (scale.wgsl), and
// the sums by scale[1] = 1 / scale[0]: both exact, nothing overflows, and what is lost is 2^-29 of the largest value and less.
enable f16;
enable wgpu_cooperative_matrix;
// naga wants matrix operations in uniform control flow and counts nothing that depends on a variable as such; all of it here does
// so uniformly: on the step, or on the subgroup.
diagnostic(off, derivative_uniformity);
const S = 16u; // side of the matrices
const SG = 32u;
const HALF = 32u;
const LOADS = 4u; // vec4 of w or gy that an invocation loads a step: 4 HALF / SG
const SCALED = 0u;

//: include extents
//: include conv2d
@group(0) @binding(8) var<storage, read> scale: array<f32>;

//: for s in S..S + 1
alias Left = coop_mat{s}x{s}<f16, A>;
alias Right = coop_mat{s}x{s}<f16, B>;
alias Sums = coop_mat{s}x{s}<f32, C>;
//: end

// Rows end with 8 unused values: neighbours lie in other banks, and each row at a multiple of 16 bytes.
const XS = 40u; // gather: pixels x 32
const TS = 72u; // weight_gradient: 32 x rows
const WS = 2u * HALF + 8u;
var<workgroup> xs: array<f16, 64u * 40u>;
var<workgroup> ts: array<f16, 32u * 72u>;
var<workgroup> ws: array<f16, 32u * WS>;
// A matrix of sums for each of the four subgroups, on its way out. Zeros at first: no two languages agree on what a matrix holds
// that nothing was assigned to.
var<workgroup> sums: array<f32, 4u * S * S>;

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
    let tile = g.x * 64u;
    let ky0 = (p.off - py) & (div - 1u);
    let kx0 = (p.off - px) & (div - 1u);
    let taps_y = (max(p.kernel, ky0) - ky0 + div - 1u) >> p.shift;
    let taps_x = (max(p.kernel, kx0) - kx0 + div - 1u) >> p.shift;
    let end4 = taps_y * taps_x * p.ci4;
    let steps = (end4 + 7u) / 8u;
    // Neighbours load the 8 vec4 of a step of one pixel, then the next pixel's. Pixel j of this invocation: image, and the input
    // position of tap (0, 0) times div.
    let part = index % 8u;
//: for j in 0..128 / SG
    let row{j} = index / 8u + {j}u * (SG / 2u);
    let o{j} = output_pixel(tile + row{j}, g.z, ch, cw);
    let sy{j} = i32(o{j}.y * p.mul) - i32(p.off);
    let sx{j} = select(-1048576, i32(o{j}.z * p.mul) - i32(p.off), tile + row{j} < count);
//: end
    let c4 = g.y * (HALF / 2u) + index % (HALF / 2u);
    var up = 1.0;
    var down = 1.0;
//: for i in 0..SCALED
    up = scale[0];
    down = scale[1];
//: end
    for (var q = index; q < 4u * S * S; q += 4u * SG) {
        sums[q] = 0.0;
    }
    workgroupBarrier();
    let top = subgroup / 2u * 32u;
    let left = subgroup % 2u * HALF;
//: for i in 0..32 / S
//: for j in 0..HALF / S
    var a{i}_{j} = coopLoadT<Sums>(&sums[0], S);
//: end
//: end
    for (var s = 0u; s <= steps; s++) {
//: for j in 0..128 / SG
        var u{j} = vec4h();
//: end
//: for j in 0..LOADS
        var v{j} = vec4h();
//: end
        if (s < steps) {
            let at4 = s * 8u + part;
            let tap = at4 / p.ci4;
            let c = at4 - tap * p.ci4;
            let row = tap / taps_x;
            let ky = ky0 + (row << p.shift);
            let kx = kx0 + ((tap - row * taps_x) << p.shift);
//: for j in 0..128 / SG
            let ty{j} = sy{j} + i32(ky);
            let tx{j} = sx{j} + i32(kx);
            let iy{j} = u32(ty{j}) >> p.shift;
            let ix{j} = u32(tx{j}) >> p.shift;
            if (at4 < end4 && ty{j} >= 0 && tx{j} >= 0 && iy{j} < p.ih && ix{j} < p.iw) {
                u{j} = vec4h(up * x[((o{j}.x * p.ih + iy{j}) * p.iw + ix{j}) * p.ci4 + c]);
            }
//: end
//: for j in 0..LOADS
            let k{j} = s * 32u + index / (HALF / 2u) + {j}u * (8u * SG / HALF);
            if (k{j} < 4u * end4 && c4 < p.co4) {
                var from{j} = k{j};
                if (p.shift > 0u) { // else all taps are used, and w's rows are K
                    let tap{j} = k{j} / (4u * p.ci4);
                    let down{j} = tap{j} / taps_x;
                    let right{j} = tap{j} - down{j} * taps_x;
                    let used{j} = (ky0 + (down{j} << p.shift)) * p.kernel + kx0 + (right{j} << p.shift);
                    from{j} += (used{j} - tap{j}) * 4u * p.ci4;
                }
                v{j} = vec4h(w[from{j} * p.co4 + c4]);
            }
//: end
        }
        if (s > 0u && subgroup < 4u) {
//: for k in 0..32 / S
//: for i in 0..32 / S
            let x{k}_{i} = coopLoadT<Left>(&xs[(top + {i}u * S) * XS + {k}u * S], XS);
//: end
//: for j in 0..HALF / S
            let w{k}_{j} = coopLoadT<Right>(&ws[{k}u * S * WS + left + {j}u * S], WS);
//: end
//: for i in 0..32 / S
//: for j in 0..HALF / S
            a{i}_{j} = coopMultiplyAdd(x{k}_{i}, w{k}_{j}, a{i}_{j});
//: end
//: end
//: end
        }
        workgroupBarrier();
        if (s < steps) {
//: for j in 0..128 / SG
//: for q in 0..4
            xs[row{j} * XS + part * 4u + {q}u] = u{j}[{q}];
//: end
//: end
//: for j in 0..LOADS
//: for q in 0..4
            ws[(index / (HALF / 2u) + {j}u * (8u * SG / HALF)) * WS + index % (HALF / 2u) * 4u + {q}u] = v{j}[{q}];
//: end
//: end
        }
        workgroupBarrier();
    }
    // A matrix of each subgroup at a time: through memory, where its rows may end and its values have addresses.
//: for i in 0..32 / S
//: for j in 0..HALF / S
    if (subgroup < 4u) {
        coopStoreT(a{i}_{j}, &sums[subgroup * S * S], S);
    }
    workgroupBarrier();
    for (var q = index; q < S * S; q += 4u * SG) {
        let owner = q / (S * S / 4u);
        let m = tile + owner / 2u * 32u + {i}u * S + q % (S * S / 4u) / (S / 4u);
        let to4 = g.y * (HALF / 2u) + (owner % 2u * HALF + {j}u * S) / 4u + q % (S / 4u);
        if (m < count && to4 < p.co4) {
            let o = output_pixel(m, g.z, ch, cw);
            let value = vec4f(sums[4u * q], sums[4u * q + 1u], sums[4u * q + 2u], sums[4u * q + 3u]);
            let at = ((o.x * p.oh + o.y) * p.ow + o.z) * p.co4 + to4;
            y[at] = ended(down * value, at, to4);
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
    let tile4 = g.x * 16u;
    let c4 = g.y * (HALF / 2u) + index % (HALF / 2u);
    // The slice's pixels: gy holds them one after the other.
    let start = g.z * p.rows_a_slice * p.ow;
    let end = min((g.z + 1u) * p.rows_a_slice, p.n * p.oh) * p.ow;
    let steps = (max(end, start) - start + 31u) / 32u;
    // Neighbours load neighbouring rows of one pixel; an invocation keeps to its row.
    let r = min(tile4 + index % 16u, rows - 1u);
    let tap = r / p.ci4;
    let c_in = r - tap * p.ci4;
    let ky = tap / p.kernel;
    let dy = i32(ky) - i32(p.off);
    let dx = i32(tap - ky * p.kernel) - i32(p.off);
    // Pixel j of this invocation: its number in the step, and its image, row and column in gy.
//: for j in 0..128 / SG
    let k{j} = index / 16u + {j}u * (SG / 4u);
    let t{j} = (start + k{j}) / p.ow;
    var n{j} = t{j} / p.oh;
    var oy{j} = t{j} - n{j} * p.oh;
    var ox{j} = start + k{j} - t{j} * p.ow;
//: end
    // A step's 32 pixels as images, rows and columns: adding these with carries takes no division.
    let step_x = 32u % p.ow;
    let step_y = 32u / p.ow % p.oh;
    let step_n = 32u / p.ow / p.oh;
    let up = scale[0];
    let down = scale[1];
    for (var q = index; q < 4u * S * S; q += 4u * SG) {
        sums[q] = 0.0;
    }
    workgroupBarrier();
    let top = subgroup / 2u * 32u;
    let left = subgroup % 2u * HALF;
//: for i in 0..32 / S
//: for j in 0..HALF / S
    var a{i}_{j} = coopLoadT<Sums>(&sums[0], S);
//: end
//: end
    for (var s = 0u; s <= steps; s++) {
//: for j in 0..128 / SG
        var u{j} = vec4h();
//: end
//: for j in 0..LOADS
        var v{j} = vec4h();
//: end
        if (s < steps) {
            let first = start + s * 32u;
//: for j in 0..128 / SG
            let iy{j} = i32(oy{j} * p.mul) + dy;
            let ix{j} = i32(ox{j} * p.mul) + dx;
            if (first + k{j} < end && iy{j} >= 0 && iy{j} < i32(p.ih) && ix{j} >= 0 && ix{j} < i32(p.iw)) {
                u{j} = vec4h(x[((n{j} * p.ih + u32(iy{j})) * p.iw + u32(ix{j})) * p.ci4 + c_in]);
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
//: for j in 0..LOADS
            let from{j} = first + index / (HALF / 2u) + {j}u * (8u * SG / HALF);
            if (from{j} < end && c4 < p.co4) {
                v{j} = vec4h(up * gy[from{j} * p.co4 + c4]);
            }
//: end
        }
        if (s > 0u && subgroup < 4u) {
//: for k in 0..32 / S
//: for i in 0..32 / S
            let x{k}_{i} = coopLoad<Left>(&ts[{k}u * S * TS + top + {i}u * S], TS);
//: end
//: for j in 0..HALF / S
            let w{k}_{j} = coopLoadT<Right>(&ws[{k}u * S * WS + left + {j}u * S], WS);
//: end
//: for i in 0..32 / S
//: for j in 0..HALF / S
            a{i}_{j} = coopMultiplyAdd(x{k}_{i}, w{k}_{j}, a{i}_{j});
//: end
//: end
//: end
        }
        workgroupBarrier();
        if (s < steps) {
//: for j in 0..128 / SG
//: for q in 0..4
            ts[k{j} * TS + index % 16u * 4u + {q}u] = u{j}[{q}];
//: end
//: end
//: for j in 0..LOADS
//: for q in 0..4
            ws[(index / (HALF / 2u) + {j}u * (8u * SG / HALF)) * WS + index % (HALF / 2u) * 4u + {q}u] = v{j}[{q}];
//: end
//: end
        }
        workgroupBarrier();
    }
//: for i in 0..32 / S
//: for j in 0..HALF / S
    if (subgroup < 4u) {
        coopStoreT(a{i}_{j}, &sums[subgroup * S * S], S);
    }
    workgroupBarrier();
    for (var q = index; q < S * S; q += 4u * SG) {
        let owner = q / (S * S / 4u);
        let row = tile4 * 4u + owner / 2u * 32u + {i}u * S + q % (S * S / 4u) / (S / 4u);
        let to4 = g.y * (HALF / 2u) + (owner % 2u * HALF + {j}u * S) / 4u + q % (S / 4u);
        if (row < 4u * rows && to4 < p.co4) {
            let value = vec4f(sums[4u * q], sums[4u * q + 1u], sums[4u * q + 2u], sums[4u * q + 3u]);
            slices[(g.z * 4u * rows + row) * p.co4 + to4] = down * value;
        }
    }
    workgroupBarrier();
//: end
//: end
}
