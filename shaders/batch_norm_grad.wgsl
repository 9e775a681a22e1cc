// The gradients of batch normalisation (batch_norm.wgsl), of training's and of evaluation's.
//
//   gx = gamma * inv_std * (g - mean(g) - xhat * mean(g * xhat)),  g = gy where y > 0 (relu' = 0 at 0, as PyTorch), else 0
//
// mean(..) runs over the valid rows, the first n_valid * sample_rows; gx is 0 in the others. Where y > 0 is read from y (FROM_Y) or, where nothing was
// added to what the ReLU took, computed from x as the forward pass did (FROM_X); with neither there was no ReLU.
//
// x, y, gy, gresidual, gx: [rows][c4 / QUADS] loads of QUADS vec4 along channels. gamma, beta, mean, inv_std, variance, ggamma, gbeta: [c4]. partial:
// [chunks][c4][2]: a chunk's sums of g and of g * (x - mean). coefficient: [c4][3], what apply_gradient needs of the whole batch.
//
// For kernels that multiply f16, F32 and HALF say how gx is left (common/half), there multiplied by a power of two, of a bound of its
// values, known before the first is written: |gx| <= |gamma inv_std| (max |gy| + |mean(g)| + max |x - mean| |mean(g * xhat)| inv_std). tops:
// [chunks][c4][2], the two maxima of a chunk; bounds: [c4]; scale: as half.choose makes it of these.
//
// A workgroup owns a chunk of `chunk` rows and LANES_C loads of channels; an invocation one load and every LANES_R-th row. finish_gradient and
// finish_gradient_running: a workgroup owns LANES_C quads, an invocation every LANES_R-th chunk. Sums run in an order that only extents and lane counts decide.
//: for h in 0..HALF
enable f16;
//: end
const QUADS = 1u;
//: include load{QUADS}
//: include rows
const FROM_X = 0u;
const FROM_Y = 0u;
const KEEP = 0u;
const F32 = 1u;
const HALF = 0u;
const PLANES = 1u;
@group(0) @binding(1) var<storage, read> x: array<Load>;
@group(0) @binding(2) var<storage, read> gamma: array<vec4f>;
@group(0) @binding(3) var<storage, read> beta: array<vec4f>;
@group(0) @binding(4) var<storage, read> mean: array<vec4f>;
@group(0) @binding(5) var<storage, read> inv_std: array<vec4f>;
@group(0) @binding(6) var<storage, read> variance: array<vec4f>;
@group(0) @binding(7) var<storage, read> gy: array<Load>;
@group(0) @binding(8) var<storage, read> y: array<Load>;
@group(0) @binding(9) var<storage, read_write> partial: array<vec4f>;
@group(0) @binding(10) var<storage, read_write> coefficient: array<vec4f>;
@group(0) @binding(11) var<storage, read_write> ggamma: array<vec4f>;
@group(0) @binding(12) var<storage, read_write> gbeta: array<vec4f>;
@group(0) @binding(13) var<storage, read_write> gresidual: array<Load>;
@group(0) @binding(14) var<storage, read_write> gx: array<Load>;
//: for h in 0..HALF
@group(0) @binding(15) var<storage, read_write> half: array<vec4<f16>>;
@group(0) @binding(16) var<storage, read_write> tops: array<vec4f>;
@group(0) @binding(17) var<storage, read_write> bounds: array<vec4f>;
@group(0) @binding(18) var<storage, read> scale: array<f32>;
//: include half
//: end

// gy where the ReLU let it through, else 0; all of gy without a ReLU. `level` is y, or what y is the ReLU of.
fn masked(gy: vec4f, level: vec4f) -> vec4f {
    return select(vec4f(), gy, level > vec4f());
}

// Sums of g and of g * (x - mean).
struct Sums { g: vec4f, gx: vec4f }
var<workgroup> lane_sums: array<Sums, LANES * QUADS>;

fn add_lanes(own: Sums, lane: u32, quad: u32) -> Sums {
    let l = lane + quad * LANES;
    lane_sums[l] = own;
    for (var half = LANES / 2u; half >= LANES_C; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            let a = lane_sums[l];
            let b = lane_sums[l + half];
            lane_sums[l] = Sums(a.g + b.g, a.gx + b.gx);
        }
    }
    return lane_sums[l];
}

