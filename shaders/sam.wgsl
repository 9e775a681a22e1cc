// Adaptive sharpness-aware minimisation (Kwon et al. 2021, ASAM, with eta = 0): from parameters w with gradient g to where the loss is
// higher, each by a share of its own size,
//   ascended = w + rho w^2 g / (||w g|| + 1e-12),  the norm over all parameters of a network.
//
// w, grad, ascended: [n] f32; parts: [count], count <= 256; before, sum: [1].
// square: workgroup i of `count` puts the sum of (w g)^2 of its elements, each count * 256th, into parts[i]. total: one workgroup makes
// sum of parts, in a fixed order; total_after adds `before`, the sum of the parameters before. ascend: an invocation owns an element.
//: include index
struct Params { n: u32, count: u32, rho: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> grad: array<f32>;
@group(0) @binding(3) var<storage, read> before: array<f32>;
@group(0) @binding(4) var<storage, read_write> parts: array<f32>;
@group(0) @binding(5) var<storage, read_write> sum: array<f32>;
@group(0) @binding(6) var<storage, read_write> ascended: array<f32>;

var<workgroup> sums: array<f32, 256>;

// The sum of all invocations' values, in sums[0] for invocation 0.
fn sum_of(mine: f32, l: u32) {
    sums[l] = mine;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if l < half {
            sums[l] += sums[l + half];
        }
    }
}

fn part(l: u32) -> f32 {
    if l < p.count {
        return parts[l];
    }
    return 0.0;
}

@compute @workgroup_size(256)
fn square(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) l: u32) {
    var mine = 0.0;
    for (var i = g.x * 256u + l; i < p.n; i += p.count * 256u) {
        let product = w[i] * grad[i];
        mine += product * product;
    }
    sum_of(mine, l);
    if l == 0u {
        parts[g.x] = sums[0];
    }
}

@compute @workgroup_size(256)
fn total(@builtin(local_invocation_index) l: u32) {
    sum_of(part(l), l);
    if l == 0u {
        sum[0] = sums[0];
    }
}

@compute @workgroup_size(256)
fn total_after(@builtin(local_invocation_index) l: u32) {
    sum_of(part(l), l);
    if l == 0u {
        sum[0] = before[0] + sums[0];
    }
}

@compute @workgroup_size(64)
fn ascend(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if i >= p.n {
        return;
    }
    ascended[i] = w[i] + p.rho / (sqrt(before[0]) + 1e-12) * w[i] * w[i] * grad[i];
}
