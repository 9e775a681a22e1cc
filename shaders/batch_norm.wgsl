// Batch normalisation over the last axis, in training and in evaluation. Its gradient: batch_norm_grad.wgsl.
//
//   y = relu?((x - mean) * gamma * inv_std + beta + residual?)
//
// Statistics run over the valid rows, the first n_valid * sample_rows.
//
// x, residual, y: [rows][c4 / QUADS] loads of QUADS vec4 along channels. gamma, beta, mean, inv_std, variance, running_*: [c4]. partial:
// [chunks][c4][2]: mean and M2 = sum (x - mean)^2 of a chunk. affine: [c4][2], scale and shift. F32 and HALF say how y is left, in f32, in f16 (half:
// [PLANES][rows][c4] vec4, common/half) or in both.
//
// A workgroup owns a chunk of `chunk` rows and LANES_C loads of channels; an invocation one load and every LANES_R-th row. `finish` and `fold_running`:
// a workgroup owns LANES_C quads, an invocation every LANES_R-th chunk. (Workgroups are one-dimensional because lavapipe fills its vectors along x only.)
// Sums run in an order that only the extents and the lane counts decide.
//
// RESIDUAL = 0 still leaves its buffer in the entry point's interface; the op then binds x in its place.
//: for h in 0..HALF
enable f16;
//: end
const QUADS = 1u;
//: include load{QUADS}
//: include rows
const RELU = 0u;
const RESIDUAL = 0u;
const F32 = 1u;
const HALF = 0u;
const PLANES = 1u;
@group(0) @binding(1) var<storage, read> x: array<Load>;
@group(0) @binding(2) var<storage, read> gamma: array<vec4f>;
@group(0) @binding(3) var<storage, read> beta: array<vec4f>;
@group(0) @binding(4) var<storage, read> residual: array<Load>;
@group(0) @binding(5) var<storage, read> mean: array<vec4f>;
@group(0) @binding(6) var<storage, read> inv_std: array<vec4f>;
@group(0) @binding(7) var<storage, read> variance: array<vec4f>;
@group(0) @binding(8) var<storage, read_write> partial: array<vec4f>;
@group(0) @binding(9) var<storage, read_write> running_mean: array<vec4f>;
@group(0) @binding(10) var<storage, read_write> running_var: array<vec4f>;
@group(0) @binding(11) var<storage, read_write> new_mean: array<vec4f>;
@group(0) @binding(12) var<storage, read_write> new_inv_std: array<vec4f>;
@group(0) @binding(13) var<storage, read_write> new_y: array<Load>;
@group(0) @binding(14) var<storage, read_write> affine: array<vec4f>;
//: for h in 0..HALF
@group(0) @binding(15) var<storage, read_write> half: array<vec4<f16>>;
//: include half
//: end

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
