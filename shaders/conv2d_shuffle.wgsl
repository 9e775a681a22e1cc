// 2-D convolution as implicit GEMM, staging "subgroup-shuffle": each lane of a subgroup loads *other* rows of an operand and
// hands them round with shuffles, so that a value is loaded once a subgroup. For drivers where a load costs as much as dozens
// of multiply-adds (lavapipe). Wants subgroups of exactly SG lanes, all of them full.
//
// gather:           y[n, oy, ox, co] = sum over ky, kx, ci of x[n, iy, ix, ci] w[ky, kx, ci, co],
//                   div = 2^shift, iy = (oy mul + ky - off) / div where that is whole and inside the image, likewise ix.
//                   Forward: mul = stride, div = 1, off = pad. Input gradient: x is the upstream gradient, w flipped and
//                   transposed, mul = 1, div = stride, off = kernel - 1 - pad.
// weight_gradient:  slices[s, ky, kx, ci, co] = sum over the image rows (n, oy) of slice s and over ox of
//                   x[n, oy stride + ky - pad, ox stride + kx - pad, ci] gy[n, oy, ox, co]; reduce.sum_slices adds the slices.
//
// x [n, ih, iw, 4 ci4], y and gy [n, oh, ow, 4 co4], w [kernel, kernel, 4 ci4, 4 co4], all f32, bound as vec4 along channels.
//
// A subgroup's lanes form SG / CL groups of CL lanes. gather: a group owns MT pixels x 4 CL CO channels, a lane the MT pixels of
// its own CO times 4 channels, CL quadruples apart; it loads every CL-th of those pixels for the group. A workgroup is 4
// subgroups on consecutive pixels; grid: pixels / (4 MT SG / CL), channels / (4 CL CO), div^2 residue classes (within a class
// all pixels use the same taps); what was shuffled serves all CO quadruples. weight_gradient: a group owns 4 CL rows (tap, ci) x
// 4 CL channels of one slice; a workgroup is 4 subgroups on consecutive rows; grid: rows, channels, slices / (SG / CL).
const SG = 8u;
const CL = 8u;
const MT = 32u;
const CO = 1u;

//: include conv2d
//: include points

@compute @workgroup_size(SG, 4)
fn gather(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_id) l: vec3u) {
    let lane = l.x % CL;
    let first = (l.x / CL) * CL * u32(SG != CL); // lane 0 of this group; a constant 0 where the group is the subgroup
    let div = 1u << p.shift;
    let py = g.z >> p.shift;
    let px = g.z & (div - 1u);
    let ch = (p.oh - py + div - 1u) >> p.shift;
    let cw = (p.ow - px + div - 1u) >> p.shift;
    let count = p.n * ch * cw;
    let mine = ((g.x * 4u + l.y) * (SG / CL) + l.x / CL) * MT + lane;
//: for k in 0..CO
    let c4_{k} = (g.y * CO + {k}u) * CL + lane;
    let wc{k} = min(c4_{k}, p.co4 - 1u);
//: end
    // Pixel j of this lane: image, input position of tap (0, 0) times div, output address.
//: for j in 0..MT / CL
    let m{j} = mine + {j}u * CL;
    let n{j} = m{j} / (ch * cw);
    let r{j} = m{j} - n{j} * (ch * cw);
    let v{j} = r{j} / cw;
    let oy{j} = (v{j} << p.shift) + py;
    let ox{j} = ((r{j} - v{j} * cw) << p.shift) + px;
    let o{j} = select(0xffffffffu, ((n{j} * p.oh + oy{j}) * p.ow + ox{j}) * p.co4, m{j} < count);
    let sy{j} = i32(oy{j} * p.mul) - i32(p.off);
    let sx{j} = select(-1048576, i32(ox{j} * p.mul) - i32(p.off), m{j} < count);
    let base{j} = n{j} * p.ih;
//: end
//: for i in 0..MT
//: for k in 0..CO
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
            let at{j} = select(0u, ((base{j} + iy{j}) * p.iw + ix{j}) * p.ci4, in{j});
//: end
            var wb = (ky * p.kernel + kx) * p.ci4 * 4u * p.co4;
            for (var c = 0u; c < p.ci4; c++) {
//: for j in 0..MT / CL
                let x{j} = select(vec4f(), x[at{j} + c], in{j});
//: end
//: for k in 0..CO
                let b0_{k} = w[wb + wc{k}];
                let b1_{k} = w[wb + p.co4 + wc{k}];
                let b2_{k} = w[wb + 2u * p.co4 + wc{k}];
                let b3_{k} = w[wb + 3u * p.co4 + wc{k}];
//: end
//: for i in 0..MT
                let s{i} = vec4f(
                    subgroupShuffle(x{i / CL}.x, first + {i % CL}u), subgroupShuffle(x{i / CL}.y, first + {i % CL}u),
                    subgroupShuffle(x{i / CL}.z, first + {i % CL}u), subgroupShuffle(x{i / CL}.w, first + {i % CL}u));
//: for k in 0..CO
                a{i}_{k} += s{i}.x * b0_{k} + s{i}.y * b1_{k} + s{i}.z * b2_{k} + s{i}.w * b3_{k};
//: end
//: end
                wb += 4u * p.co4;
            }
        }
    }
