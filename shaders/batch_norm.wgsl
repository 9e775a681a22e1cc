// Batch normalisation over the last axis, forward and backward, in training and in evaluation.
//
//   y  = relu?((x - mean) * gamma * inv_std + beta + residual?)
//   gx = gamma * inv_std * (g - mean(g) - xhat * mean(g * xhat)),  g = gy where y > 0 (relu' = 0 at 0, as PyTorch), else 0
//
// Statistics and mean(..) run over the valid rows, the first n_valid * sample_rows; gx is 0 in the others.
//
// x, residual, y, gy, gresidual, gx: [rows][c4 / QUADS] loads of QUADS vec4 along channels. gamma, beta, mean, inv_std, variance, running_*,
// ggamma, gbeta: [c4]. partial: [chunks][c4][2]: mean and M2 = sum (x - mean)^2 of a chunk, or its sums of g and
// g * (x - mean). coefficient: [c4][3], what apply_gradient needs of the whole batch. affine: [c4][2], scale and shift.
//
// A workgroup owns a chunk of `chunk` rows and LANES_C loads of channels; an invocation one load and every LANES_R-th row.
// `finish`, `fold_running`, `finish_gradient` and `finish_gradient_running`: a workgroup owns LANES_C quads, an invocation every LANES_R-th chunk.
// (Workgroups are one-dimensional because lavapipe fills its vectors along x only.) Sums run in an order that only extents and lane counts decide.
//
// A flag that is off still leaves its buffer in the entry point's interface; the op then binds x (or gy) in its place.
// For kernels that multiply f16, F32 and HALF say how y and gx are left (common/half); gx multiplied by a power of two, of a bound of its
// values, known before the first is written: |gx| <= |gamma inv_std| (max |g| + |mean(g)| + max |x - mean| |mean(g * xhat)| inv_std). tops:
// [chunks][c4][2], the two maxima of a chunk; bounds: [c4]; scale: as half.choose makes it of these.
//: for h in 0..HALF
enable f16;
//: end
//: include index
const LANES_C = 4u;
const LANES_R = 2u;
const RELU = 0u;
const RESIDUAL = 0u;
const KEEP = 0u;
const QUADS = 1u;
const F32 = 1u;
const HALF = 0u;
const PLANES = 1u;
//: include load{QUADS}
const LANES = LANES_C * LANES_R;

struct Params { rows: u32, c4: u32, chunk: u32, chunks: u32, sample_rows: u32, n_valid: u32, eps: f32, momentum: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Load>;
@group(0) @binding(2) var<storage, read> gamma: array<vec4f>;
@group(0) @binding(3) var<storage, read> beta: array<vec4f>;
@group(0) @binding(4) var<storage, read> residual: array<Load>;
@group(0) @binding(5) var<storage, read> mean: array<vec4f>;
@group(0) @binding(6) var<storage, read> inv_std: array<vec4f>;
@group(0) @binding(7) var<storage, read> variance: array<vec4f>;
@group(0) @binding(8) var<storage, read> gy: array<Load>;
@group(0) @binding(9) var<storage, read> y: array<Load>;
@group(0) @binding(10) var<storage, read_write> partial: array<vec4f>;
@group(0) @binding(11) var<storage, read_write> running_mean: array<vec4f>;
@group(0) @binding(12) var<storage, read_write> running_var: array<vec4f>;
@group(0) @binding(13) var<storage, read_write> new_mean: array<vec4f>;
@group(0) @binding(14) var<storage, read_write> new_inv_std: array<vec4f>;
@group(0) @binding(15) var<storage, read_write> new_y: array<Load>;
@group(0) @binding(16) var<storage, read_write> coefficient: array<vec4f>;
@group(0) @binding(17) var<storage, read_write> ggamma: array<vec4f>;
@group(0) @binding(18) var<storage, read_write> gbeta: array<vec4f>;
@group(0) @binding(19) var<storage, read_write> gresidual: array<Load>;
@group(0) @binding(20) var<storage, read_write> gx: array<Load>;
@group(0) @binding(21) var<storage, read_write> affine: array<vec4f>;
//: for h in 0..HALF
@group(0) @binding(22) var<storage, read_write> half: array<vec4<f16>>;
@group(0) @binding(23) var<storage, read_write> tops: array<vec4f>;
@group(0) @binding(24) var<storage, read_write> bounds: array<vec4f>;
@group(0) @binding(25) var<storage, read> scale: array<f32>;
//: include half
//: end

// What an invocation owns: rows first, first + LANES_R, .. below end, at load c.
struct Part { chunk: u32, c: u32, first: u32, end: u32 }

fn part(g: vec3u, ng: vec3u, l: u32) -> Part {
    let blocks = (p.c4 / QUADS + LANES_C - 1u) / LANES_C;
    let i = linear_index(g, ng, 0u, 1u);
    let chunk = i / blocks;
    let c = (i % blocks) * LANES_C + l % LANES_C;
    // A lane past the last channel owns no rows.
    let end = select(0u, min((chunk + 1u) * p.chunk, p.rows), c < p.c4 / QUADS);
    return Part(chunk, c, chunk * p.chunk + l / LANES_C, end);
}

fn valid_rows() -> u32 {
    return min(p.n_valid * p.sample_rows, p.rows);
}

// ---- statistics -----------------------------------------------------------------------------------------------------

// Of n rows: their mean and M2 = sum (x - mean)^2.
struct Moments { n: f32, mean: vec4f, m2: vec4f }
var<workgroup> lane_moments: array<Moments, LANES * QUADS>;

// Chan, Golub and LeVeque (1979): exact where a sum of squares would cancel.
fn merge(a: Moments, b: Moments) -> Moments {
    let n = a.n + b.n;
    let share = b.n / max(n, 1.0);
    let d = b.mean - a.mean;
    return Moments(n, a.mean + d * share, a.m2 + b.m2 + d * d * (a.n * share));
}

// Merges the lanes of one channel quad, the load's `quad`th; the first row's lane gets the result.
fn merge_lanes(own: Moments, lane: u32, quad: u32) -> Moments {
    let l = lane + quad * LANES;
    lane_moments[l] = own;
    for (var half = LANES / 2u; half >= LANES_C; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            lane_moments[l] = merge(lane_moments[l], lane_moments[l + half]);
        }
    }
    return lane_moments[l];
}

