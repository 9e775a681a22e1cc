// Losses of logits z with label y, a row each, and d(sum_i weight_i loss_i) / d logits.
//
// Everything follows from the margin t = z_y - log sum_{j != y} exp z_j and the softmax q of the other logits, both stable
// however sure the network is (p_y = sigmoid(t)):
//   KIND 0  cross-entropy     CE  = softplus(-t)          d/dz_y = -sigmoid(-t)   d/dz_j = sigmoid(-t) q_j
//   KIND 1  complementary     CCE = softplus(t)           d/dz_y = sigmoid(t)     d/dz_j = -sigmoid(t) q_j
//   KIND 2  gradient ascent   -CE
//   KIND 3  local ascent      sign(CE - level) CE         the sign taken as a constant; sign(0) = 0
// Flooding, |sum_i weight_i CE_i - level| + level: `evaluate` for CE, then `find_side`: side = sign(sum - level), then `flip`:
// gradient *= side.
// Reweighed, sum_i s_i CE_i with s_i = r_i / sum_j r_j and r_i = weight_i / (weight_i + CE_i) as constants: `evaluate` for CE, then
// `find_total`: side = sum_j r_j, then `reweigh`: gradient_i /= (weight_i + CE_i) side.
//
// logits, grad: [n][k]; labels (u32), weight, loss: [n]; side: [1]. loss is not weighted. A row of weight 0 or with a label >= k
// has gradient 0 whatever its logits are; the latter has loss 0.
// evaluate: an invocation owns a row. find_side, find_total: one workgroup, fixed order. flip, reweigh: an invocation owns an element.
//: include index
const KIND = 0u;

struct Params { n: u32, k: u32, level: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;
@group(0) @binding(5) var<storage, read_write> grad: array<f32>;
@group(0) @binding(6) var<storage, read_write> side: array<f32>;

// log(1 + e) for e in [0, 1] as 2 atanh(e / (2 + e)), to the last places also for small e, where log() may not be.
fn log1p(e: f32) -> f32 {
    let s = e / (2.0 + e);
    let q = s * s;
    let series = 1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q * (1.0 / 13.0)))));
    return 2.0 * s * (1.0 + q * series);
}

fn softplus(v: f32) -> f32 {
    return max(v, 0.0) + log1p(exp(-abs(v)));
}

fn sigmoid(v: f32) -> f32 {
    let e = exp(-abs(v));
    return select(1.0, e, v < 0.0) / (1.0 + e);
}

@compute @workgroup_size(64)
fn evaluate(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if i >= p.n {
        return;
    }
    let row = i * p.k;
    let label = labels[i];
    if label >= p.k {
        loss[i] = 0.0;
        for (var j = 0u; j < p.k; j++) {
            grad[row + j] = 0.0;
        }
        return;
    }
    // Any other logit would do as the start of the maximum.
    var top = logits[row + select(0u, 1u, label == 0u)];
    for (var j = 0u; j < p.k; j++) {
        let z = logits[row + j];
        if j != label {
            top = max(top, z);
        }
    }
    var sum = 0.0;
    for (var j = 0u; j < p.k; j++) {
        let z = logits[row + j];
        if j != label {
            sum += exp(z - top);
        }
    }
    let t = (logits[row + label] - top) - log(sum);
    // The gradient is `force` on z_j as share q_j, and -force on z_y.
    var force = sigmoid(-t);
    var value = softplus(-t);
    if KIND == 1u {
        force = -sigmoid(t);
        value = softplus(t);
    } else if KIND == 2u {
        force = -force;
        value = -value;
    } else if KIND == 3u {
        let side = sign(value - p.level);
        force *= side;
        value *= side;
    }
    loss[i] = value;
    let share = weight[i];
    for (var j = 0u; j < p.k; j++) {
        let q = select(exp(logits[row + j] - top) / sum, -1.0, j == label);
        // Not 0 * garbage.
        grad[row + j] = select(share * force * q, 0.0, share == 0.0);
    }
}

var<workgroup> sums: array<f32, 64>;

// The sum over the workgroup, in sums[0] for invocation 0.
fn add_up(sum: f32, l: u32) {
    sums[l] = sum;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if l < half {
            sums[l] += sums[l + half];
        }
    }
}

@compute @workgroup_size(64)
fn find_side(@builtin(local_invocation_index) l: u32) {
    var sum = 0.0;
    for (var i = l; i < p.n; i += 64u) {
        let share = weight[i];
        sum += select(share * loss[i], 0.0, share == 0.0);
    }
    add_up(sum, l);
    if l == 0u {
        side[0] = sign(sums[0] - p.level);
    }
}

@compute @workgroup_size(64)
fn find_total(@builtin(local_invocation_index) l: u32) {
    var sum = 0.0;
    for (var i = l; i < p.n; i += 64u) {
        let share = weight[i];
        sum += select(share / (share + loss[i]), 0.0, share == 0.0);
    }
    add_up(sum, l);
    if l == 0u {
        side[0] = sums[0];
    }
}

@compute @workgroup_size(64)
fn reweigh(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if i >= p.n * p.k {
        return;
    }
    let share = weight[i / p.k];
    // A row of weight 0 has gradient 0 already.
    grad[i] /= select((share + loss[i / p.k]) * side[0], 1.0, share == 0.0);
}

@compute @workgroup_size(64)
fn flip(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if i >= p.n * p.k {
        return;
    }
    grad[i] *= side[0];
}
