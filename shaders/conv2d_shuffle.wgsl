// 2-D convolution as implicit GEMM, staging "subgroup-shuffle": each lane of a subgroup loads *other* rows of an operand and
// hands them round with shuffles, so that a value is loaded once a subgroup. For drivers where a load costs as much as dozens
// of multiply-adds (lavapipe). Wants subgroups of exactly SG lanes, all of them full, and 64-bit integers.
//
// gather:           y[n, oy, ox, co] = sum over ky, kx, ci of x[n, iy, ix, ci] w[ky, kx, ci, co],
//                   div = 2^shift, iy = (oy mul + ky - off) / div where that is whole and inside the image, likewise ix.
//                   Forward: mul = stride, div = 1, off = pad. Input gradient: x is the upstream gradient, mul = 1, div = stride,
//                   off = kernel - 1 - pad; TURNED = 1: w flipped and transposed, `turned` [kernel, kernel, 4 co4, 4 ci4].
// weight_gradient:  slices[s, ky, kx, ci, co] = sum over the image rows (n, oy) of slice s and over ox of
//                   x[n, oy stride + ky - pad, ox stride + kx - pad, ci] gy[n, oy, ox, co]; reduce.sum_slices adds the slices.
//
// x [n, ih, iw, 4 ci4], y and gy [n, oh, ow, 4 co4], w [kernel, kernel, 4 ci4, 4 co4], all f32; x is bound as XW channels a load, 4 or
// 8, the others as YW, in u64 (common/quads says why). They divide the channels.
//
// A subgroup's lanes form SG / CL groups of CL lanes. gather: a group owns MT pixels x YW CL channels, a lane the MT pixels of its own
// YW channels; it loads every CL-th of those pixels for the group. A workgroup is 4 subgroups on consecutive pixels; grid:
// pixels / (4 MT SG / CL), channels / (YW CL), div^2 residue classes (within a class all pixels use the same taps).
// weight_gradient: a group owns XW CL rows (tap, ci) x YW CL channels of one slice; a workgroup is 4 subgroups on consecutive
// rows; grid: rows, channels, slices / (SG / CL).
//
// Loops are as long as an instruction cache is wide: with twice the multiply-adds a pass, or twice the pixels, they are slower.
const SG = 8u;
const CL = 8u;
const MT = 32u;
const XW = 4u;
const YW = 4u;
const TURNED = 0u;

//: include extents
//: include quads
//: include points
//: include epilogue
@group(0) @binding(1) var<storage, read> x: array<vec{XW / 2}<u64>>;
@group(0) @binding(2) var<storage, read> w: array<vec{YW / 2}<u64>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec{YW / 2}<u64>>;
@group(0) @binding(4) var<storage, read> gy: array<vec{YW / 2}<u64>>;
@group(0) @binding(6) var<storage, read> turned: array<vec{XW / 2}<u64>>;
@group(0) @binding(5) var<storage, read_write> slices: array<vec{YW / 2}<u64>>;
@group(0) @binding(7) var<storage, read> affine: array<vec4f>;
@group(0) @binding(8) var<storage, read> residual: array<vec{YW / 2}<u64>>;