//: for h in 0..HALF
var<workgroup> lane_tops: array<Sums, LANES * QUADS>;
fn top_lanes(own: Sums, lane: u32, quad: u32) -> Sums {
    let l = lane + quad * LANES;
    lane_tops[l] = own;
    for (var width = LANES / 2u; width >= LANES_C; width /= 2u) {
        workgroupBarrier();
        if lane < width {
            let a = lane_tops[l];
            let b = lane_tops[l + width];
            lane_tops[l] = Sums(max(a.g, b.g), max(a.gx, b.gx));
        }
    }
    return lane_tops[l];
}
//: end

// With KEEP = 1 also gresidual = masked gy, in all rows: apply_gradient then reads that in place of gy and y.
@compute @workgroup_size(LANES)
fn sum_gradient(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let t = part(g, ng, l);
    let end = min(t.end, valid_rows());
    var i = t.first * (p.c4 / QUADS) + t.c;
    var r = t.first;
//: for q in 0..QUADS
    var s{q} = Sums(vec4f(), vec4f());
    var top{q} = Sums(vec4f(), vec4f());
//: end
    if r < end {
//: for q in 0..QUADS
        let center{q} = mean[t.c * QUADS + {q}u];
//: for f in 0..FROM_X
        let scale{q} = gamma[t.c * QUADS + {q}u] * inv_std[t.c * QUADS + {q}u];
        let shift{q} = beta[t.c * QUADS + {q}u];
//: end
//: end
        for (; r < end; r += LANES_R) {
            let of_y = gy[i];
//: for m in 0..FROM_Y
            let at_y = y[i];
//: end
            let row = x[i];
//: for q in 0..QUADS
            var v{q} = quad{q}(of_y);
//: for m in 0..FROM_Y
            v{q} = masked(v{q}, quad{q}(at_y));
//: end
//: for m in 0..FROM_X
            v{q} = masked(v{q}, (quad{q}(row) - center{q}) * scale{q} + shift{q});
//: end
            s{q}.g += v{q};
            s{q}.gx += v{q} * (quad{q}(row) - center{q});
//: for h in 0..HALF
            top{q} = Sums(max(top{q}.g, abs(quad{q}(of_y))), max(top{q}.gx, abs(quad{q}(row) - center{q})));
//: end
//: end
//: for k in 0..KEEP
            gresidual[i] = load(
//: for q in 0..QUADS
                v{q},
//: end
            );
//: end
            i += LANES_R * (p.c4 / QUADS);
        }
    }
//: for k in 0..KEEP
    for (; r < t.end; r += LANES_R) {
        let of_y = gy[i];
        let at_y = y[i];
        gresidual[i] = load(
//: for q in 0..QUADS
            masked(quad{q}(of_y), quad{q}(at_y)),
//: end
        );
        i += LANES_R * (p.c4 / QUADS);
    }
//: end
//: for q in 0..QUADS
    s{q} = add_lanes(s{q}, l, {q}u);
//: for h in 0..HALF
    top{q} = top_lanes(top{q}, l, {q}u);
//: end
//: end
    if l < LANES_C && t.c < p.c4 / QUADS && t.chunk < p.chunks {
        let at = 2u * (t.chunk * p.c4 + t.c * QUADS);
//: for q in 0..QUADS
        partial[at + {q * 2}u] = s{q}.g;
        partial[at + {q * 2}u + 1u] = s{q}.gx;
//: for h in 0..HALF
        tops[at + {q * 2}u] = top{q}.g;
        tops[at + {q * 2}u + 1u] = top{q}.gx;
//: end
//: end
    }
}

// The invocation's part of the chunks' sums.
fn sum_chunks(c: u32, l: u32) -> Sums {
    var s = Sums(vec4f(), vec4f());
    if c < p.c4 {
        for (var k = l / LANES_C; k < p.chunks; k += LANES_R) {
            let at = 2u * (k * p.c4 + c);
            s = Sums(s.g + partial[at], s.gx + partial[at + 1u]);
        }
    }
    return s;
}

