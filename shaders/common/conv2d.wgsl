// What the convolution's stagings share: extents, the map from output to input positions, and the buffers. Formulas and
// shapes: conv2d_shuffle.wgsl.
struct Params {
    n: u32, ih: u32, iw: u32, ci4: u32, oh: u32, ow: u32, co4: u32, kernel: u32,
    mul: u32, shift: u32, off: u32, rows_a_slice: u32, add: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> w: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(4) var<storage, read> gy: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> slices: array<vec4f>;
