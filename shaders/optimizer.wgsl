// One step of SGD or Adam, in place, as PyTorch's, on one parameter or on all that lie side by side; and sums of gradients over the parts of a batch.
//
//   sgd:  d = grad + weight_decay param;  v = momentum v + d;  param -= lr (nesterov ? d + momentum v : v)
//   adam: d = grad + weight_decay param;  m = beta1 m + (1 - beta1) d;  v = beta2 v + (1 - beta2) d^2
//         param -= lr / bias1 m / (sqrt(v / bias2) + eps),  bias_i = 1 - beta_i^step
//   accumulate: m = keep_m m + grad;  keep_m is 0 for the first part of a batch, 1 for the others
//
// All buffers have one shape, [n] of loads of QUADS vec4, an invocation each. State starts at zero, and so is what lies between and behind
// parameters in all of them: zero it stays.
//: include index
const QUADS = 1u;
//: include load{QUADS}
const NESTEROV = 0u;

struct Params {
    n: u32,
    lr: f32,
    weight_decay: f32,
    // SGD's momentum, Adam's beta1, or whether to add to what an earlier part left.
    keep_m: f32,
    // Adam only, from here on; keep_* + add_* = 1.
    add_m: f32,
    keep_v: f32,
    add_v: f32,
    eps: f32,
    bias1: f32,
    bias2: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> grad: array<Load>;
@group(0) @binding(2) var<storage, read_write> param: array<Load>;
@group(0) @binding(3) var<storage, read_write> m: array<Load>;
@group(0) @binding(4) var<storage, read_write> v: array<Load>;

struct State { param: vec4f, m: vec4f, v: vec4f }

fn sgd_step(s: State, grad: vec4f) -> State {
    let d = grad + p.weight_decay * s.param;
    let m = p.keep_m * s.m + d;
    var direction = m;
    if NESTEROV != 0u {
        direction = d + p.keep_m * m;
    }
    return State(s.param - p.lr * direction, m, s.v);
}

fn adam_step(s: State, grad: vec4f) -> State {
    let d = grad + p.weight_decay * s.param;
    let m = p.keep_m * s.m + p.add_m * d;
    let v = p.keep_v * s.v + p.add_v * d * d;
    return State(s.param - p.lr / p.bias1 * m / (sqrt(v / p.bias2) + p.eps), m, v);
}

@compute @workgroup_size(64)
fn sgd(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if i >= p.n {
        return;
    }
    let by = grad[i];
    let own = param[i];
    let own_m = m[i];
//: for q in 0..QUADS
    let s{q} = sgd_step(State(quad{q}(own), quad{q}(own_m), vec4f()), quad{q}(by));
//: end
    param[i] = load(
//: for q in 0..QUADS
        s{q}.param,
//: end
    );
    m[i] = load(
//: for q in 0..QUADS
        s{q}.m,
//: end
    );
}

@compute @workgroup_size(64)
fn adam(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if i >= p.n {
        return;
    }
    let by = grad[i];
    let own = param[i];
    let own_m = m[i];
    let own_v = v[i];
//: for q in 0..QUADS
    let s{q} = adam_step(State(quad{q}(own), quad{q}(own_m), quad{q}(own_v)), quad{q}(by));
//: end
    param[i] = load(
//: for q in 0..QUADS
        s{q}.param,
//: end
    );
    m[i] = load(
//: for q in 0..QUADS
        s{q}.m,
//: end
    );
    v[i] = load(
//: for q in 0..QUADS
        s{q}.v,
//: end
    );
}

@compute @workgroup_size(64)
fn accumulate(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if i >= p.n {
        return;
    }
    // What lies there before the first part need not be a number.
    let by = grad[i];
    let own = m[i];
    m[i] = load(
//: for q in 0..QUADS
        select(quad{q}(by), quad{q}(own) + quad{q}(by), p.keep_m > 0.0),
//: end
    );
}
