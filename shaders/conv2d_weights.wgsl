// flip: wt[kernel-1-ky, kernel-1-kx, co, ci] = w[ky, kx, ci, co]: the weights of a convolution's input gradient.
// w [kernel, kernel, ci, co], wt [kernel, kernel, co, ci], f32. An invocation owns 4 ci of one (ky, kx, co) of wt.
//: include index
struct Params { taps: u32, ci: u32, co: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> wt: array<vec4f>;

@compute @workgroup_size(64)
fn flip(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    let ci4 = p.ci / 4u;
    if (i >= p.taps * p.co * ci4) {
        return;
    }
    let c = i % ci4 * 4u;
    let co = i / ci4 % p.co;
    let tap = p.taps - 1u - i / ci4 / p.co;
    let at = (tap * p.ci + c) * p.co + co;
    wt[i] = vec4f(w[at], w[at + p.co], w[at + 2u * p.co], w[at + 3u * p.co]);
}

// pairs: wt[b, tap, k4, lane, 4, 2]: of output channels o = 2 (b lanes + lane) and o + 1 the 4 inputs k from 4 k4 on, in the order that
// conv2d_strip.gather reads (the last again past the last). Forward: inputs are ci, outputs co; input gradient (FLIP = 1): the other way round and
// taps backwards. Bound: w as f32, wt as vec4. An invocation owns the 8 values of one lane.
const FLIP = 0u;
const SG = 8u;

// w at tap t, input k, output o of the convolution that `pairs` is for.
fn at(t: u32, k: u32, o: u32) -> f32 {
    if (FLIP == 1u) {
        return w[((p.taps - 1u - t) * p.ci + min(o, p.ci - 1u)) * p.co + k];
    }
    return w[(t * p.ci + k) * p.co + min(o, p.co - 1u)];
}

@compute @workgroup_size(64)
fn pairs(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    let inputs = select(p.ci, p.co, FLIP == 1u);
    let outputs = select(p.co, p.ci, FLIP == 1u);
    let blocks = (outputs + 2u * SG - 1u) / (2u * SG);
    if (i >= blocks * p.taps * inputs / 4u * SG) {
        return;
    }
    let row = i / SG;
    let k = row % (inputs / 4u) * 4u;
    let tap = row / (inputs / 4u) % p.taps;
    let o = (row / (inputs / 4u) / p.taps * SG + i % SG) * 2u;
    wt[2u * i] = vec4f(at(tap, k, o), at(tap, k, o + 1u), at(tap, k + 1u, o), at(tap, k + 1u, o + 1u));
    wt[2u * i + 1u] = vec4f(at(tap, k + 2u, o), at(tap, k + 2u, o + 1u), at(tap, k + 3u, o), at(tap, k + 3u, o + 1u));
}
