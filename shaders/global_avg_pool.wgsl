// Global average pooling: y[n][c] = (sum over the pixels of x[n][.][c]) / pixels, and its gradient.
// x, gx: [N][pixels][c4] of vec4 along channels; y, gy: [N][c4]. An invocation owns one image's channel quadruple and all its pixels,
// so that neighbours touch neighbouring quadruples; items = N * c4.
//: include index
struct Params { items: u32, pixels: u32, c4: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> gy: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> gx: array<vec4f>;

// The quadruple of item i at its first pixel.
fn first_pixel(i: u32) -> u32 {
    return (i / p.c4) * p.pixels * p.c4 + i % p.c4;
}

@compute @workgroup_size(64)
fn average(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if i >= p.items {
        return;
    }
    let first = first_pixel(i);
    var sum = vec4f();
    for (var k = 0u; k < p.pixels; k++) {
        sum += x[first + k * p.c4];
    }
    y[i] = sum / f32(p.pixels);
}

@compute @workgroup_size(64)
fn spread(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if i >= p.items {
        return;
    }
    let first = first_pixel(i);
    let share = gy[i] / f32(p.pixels);
    for (var k = 0u; k < p.pixels; k++) {
        gx[first + k * p.c4] = share;
    }
}