//: for i in 0..MT
    let q{i} = subgroupShuffle(o{i / CL}, first + {i % CL}u);
//: for k in 0..CO
    if (q{i} != 0xffffffffu && c4_{k} < p.co4) {
        y[q{i} + c4_{k}] = a{i}_{k};
    }
//: end
//: end
}

// product: y[b, m, co] = sum over ci of x[b, m, ci] w[b, ci, co], b = g.z: Winograd's (winograd.wgsl). x [B, n, 4 ci4], w [B, 4 ci4,
// 4 co4] or, with TURNED = 1, transposed [B, 4 co4, 4 ci4], y [B, n, 4 co4], each b `pitch` after the last; tiles as in gather.
const TURNED = 0u;

// Rows 4 c .. 4 c + 3 of the matrix w at `base`, 4 columns of each.
fn four(base: u32, c: u32, column4: u32) -> mat4x4f {
    if (TURNED == 1u) {
        let at = base + column4 * 4u * p.ci4 + c;
        return transpose(mat4x4f(w[at], w[at + p.ci4], w[at + 2u * p.ci4], w[at + 3u * p.ci4]));
    }
    let at = base + c * 4u * p.co4 + column4;
    return mat4x4f(w[at], w[at + p.co4], w[at + 2u * p.co4], w[at + 3u * p.co4]);
}

@compute @workgroup_size(SG, 4)
fn product(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_id) l: vec3u) {
    let lane = l.x % CL;
    let first = (l.x / CL) * CL * u32(SG != CL);
    let tile = ((g.x * 4u + l.y) * (SG / CL) + l.x / CL) * MT;
    if ((g.x * 4u + l.y) * (SG / CL) * MT >= p.n) { // the whole subgroup
        return;
    }
//: for k in 0..CO
    let c4_{k} = (g.y * CO + {k}u) * CL + lane;
    let wc{k} = min(c4_{k}, p.co4 - 1u);
//: end
//: for j in 0..MT / CL
    let at{j} = g.z * pitch(p.n, p.ci4) + min(tile + {j}u * CL + lane, p.n - 1u) * p.ci4;
//: end
//: for i in 0..MT
//: for k in 0..CO
    var a{i}_{k} = vec4f();
//: end
//: end
    let wb = g.z * pitch(p.ci4 * 4u, p.co4);
    for (var c = 0u; c < p.ci4; c++) {
//: for j in 0..MT / CL
        let x{j} = x[at{j} + c];
//: end
//: for k in 0..CO
        let w{k} = four(wb, c, wc{k});
//: end
//: for i in 0..MT
        let s{i} = vec4f(
            subgroupShuffle(x{i / CL}.x, first + {i % CL}u), subgroupShuffle(x{i / CL}.y, first + {i % CL}u),
            subgroupShuffle(x{i / CL}.z, first + {i % CL}u), subgroupShuffle(x{i / CL}.w, first + {i % CL}u));
//: for k in 0..CO
        a{i}_{k} += s{i}.x * w{k}[0] + s{i}.y * w{k}[1] + s{i}.z * w{k}[2] + s{i}.w * w{k}[3];
//: end
//: end
    }
//: for i in 0..MT
//: for k in 0..CO
    if (tile + {i}u < p.n && c4_{k} < p.co4) {
        y[g.z * pitch(p.n, p.co4) + (tile + {i}u) * p.co4 + c4_{k}] = a{i}_{k};
    }
//: end
//: end
}