@compute @workgroup_size(SG, 4)
fn gather(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_id) l: vec3u) {
    let lane = l.x % CL;
    let first = (l.x / CL) * CL * u32(SG != CL); // lane 0 of this group; a constant 0 where the group is the subgroup
    let ci = p.ci4 * 4u / XW;
    let co = p.co4 * 4u / YW;
    let div = 1u << p.shift;
    let py = g.z >> p.shift;
    let px = g.z & (div - 1u);
    let ch = (p.oh - py + div - 1u) >> p.shift;
    let cw = (p.ow - px + div - 1u) >> p.shift;
    let count = p.n * ch * cw;
    let mine = ((g.x * 4u + l.y) * (SG / CL) + l.x / CL) * MT + lane;
    let out = g.y * CL + lane;
    let column = min(out, co - 1u);
    // Pixel j of this lane: image, input position of tap (0, 0) times div, output address.
//: for j in 0..MT / CL
    let m{j} = mine + {j}u * CL;
    let n{j} = m{j} / (ch * cw);
    let r{j} = m{j} - n{j} * (ch * cw);
    let v{j} = r{j} / cw;
    let oy{j} = (v{j} << p.shift) + py;
    let ox{j} = ((r{j} - v{j} * cw) << p.shift) + px;
    let o{j} = select(0xffffffffu, ((n{j} * p.oh + oy{j}) * p.ow + ox{j}) * co, m{j} < count);
    let sy{j} = i32(oy{j} * p.mul) - i32(p.off);
    let sx{j} = select(-1048576, i32(ox{j} * p.mul) - i32(p.off), m{j} < count);
    let base{j} = n{j} * p.ih;
//: end
//: for i in 0..MT
//: for k in 0..YW / 4
    var a{i}_{k} = vec4f();
//: end
//: end
    for (var ky = (p.off - py) & (div - 1u); ky < p.kernel; ky += div) {
        for (var kx = (p.off - px) & (div - 1u); kx < p.kernel; kx += div) {
//: for j in 0..MT / CL
            let ty{j} = sy{j} + i32(ky);
            let tx{j} = sx{j} + i32(kx);
            let iy{j} = u32(ty{j}) >> p.shift;
            let ix{j} = u32(tx{j}) >> p.shift;
            let in{j} = ty{j} >= 0 && tx{j} >= 0 && iy{j} < p.ih && ix{j} < p.iw;
            let at{j} = select(0u, ((base{j} + iy{j}) * p.iw + ix{j}) * ci, in{j});
//: end
            let tap = ky * p.kernel + kx;
            var row = tap * p.ci4 * 4u * co + column;
            let back = ((p.kernel * p.kernel - 1u - tap) * co + column) * YW * ci;
            for (var c = 0u; c < ci; c++) {
//: for j in 0..MT / CL
                let x{j} = x[at{j} + c];
//: for h in 0..XW / 4
                let x{j}_{h} = select(vec4f(), quad(x{j}[{h * 2}], x{j}[{h * 2 + 1}]), in{j});
//: end
//: end
                // One of the two is not used, and so not loaded.
//: for r in 0..XW
                let w{r} = w[row + {r}u * co];
//: end
//: for r in 0..YW
                let t{r} = turned[back + {r}u * ci + c];
//: for h in 0..XW / 4
                let t{r}_{h} = quad(t{r}[{h * 2}], t{r}[{h * 2 + 1}]);
//: end
//: end
//: for r in 0..XW
//: for k in 0..YW / 4
                let b{r}_{k} = select(quad(w{r}[{k * 2}], w{r}[{k * 2 + 1}]), vec4f(
                    t{k * 4}_{r / 4}[{r % 4}], t{k * 4 + 1}_{r / 4}[{r % 4}], t{k * 4 + 2}_{r / 4}[{r % 4}], t{k * 4 + 3}_{r / 4}[{r % 4}]),
                    TURNED == 1u);
//: end
//: end
//: for i in 0..MT
//: for r in 0..XW
                let s{i}_{r} = subgroupShuffle(x{i / CL}_{r / 4}[{r % 4}], first + {i % CL}u);
//: end
//: for k in 0..YW / 4
                a{i}_{k} = a{i}_{k}
//: for r in 0..XW
                    + s{i}_{r} * b{r}_{k}
//: end
                ;
//: end
//: end
                row += XW * co;
            }
        }
    }
//: for k in 0..YW / 4 * AFFINE
    let scale{k} = affine[2u * (column * (YW / 4u) + {k}u)];
    let shift{k} = affine[2u * (column * (YW / 4u) + {k}u) + 1u];
//: end
//: for i in 0..MT
    let q{i} = subgroupShuffle(o{i / CL}, first + {i % CL}u);
    if (q{i} != 0xffffffffu && out < co) {
//: for k in 0..YW / 4 * AFFINE
        a{i}_{k} = a{i}_{k} * scale{k} + shift{k};
//: end
//: for e in 0..RESIDUAL
        let more = residual[q{i} + out];
//: for k in 0..YW / 4
        a{i}_{k} += quad(more[{k * 2}], more[{k * 2 + 1}]);
//: end
//: end
//: for k in 0..YW / 4 * RELU
        a{i}_{k} = rectified(a{i}_{k});
//: end
        y[q{i} + out] = vec{YW / 2}<u64>(
//: for k in 0..YW / 4
            pair(a{i}_{k}.xy), pair(a{i}_{k}.zw),
//: end
        );
    }
//: end
}

