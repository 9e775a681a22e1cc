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