@compute @workgroup_size(LANES)
fn finish_gradient(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) l: u32) {
    let c = g.x * LANES_C + l % LANES_C;
    let s = add_lanes(sum_chunks(c, l), l, 0u);
//: for h in 0..HALF
    var top = Sums();
    for (var k = l / LANES_C; k < p.chunks && c < p.c4; k += LANES_R) {
        let at = 2u * (k * p.c4 + c);
        top = Sums(max(top.g, tops[at]), max(top.gx, tops[at + 1u]));
    }
    top = top_lanes(top, l, 0u);
//: end
    if l >= LANES_C || c >= p.c4 {
        return;
    }
    let n = max(f32(valid_rows()), 1.0);
    let inv = inv_std[c];
    gbeta[c] = s.g;
    ggamma[c] = s.gx * inv;
    coefficient[3u * c] = gamma[c] * inv;
    coefficient[3u * c + 1u] = s.g / n;
    coefficient[3u * c + 2u] = s.gx / n * inv * inv;
//: for h in 0..HALF
    bounds[c] = abs(gamma[c] * inv) * (top.g + abs(s.g / n) + top.gx * abs(s.gx / n * inv * inv));
//: end
}

@compute @workgroup_size(LANES)
fn apply_gradient(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let t = part(g, ng, l);
    if t.first >= t.end {
        return;
    }
//: for q in 0..QUADS
    let center{q} = mean[t.c * QUADS + {q}u];
    let scale{q} = coefficient[3u * (t.c * QUADS + {q}u)];
    let mean_g{q} = coefficient[3u * (t.c * QUADS + {q}u) + 1u];
    let slope{q} = coefficient[3u * (t.c * QUADS + {q}u) + 2u];
//: for f in 0..FROM_X
    let shift{q} = beta[t.c * QUADS + {q}u];
//: end
//: end
    let valid = valid_rows();
    var i = t.first * (p.c4 / QUADS) + t.c;
    for (var r = t.first; r < t.end; r += LANES_R) {
        let of_y = gy[i];
//: for m in 0..FROM_Y
        let at_y = y[i];
//: end
        let row = x[i];
//: for q in 0..QUADS
        var g{q} = quad{q}(of_y);
//: for m in 0..FROM_Y
        g{q} = masked(g{q}, quad{q}(at_y));
//: end
//: for m in 0..FROM_X
        g{q} = masked(g{q}, (quad{q}(row) - center{q}) * scale{q} + shift{q});
//: end
        let v{q} = scale{q} * (g{q} - mean_g{q} - (quad{q}(row) - center{q}) * slope{q});
//: end
//: for f in 0..F32
        gx[i] = load(
//: for q in 0..QUADS
            select(vec4f(), v{q}, r < valid),
//: end
        );
//: end
//: for h in 0..HALF
//: for q in 0..QUADS
        put_half(i * QUADS + {q}u, scale[0] * select(vec4f(), v{q}, r < valid));
//: end
//: end
        i += LANES_R * (p.c4 / QUADS);
    }
}

// With the running statistics: gbeta = sum g, ggamma = sum g (x - mean) / sqrt(variance + eps).
@compute @workgroup_size(LANES)
fn finish_gradient_running(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) l: u32) {
    let c = g.x * LANES_C + l % LANES_C;
    let s = add_lanes(sum_chunks(c, l), l, 0u);
    if l >= LANES_C || c >= p.c4 {
        return;
    }
    gbeta[c] = s.g;
    ggamma[c] = s.gx / sqrt(variance[c] + p.eps);
}

// With the running statistics: gx = gamma / sqrt(variance + eps) * g and, with KEEP = 1, gresidual = g, in all rows.
@compute @workgroup_size(LANES)
fn apply_gradient_running(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let t = part(g, ng, l);
    if t.first >= t.end {
        return;
    }
//: for q in 0..QUADS
    let scale{q} = gamma[t.c * QUADS + {q}u] / sqrt(variance[t.c * QUADS + {q}u] + p.eps);
//: end
    var i = t.first * (p.c4 / QUADS) + t.c;
    for (var r = t.first; r < t.end; r += LANES_R) {
        let of_y = gy[i];
//: for m in 0..FROM_Y
        let at_y = y[i];
//: end
//: for q in 0..QUADS
        var v{q} = quad{q}(of_y);
//: for m in 0..FROM_Y
        v{q} = masked(v{q}, quad{q}(at_y));
//: end
//: end
        gx[i] = load(
//: for q in 0..QUADS
            scale{q} * v{q},
//: end
        );
//: for k in 0..KEEP
        gresidual[i] = load(
//: for q in 0..QUADS
            v{q},
//: end
        );
//: end
        i += LANES_R * (p.c4 / QUADS);
    }
}
