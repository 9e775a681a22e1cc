// y = a + b, any shape.
// a, b, y: f32, n elements as ceil(n / 4) vec4 would not do for odd n, so one invocation owns four scalars' worth of
// elements only where they exist: invocation i owns elements 4i .. min(4i + 4, n) - 1.
//: include index
struct Params { n: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn add(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let first = 4u * linear_index(g, ng, l, 64u);
    for (var i = first; i < min(first + 4u, p.n); i++) {
        y[i] = a[i] + b[i];
    }
}
