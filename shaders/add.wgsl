// y = a + b, any shape, f32. Sizes that are multiples of 4 go by loads of QUADS vec4, an invocation a load; others by element, through
// `add_each` and the bindings each_*: n counts what an invocation owns.
//: include index
const QUADS = 1u;
//: include load{QUADS}
struct Params { n: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<Load>;
@group(0) @binding(2) var<storage, read> b: array<Load>;
@group(0) @binding(3) var<storage, read_write> y: array<Load>;
@group(0) @binding(4) var<storage, read> each_a: array<f32>;
@group(0) @binding(5) var<storage, read> each_b: array<f32>;
@group(0) @binding(6) var<storage, read_write> each_y: array<f32>;

@compute @workgroup_size(64)
fn add(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if (i >= p.n) {
        return;
    }
    let left = a[i];
    let right = b[i];
    y[i] = load(
//: for q in 0..QUADS
        quad{q}(left) + quad{q}(right),
//: end
    );
}

@compute @workgroup_size(64)
fn add_each(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if (i >= p.n) {
        return;
    }
    each_y[i] = each_a[i] + each_b[i];
}
