// What the adapter reaches at best: two kernels with nothing to wait for, which benches hold the others against.
// x, y: f32, n4 vec4s; invocation i owns vec4 i of both. copy: workgroups of WIDTH invocations own EACH times as many loads of QUADS vec4s.
// multiply_add: y[i] = the sum over j < CHAINS of v_j, where v_j starts as x[i] + j and goes through v = keep v + add, STEPS times a
// round. The chains do not depend on each other and live in registers; keep and add are uniforms, so nothing can be folded.
// copy: wide_y[i] = wide_x[i], bound as loads; rounds, keep and add are not used.
const CHAINS = 2u;
const STEPS = 16u;
const QUADS = 1u;
const WIDTH = 256u;
const EACH = 4u;
//: include index
//: include load{QUADS}

struct Params { n4: u32, rounds: u32, keep: f32, add: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(3) var<storage, read> wide_x: array<Load>;
@group(0) @binding(4) var<storage, read_write> wide_y: array<Load>;

@compute @workgroup_size(64)
fn multiply_add(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if (i >= p.n4) {
        return;
    }
    let keep = vec4f(p.keep);
    let add = vec4f(p.add);
//: for j in 0..CHAINS
    var v{j} = x[i] + f32({j});
//: end
    for (var r = 0u; r < p.rounds; r++) {
//: for s in 0..STEPS
//: for j in 0..CHAINS
        v{j} = fma(v{j}, keep, add);
//: end
//: end
    }
    var sum = vec4f();
//: for j in 0..CHAINS
    sum += v{j};
//: end
    y[i] = sum;
}

@compute @workgroup_size(WIDTH)
fn copy(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let first = linear_index(g, ng, l, WIDTH * EACH);
    // The last workgroup's may be past the end.
    let last = p.n4 / QUADS - 1u;
//: for e in 0..EACH
    let at{e} = first + {e}u * WIDTH;
    let v{e} = wide_x[min(at{e}, last)];
//: end
//: for e in 0..EACH
    if (at{e} <= last) {
        wide_y[at{e}] = v{e};
    }
//: end
}