// Chunks' mean and M2. Sums are of x less the invocation's first row, so that a large mean does not drown the variance.
@compute @workgroup_size(LANES)
fn measure(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let t = part(g, ng, l);
    let end = min(t.end, valid_rows());
//: for q in 0..QUADS
    var m{q} = Moments(0.0, vec4f(), vec4f());
//: end
    if t.first < end {
        var i = t.first * (p.c4 / QUADS) + t.c;
        let head = x[i];
//: for q in 0..QUADS
        let shift{q} = quad{q}(head);
        var sum{q} = vec4f();
        var squares{q} = vec4f();
//: end
        for (var r = t.first + LANES_R; r < end; r += LANES_R) {
            i += LANES_R * (p.c4 / QUADS);
            let v = x[i];
//: for q in 0..QUADS
            let d{q} = quad{q}(v) - shift{q};
            sum{q} += d{q};
            squares{q} += d{q} * d{q};
//: end
        }
        let n = f32((end - t.first + LANES_R - 1u) / LANES_R);
//: for q in 0..QUADS
        m{q} = Moments(n, shift{q} + sum{q} / n, max(squares{q} - sum{q} * (sum{q} / n), vec4f()));
//: end
    }
//: for q in 0..QUADS
    m{q} = merge_lanes(m{q}, l, {q}u);
//: end
    if l < LANES_C && t.c < p.c4 / QUADS && t.chunk < p.chunks {
        let at = 2u * (t.chunk * p.c4 + t.c * QUADS);
//: for q in 0..QUADS
        partial[at + {q * 2}u] = m{q}.mean;
        partial[at + {q * 2}u + 1u] = m{q}.m2;
//: end
    }
}

// The batch's mean and 1 / sqrt(variance + eps), and the running statistics with the unbiased variance.
@compute @workgroup_size(LANES)
fn finish(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) l: u32) {
    let c = g.x * LANES_C + l % LANES_C;
    var m = Moments(0.0, vec4f(), vec4f());
    if c < p.c4 {
        let valid = valid_rows();
        for (var k = l / LANES_C; k < p.chunks; k += LANES_R) {
            let first = k * p.chunk;
            let n = f32(clamp(valid, first, first + p.chunk) - first);
            let at = 2u * (k * p.c4 + c);
            m = merge(m, Moments(n, partial[at], partial[at + 1u]));
        }
    }
    m = merge_lanes(m, l, 0u);
    if l >= LANES_C || c >= p.c4 {
        return;
    }
    new_mean[c] = m.mean;
    new_inv_std[c] = 1.0 / sqrt(m.m2 / max(m.n, 1.0) + p.eps);
    if m.n > 0.0 {
        running_mean[c] = mix(running_mean[c], m.mean, vec4f(p.momentum));
        running_var[c] = mix(running_var[c], m.m2 / max(m.n - 1.0, 1.0), vec4f(p.momentum));
    }
}

