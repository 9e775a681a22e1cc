// The convolution's buffers, a quad of channels a load; operands as the includer has these. Shapes: conv2d_shuffle.wgsl.
@group(0) @binding(1) var<storage, read> x: array<Operand>;
@group(0) @binding(2) var<storage, read> w: array<Operand>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(4) var<storage, read> gy: array<Operand>;
@group(0) @binding(5) var<storage, read_write> slices: array<vec4f>;
@group(0) @binding(6) var<storage, read> affine: array<vec4f>;
@group(0) @binding(7) var<storage, read> residual: array<vec4f>;
//: include epilogue

// The sum that is y[to], of the channels 4 c4 .. 4 c4 + 3, as it leaves.
fn ended(sum: vec4f, to: u32, c4: u32) -> vec4f {
    var v = sum;
//: for e in 0..AFFINE
    v = v * affine[2u * c4] + affine[2u * c4 + 1u];
//: end
//: for e in 0..RESIDUAL
    v += residual[to];
//: end
//: for e in 0..RELU
    v = rectified(v);
//: end
    return v;
}

// Pixel m of residue class z, which has ch x cw pixels an image: image, row, column.
fn output_pixel(m: u32, z: u32, ch: u32, cw: u32) -> vec3u {
    let n = m / (ch * cw);
    let r = m - n * (ch * cw);
    let v = r / cw;
    let py = z >> p.shift;
    let px = z & ((1u << p.shift) - 1u);
    return vec3u(n, (v << p.shift) + py, ((r - v * cw) << p.shift) + px);
}
