// Extents and the map from output to input positions that the convolution's stagings share. Formulas: conv2d_shuffle.wgsl.
struct Params {
    n: u32, ih: u32, iw: u32, ci4: u32, oh: u32, ow: u32, co4: u32, kernel: u32,
    mul: u32, shift: u32, off: u32, rows_a_slice: u32, add: u32, n_valid: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