// ---- forward --------------------------------------------------------------------------------------------------------

// y = (x - mean) * scale + beta, scale by quad of the invocation's load.
fn write_rows(
    t: Part,
//: for q in 0..QUADS
    scale{q}: vec4f,
//: end
) {
//: for q in 0..QUADS
    let center{q} = mean[t.c * QUADS + {q}u];
    let shift{q} = beta[t.c * QUADS + {q}u];
//: end
    var i = t.first * (p.c4 / QUADS) + t.c;
    for (var r = t.first; r < t.end; r += LANES_R) {
        let row = x[i];
//: for q in 0..QUADS
        var v{q} = (quad{q}(row) - center{q}) * scale{q} + shift{q};
//: end
        if RESIDUAL != 0u {
            let more = residual[i];
//: for q in 0..QUADS
            v{q} += quad{q}(more);
//: end
        }
        if RELU != 0u {
            // Not max(v, 0), which may hide a NaN.
//: for q in 0..QUADS
            v{q} = select(v{q}, vec4f(), v{q} <= vec4f());
//: end
        }
//: for f in 0..F32
        new_y[i] = load(
//: for q in 0..QUADS
            v{q},
//: end
        );
//: end
//: for h in 0..HALF
//: for q in 0..QUADS
        put_half(i * QUADS + {q}u, v{q});
//: end
//: end
        i += LANES_R * (p.c4 / QUADS);
    }
}

@compute @workgroup_size(LANES)
fn normalise(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let t = part(g, ng, l);
    if t.first >= t.end {
        return;
    }
    write_rows(
        t,
//: for q in 0..QUADS
        gamma[t.c * QUADS + {q}u] * inv_std[t.c * QUADS + {q}u],
//: end
    );
}

// With the running statistics, bound as mean and variance.
@compute @workgroup_size(LANES)
fn normalise_running(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let t = part(g, ng, l);
    if t.first >= t.end {
        return;
    }
    write_rows(
        t,
//: for q in 0..QUADS
        gamma[t.c * QUADS + {q}u] / sqrt(variance[t.c * QUADS + {q}u] + p.eps),
//: end
    );
}

// The running statistics' map as what a convolution does on its way out (common/epilogue): y = x * scale + shift.
@compute @workgroup_size(LANES)
fn fold_running(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) l: u32) {
    let c = g.x * LANES_C + l % LANES_C;
    if l >= LANES_C || c >= p.c4 {
        return;
    }
    let scale = gamma[c] / sqrt(variance[c] + p.eps);
    affine[2u * c] = scale;
    affine[2u * c + 1u] = beta[c] - mean[c] * scale;
}

// ---- backward -------------------------------------------------------------------------------------------------------

// gy where y > 0, else 0; all of gy without a ReLU.
fn masked(gy: vec4f, y: vec4f) -> vec4f {
    if RELU == 0u {
        return gy;
    }
    return select(vec4f(), gy, y > vec4f());
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
//: end
        for (; r < end; r += LANES_R) {
            let of_y = gy[i];
            let at_y = y[i];
            let row = x[i];
//: for q in 0..QUADS
            let v{q} = masked(quad{q}(of_y), quad{q}(at_y));
            s{q}.g += v{q};
            s{q}.gx += v{q} * (quad{q}(row) - center{q});
//: for h in 0..HALF
            top{q} = Sums(max(top{q}.g, abs(v{q})), max(top{q}.gx, abs(quad{q}(row) - center{q})));
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
//: end
    let valid = valid_rows();
    var i = t.first * (p.c4 / QUADS) + t.c;
    for (var r = t.first; r < t.end; r += LANES_R) {
        let of_y = gy[i];
        let at_y = y[i];
        let row = x[i];
//: for q in 0..QUADS
        let v{q} = scale{q} * (masked(quad{q}(of_y), quad{q}(at_y)) - mean_g{q} - (quad{q}(row) - center{q}) * slope{q});
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
        let at_y = y[i];
//: for q in 0..QUADS
        let v{q} = masked(quad{q}(of_y), quad{q}(at_y));
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