// outer: slices[b, ci, co] = sum over m of x[b, m, ci] gy[b, m, co], b = g.z: Winograd's weight gradient; with add = 1 that is added to
// what slices holds. Channels in blocks of 4 CL: x [B, ci4 / CL, n, 4 CL], gy [B, co4 / CL, n, 4 CL], slices [B, co4 / CL, 4 ci4,
// 4 CL], each b `pitch` after the last; tiles as in weight_gradient; SG = CL, all lanes full.
@compute @workgroup_size(SG, 4)
fn outer(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_id) l: vec3u) {
    let tile = (g.x * 4u + l.y) * CL;
    if (tile >= p.ci4) { // the whole subgroup
        return;
    }
    let xb = g.z * pitch(p.n, p.ci4) + tile * p.n + l.x;
    let gb = g.z * pitch(p.n, p.co4) + g.y * CL * p.n + l.x;
    let to = g.z * pitch(p.ci4 * 4u, p.co4) + (g.y * p.ci4 + tile) * 4u * CL + l.x;
//: for i in 0..CL * 4
    var a{i} = vec4f();
//: end
    if (p.add == 1u) {
//: for i in 0..CL * 4
        a{i} = slices[to + {i * CL}u];
//: end
    }
    for (var m = 0u; m < p.n; m += 4u) {
//: for q in 0..4
        let m{q} = min(m + {q}u, p.n - 1u);
        let x{q} = select(vec4f(), x[xb + m{q} * CL], m + {q}u < p.n);
        let d{q} = gy[gb + m{q} * CL];
//: end
//: for i in 0..CL * 4
        a{i} += subgroupShuffle(x0[{i % 4}], {i / 4}u) * d0 + subgroupShuffle(x1[{i % 4}], {i / 4}u) * d1
            + subgroupShuffle(x2[{i % 4}], {i / 4}u) * d2 + subgroupShuffle(x3[{i % 4}], {i / 4}u) * d3;
//: end
    }
//: for i in 0..CL * 4
    slices[to + {i * CL}u] = a{i};
//: end
}

@compute @workgroup_size(SG, 4)
fn weight_gradient(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_id) l: vec3u) {
    let lane = l.x % CL;
    let first = (l.x / CL) * CL * u32(SG != CL);
    let rows = p.kernel * p.kernel * p.ci4;
    let tile = (g.x * 4u + l.y) * CL;
    if (tile >= rows) { // the whole subgroup
        return;
    }
    let slice = g.z * (SG / CL) + l.x / CL;
    let r = min(tile + lane, rows - 1u);
    let tap = r / p.ci4;
    let c_in = r - tap * p.ci4;
    let ky = tap / p.kernel;
    let kx = tap - ky * p.kernel;
    let c4 = g.y * CL + lane;
    let gc = min(c4, p.co4 - 1u);
    let dx = i32(kx) - i32(p.off);
//: for i in 0..CL * 4
    var a{i} = vec4f();
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
        for (var ox = 0u; ox < p.ow; ox += 4u) {
//: for q in 0..4
            let ok{q} = real && ox + {q}u < p.ow;
            let ix{q} = i32((ox + {q}u) * p.mul) + dx;
            let in{q} = row_in && ok{q} && ix{q} >= 0 && ix{q} < i32(p.iw);
            let d{q} = select(vec4f(), gy[select(0u, (gb + ox + {q}u) * p.co4, ok{q}) + gc], ok{q});
            let x{q} = select(vec4f(), x[select(0u, (xb + u32(ix{q})) * p.ci4, in{q}) + c_in], in{q});
//: end
//: for i in 0..CL * 4
            a{i} += subgroupShuffle(x0[{i % 4}], first + {i / 4}u) * d0 + subgroupShuffle(x1[{i % 4}], first + {i / 4}u) * d1
                + subgroupShuffle(x2[{i % 4}], first + {i / 4}u) * d2 + subgroupShuffle(x3[{i % 4}], first + {i / 4}u) * d3;
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
//: for i in 0..CL * 4
    if (tile + {i / 4}u < rows && c4 < p.co4) {
        slices[((slice * rows + tile + {i / 4}u) * 4u + {i % 4}u) * p.co4 + c4] = a{i};
    }
//: end
}
