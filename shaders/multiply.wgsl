// y = a * b by element, f32: b of a's shape, or b [c] for the last axis of a [rows][c] (each row of a times b: a mask of channels).
//
// a, y: [n]; b: [period], period = n where the shapes are equal, c otherwise. An invocation owns an element.
//: include index
struct Params { n: u32, period: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn multiply(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if i >= p.n {
        return;
    }
    y[i] = a[i] * b[i % p.period];
}
