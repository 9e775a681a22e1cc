// The greatest and the least value of each channel of each image: high[n][c] = max over the pixels of x[n][.][c], low its minimum.
// x: [N][pixels][c4] of vec4 along channels; high, low: [N][c4]. An invocation owns one image's channel quadruple and all its pixels, so
// that neighbours touch neighbouring quadruples; items = N * c4.
//: include index
struct Params { items: u32, pixels: u32, c4: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> high: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> low: array<vec4f>;

@compute @workgroup_size(64)
fn extremes(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if i >= p.items {
        return;
    }
    let first = (i / p.c4) * p.pixels * p.c4 + i % p.c4;
    var most = x[first];
    var least = most;
    for (var k = 1u; k < p.pixels; k++) {
        let v = x[first + k * p.c4];
        most = max(most, v);
        least = min(least, v);
    }
    high[i] = most;
    low[i] = least;
}
