// 2-D convolution as implicit GEMM, staging "register-block": each invocation loads all that its own block of outputs needs.
// Runs on every adapter: no subgroups, no workgroup memory. Formulas, shapes and parameters: conv2d_shuffle.wgsl.
//
// gather: an invocation owns MT consecutive pixels of one residue class x 8 channels; channels vary fastest between
// invocations, so neighbours share pixels. Grid: blocks folded along x and y, div^2 classes along z.
// weight_gradient: an invocation owns one row vec4 (tap, 4 ci) x 8 channels of one slice; grid: blocks, 1, slices.
const MT = 8u;
//: include index
//: include extents
alias Operand = vec4f;
//: include conv2d

@compute @workgroup_size(64)
fn gather(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let block = linear_index(g, ng, l, 64u);
    let pairs = (p.co4 + 1u) / 2u;
    let c4 = block % pairs * 2u;
    let c4b = min(c4 + 1u, p.co4 - 1u);
    let div = 1u << p.shift;
    let py = g.z >> p.shift;
    let px = g.z & (div - 1u);
    let ch = (p.oh - py + div - 1u) >> p.shift;
    let cw = (p.ow - px + div - 1u) >> p.shift;
    let count = p.n * ch * cw;
    let mine = block / pairs * MT;
    if (mine >= count) {
        return;
    }
//: for j in 0..MT
    let m{j} = min(mine + {j}u, count - 1u);
    let n{j} = m{j} / (ch * cw);
    let r{j} = m{j} - n{j} * (ch * cw);
    let v{j} = r{j} / cw;
    let oy{j} = (v{j} << p.shift) + py;
    let ox{j} = ((r{j} - v{j} * cw) << p.shift) + px;
    let sy{j} = i32(oy{j} * p.mul) - i32(p.off);
    let sx{j} = i32(ox{j} * p.mul) - i32(p.off);
    var a{j} = vec4f();
    var b{j} = vec4f();
//: end
    for (var ky = (p.off - py) & (div - 1u); ky < p.kernel; ky += div) {
        for (var kx = (p.off - px) & (div - 1u); kx < p.kernel; kx += div) {
//: for j in 0..MT
            let ty{j} = sy{j} + i32(ky);
            let tx{j} = sx{j} + i32(kx);
            let iy{j} = u32(ty{j}) >> p.shift;
            let ix{j} = u32(tx{j}) >> p.shift;
            let in{j} = ty{j} >= 0 && tx{j} >= 0 && iy{j} < p.ih && ix{j} < p.iw;
            let at{j} = select(0u, ((n{j} * p.ih + iy{j}) * p.iw + ix{j}) * p.ci4, in{j});
//: end
            var wb = (ky * p.kernel + kx) * p.ci4 * 4u * p.co4;
            for (var c = 0u; c < p.ci4; c++) {
//: for q in 0..4
                let u{q} = w[wb + {q}u * p.co4 + c4];
                let v{q}b = w[wb + {q}u * p.co4 + c4b];
//: end
//: for j in 0..MT
                let x{j} = select(vec4f(), x[at{j} + c], in{j});
                a{j} += x{j}.x * u0 + x{j}.y * u1 + x{j}.z * u2 + x{j}.w * u3;
                b{j} += x{j}.x * v0b + x{j}.y * v1b + x{j}.z * v2b + x{j}.w * v3b;
//: end
                wb += 4u * p.co4;
            }
        }
    }
//: for j in 0..MT
    if (mine + {j}u < count) {
        let q = ((n{j} * p.oh + oy{j}) * p.ow + ox{j}) * p.co4 + c4;
        y[q] = ended(a{j}, q, c4);
        if (c4 + 1u < p.co4) {
            y[q + 1u] = ended(b{j}, q + 1u, c4 + 1u);
        }
    }
//: end
}

@compute @workgroup_size(64)
fn weight_gradient(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) l: u32) {
    let block = g.x * 64u + l;
    let rows = p.kernel * p.kernel * p.ci4;
    let pairs = (p.co4 + 1u) / 2u;
    let r = block / pairs;
    if (r >= rows) {
        return;
    }
    let c4 = block % pairs * 2u;
    let c4b = min(c4 + 1u, p.co4 - 1u);
    let slice = g.z;
    let tap = r / p.ci4;
    let c_in = r - tap * p.ci4;
    let ky = tap / p.kernel;
    let kx = tap - ky * p.kernel;
    let dx = i32(kx) - i32(p.off);
//: for q in 0..4
    var a{q} = vec4f();
    var b{q} = vec4f();
//: end
    let end = min((slice + 1u) * p.rows_a_slice, p.n * p.oh);
    for (var t = slice * p.rows_a_slice; t < end; t++) { // an image row: (n, oy)
        let n = t / p.oh;
        let iy = i32((t - n * p.oh) * p.mul + ky) - i32(p.off);
        if (iy < 0 || iy >= i32(p.ih)) {
            continue;
        }
        for (var ox = 0u; ox < p.ow; ox++) {
            let ix = i32(ox * p.mul) + dx;
            if (ix < 0 || ix >= i32(p.iw)) {
                continue;
            }
            let u = x[((n * p.ih + u32(iy)) * p.iw + u32(ix)) * p.ci4 + c_in];
            let d = gy[(t * p.ow + ox) * p.co4 + c4];
            let e = gy[(t * p.ow + ox) * p.co4 + c4b];
//: for q in 0..4
            a{q} += u[{q}] * d;
            b{q} += u[{q}] * e;
//: end
        }
    }
//: for q in 0..4
    let q{q} = ((slice * rows + r) * 4u + {q}u) * p.co4;
    slices[q{q} + c4] = a{q};
    if (c4 + 1u < p.co4) {
        slices[q{q} + c4 + 1u] = b{q};
    }
//: end
}