// product: y[b, m, co] = sum over ci of x[b, m, ci] w[b, ci, co], b = g.z: Winograd's (winograd.wgsl). x [B, n, 4 ci4], w [B, 4 ci4,
// 4 co4] or, with TURNED = 1, transposed, `turned` [B, 4 co4, 4 ci4], y [B, n, 4 co4], each b `pitch` after the last; tiles as in gather.
@compute @workgroup_size(SG, 4)
fn product(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_id) l: vec3u) {
    let lane = l.x % CL;
    let first = (l.x / CL) * CL * u32(SG != CL);
    let ci = p.ci4 * 4u / XW;
    let co = p.co4 * 4u / YW;
    let tile = ((g.x * 4u + l.y) * (SG / CL) + l.x / CL) * MT;
    if ((g.x * 4u + l.y) * (SG / CL) * MT >= p.n) { // the whole subgroup
        return;
    }
    let out = g.y * CL + lane;
    let column = min(out, co - 1u);
//: for j in 0..MT / CL
    let at{j} = g.z * pitch(p.n, p.ci4) * 4u / XW + min(tile + {j}u * CL + lane, p.n - 1u) * ci;
//: end
//: for i in 0..MT
//: for k in 0..YW / 4
    var a{i}_{k} = vec4f();
//: end
//: end
    let wb = g.z * pitch(p.ci4 * 4u, p.co4) * 4u / YW + column;
    let tb = g.z * pitch(p.ci4 * 4u, p.co4) * 4u / XW + column * YW * ci;
    for (var c = 0u; c < ci; c++) {
//: for j in 0..MT / CL
        let x{j} = x[at{j} + c];
//: for h in 0..XW / 4
        let x{j}_{h} = quad(x{j}[{h * 2}], x{j}[{h * 2 + 1}]);
//: end
//: end
        // One of the two is not used, and so not loaded.
//: for r in 0..XW
        let w{r} = w[wb + (c * XW + {r}u) * co];
//: end
//: for r in 0..YW
        let t{r} = turned[tb + {r}u * ci + c];
//: for h in 0..XW / 4
        let t{r}_{h} = quad(t{r}[{h * 2}], t{r}[{h * 2 + 1}]);
//: end
//: end
//: for r in 0..XW
//: for k in 0..YW / 4
        let b{r}_{k} = select(quad(w{r}[{k * 2}], w{r}[{k * 2 + 1}]), vec4f(
            t{k * 4}_{r / 4}[{r % 4}], t{k * 4 + 1}_{r / 4}[{r % 4}], t{k * 4 + 2}_{r / 4}[{r % 4}], t{k * 4 + 3}_{r / 4}[{r % 4}]),
            TURNED == 1u);
//: end
//: end
//: for i in 0..MT
//: for r in 0..XW
        let s{i}_{r} = subgroupShuffle(x{i / CL}_{r / 4}[{r % 4}], first + {i % CL}u);
//: end
//: for k in 0..YW / 4
        a{i}_{k} = a{i}_{k}
//: for r in 0..XW
            + s{i}_{r} * b{r}_{k}
//: end
        ;
//: end
//: end
    }
    let to = g.z * pitch(p.n, p.co4) * 4u / YW + out;
//: for i in 0..MT
    if (tile + {i}u < p.n && out < co) {
        y[to + (tile + {i}u) * co] = vec{YW / 2}<u64>(
//: for k in 0..YW / 4
            pair(a{i}_{k}.xy), pair(a{i}_{k}.zw),
//: end
        );
    }
//: end
}

