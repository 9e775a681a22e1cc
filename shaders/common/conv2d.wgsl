// The convolution's buffers, a quad of channels a load. Shapes: conv2d_shuffle.wgsl.
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> w: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(4) var<storage, read> gy: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> slices: array<vec4f>;
