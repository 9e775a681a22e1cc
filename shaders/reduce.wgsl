// sum_slices: y[i] = sum over s of slices[s, i], in the order s = 0, 1, ...: the fixed-order end of a split reduction.
// slices [count, 4 n4], y [4 n4], f32, bound as vec4. An invocation owns one vec4 of y.
//: include index
struct Params { n4: u32, count: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> slices: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn sum_slices(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if (i >= p.n4) {
        return;
    }
    var sum = slices[i];
    for (var s = 1u; s < p.count; s++) {
        sum += slices[s * p.n4 + i];
    }
    y[i] = sum;
}