// outer: slices[b, ci, co] = sum over m of x[b, m, ci] gy[b, m, co], b = g.z: Winograd's weight gradient; with add = 1 that is added to
// what slices holds. Channels in blocks: x [B, 4 ci4 / (XW CL), n, XW CL], gy [B, 4 co4 / (YW CL), n, YW CL], slices [B, 4 co4 / (YW CL),
// 4 ci4, YW CL], each b `pitch` after the last; a subgroup owns XW CL ci and YW CL co of one b. SG = CL, or 2 CL: then one half of the
// lanes takes the even m and the other the odd.
@compute @workgroup_size(SG, 4)
fn outer(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_id) l: vec3u) {
    let ci = p.ci4 * 4u / XW;
    let tile = (g.x * 4u + l.y) * CL;
    if (tile >= ci) { // the whole subgroup
        return;
    }
    let half = (l.x / CL) * u32(SG != CL); // a constant 0 where all lanes take the same m
    let lane = l.x - half * CL;
    let xb = g.z * pitch(p.n, p.ci4) * 4u / XW + tile * p.n + lane;
    let gb = g.z * pitch(p.n, p.co4) * 4u / YW + g.y * CL * p.n + lane;
    let to = g.z * pitch(p.ci4 * 4u, p.co4) * 4u / YW + (g.y * ci + tile) * XW * CL + lane;
//: for i in 0..CL * XW
//: for k in 0..YW / 4
    var a{i}_{k} = vec4f();
//: end
//: end
    if (p.add == 1u) {
//: for i in 0..CL * XW
        let before{i} = slices[to + {i * CL}u];
//: for k in 0..YW / 4
        a{i}_{k} = select(vec4f(), quad(before{i}[{k * 2}], before{i}[{k * 2 + 1}]), half == 0u);
//: end
//: end
    }
    for (var m = 0u; m < p.n; m += STEP * SG / CL) {
//: for q in 0..STEP
        let m{q} = m + {q * SG / CL}u + half;
        let at{q} = min(m{q}, p.n - 1u) * CL;
        let x{q} = x[xb + at{q}];
        let d{q} = gy[gb + at{q}];
//: for h in 0..XW / 4
        let x{q}_{h} = select(vec4f(), quad(x{q}[{h * 2}], x{q}[{h * 2 + 1}]), m{q} < p.n);
//: end
//: for k in 0..YW / 4
        let d{q}_{k} = quad(d{q}[{k * 2}], d{q}[{k * 2 + 1}]);
//: end
//: end
//: for i in 0..CL * XW
//: for q in 0..STEP
        let s{i}_{q} = subgroupShuffle(x{q}_{i % XW / 4}[{i % 4}], half * CL + {i / XW}u);
//: end
//: for k in 0..YW / 4
        a{i}_{k} = a{i}_{k}
//: for q in 0..STEP
            + s{i}_{q} * d{q}_{k}
//: end
        ;
//: end
//: end
    }
//: for e in 1..SG / CL
//: for i in 0..CL * XW
//: for k in 0..YW / 4
    a{i}_{k} += subgroupShuffle(a{i}_{k}, l.x ^ CL);
//: end
//: end
//: end
//: for i in 0..CL * XW
    if (half == 0u) {
        slices[to + {i * CL}u] = vec{YW / 2}<u64>(
//: for k in 0..YW / 4
            pair(a{i}_{k}.xy), pair(a{i}_{k}.zw),
//: end
        );
    }
//: end
}

// Pixels or tiles that a pass of the two weight gradients' loops takes.
const STEP = 4u;

@compute @workgroup_size(SG, 4)
fn weight_gradient(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_id) l: vec3u) {
    let lane = l.x % CL;
    let first = (l.x / CL) * CL * u32(SG != CL);
    let ci = p.ci4 * 4u / XW;
    let co = p.co4 * 4u / YW;
    let rows = p.kernel * p.kernel * ci;
    let tile = (g.x * 4u + l.y) * CL;
    if (tile >= rows) { // the whole subgroup
        return;
    }
    let slice = g.z * (SG / CL) + l.x / CL;
    let r = min(tile + lane, rows - 1u);
    let tap = r / ci;
    let c_in = r - tap * ci;
    let ky = tap / p.kernel;
    let kx = tap - ky * p.kernel;
    let out = g.y * CL + lane;
    let column = min(out, co - 1u);
    let dx = i32(kx) - i32(p.off);
    // Where all lanes have one tap, only the pixels that it reaches; lanes must agree on the pixel.
    let one_tap = ci % CL == 0u;
    let low = select(0u, (max(p.off, kx) - kx + p.mul - 1u) / p.mul, one_tap);
    let high = select(p.ow, min(p.ow, (u32(max(i32(p.iw) - dx, 0)) + p.mul - 1u) / p.mul), one_tap);
//: for i in 0..CL * XW
//: for k in 0..YW / 4
    var a{i}_{k} = vec4f();
//: end
//: end
    var t = slice * p.rows_a_slice; // an image row: (n, oy)
    var n = t / p.oh;
    var oy = t - n * p.oh;
    for (var s = 0u; s < p.rows_a_slice; s++) {
        let real = t < p.n * p.oh;
        let iy = i32(oy * p.mul + ky) - i32(p.off);
        let row_in = real && iy >= 0 && iy < i32(p.ih);
        let xb = select(0u, (n * p.ih + u32(iy)) * p.iw, row_in);
        let gb = select(0u, t * p.ow, real);
        let end = select(high, 0u, one_tap && !row_in);
        for (var ox = low; ox < end; ox += STEP) {
//: for q in 0..STEP
            let ok{q} = real && ox + {q}u < p.ow;
            let ix{q} = i32((ox + {q}u) * p.mul) + dx;
            let in{q} = row_in && ok{q} && ix{q} >= 0 && ix{q} < i32(p.iw);
            let d{q} = gy[select(0u, (gb + ox + {q}u) * co, ok{q}) + column];
            let x{q} = x[select(0u, (xb + u32(ix{q})) * ci, in{q}) + c_in];
//: for h in 0..XW / 4
            let x{q}_{h} = select(vec4f(), quad(x{q}[{h * 2}], x{q}[{h * 2 + 1}]), in{q});
//: end
//: for k in 0..YW / 4
            let d{q}_{k} = select(vec4f(), quad(d{q}[{k * 2}], d{q}[{k * 2 + 1}]), ok{q});
//: end
//: end
//: for i in 0..CL * XW
//: for q in 0..STEP
            let s{i}_{q} = subgroupShuffle(x{q}_{i % XW / 4}[{i % 4}], first + {i / XW}u);
//: end
//: for k in 0..YW / 4
            a{i}_{k} = a{i}_{k}
//: for q in 0..STEP
                + s{i}_{q} * d{q}_{k}
//: end
            ;
//: end
//: end
        }
        // The next row without a division, which lavapipe does lane by lane.
        t++;
        oy++;
        if (oy == p.oh) {
            oy = 0u;
            n++;
        }
    }
//: for i in 0..CL * XW
    if (tile + {i / XW}u < rows && out < co) {
        slices[((slice * rows + tile + {i / XW}u) * XW + {i % XW}u) * co + out] = vec{YW / 2}<u64>(
//: for k in 0..YW / 4
            pair(a{i}_{k}.xy), pair(a{i}_{k}.zw),
//: end
        );
    }
//: end
}
