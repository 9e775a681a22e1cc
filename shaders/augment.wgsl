// Bytes to normalised activations, by way of a random crop and a random horizontal flip:
//   y[n][i][j] = (pixels[n][i + dy - pad][j' + dx - pad] / 255 - mean) / std,  j' = j or width - 1 - j
// with black where that lies outside the image (torchvision: RandomCrop pads the bytes with 0, then flip, then Normalize).
// dy, dx in 0..2 pad and the flip are hashes of the seed and the sample's place n in the batch; pad 0 and flip 0 leave a plain
// normalisation.
// pixels: [n][height][width] u32, R | G << 8 | B << 16; y: [n][height][width] of vec4, the fourth channel 0.
// An invocation owns an output pixel.
//: include index
//: include hash
struct Params {
    pixels: u32,
    height: u32,
    width: u32,
    pad: u32,
    flip: u32,
    seed: u32,
    mean_r: f32,
    mean_g: f32,
    mean_b: f32,
    std_r: f32,
    std_g: f32,
    std_b: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> pixels: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn augment(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let at = linear_index(g, ng, l, 64u);
    if at >= p.pixels {
        return;
    }
    let row = at / p.width;
    var j = at % p.width;
    let n = row / p.height;
    let i = row % p.height;
    let h0 = hash(p.seed ^ hash(n));
    let h1 = hash(h0);
    let h2 = hash(h1);
    let places = 2u * p.pad + 1u;
    if p.flip != 0u && (h2 >> 31u) != 0u {
        j = p.width - 1u - j;
    }
    // Above or left of the image these wrap round to large numbers.
    let from_i = i + h0 % places - p.pad;
    let from_j = j + h1 % places - p.pad;
    var rgb = 0u;
    if from_i < p.height && from_j < p.width {
        rgb = pixels[(n * p.height + from_i) * p.width + from_j];
    }
    let bytes = vec3f(vec3u(rgb, rgb >> 8u, rgb >> 16u) & vec3u(255u));
    let centred = bytes / 255.0 - vec3f(p.mean_r, p.mean_g, p.mean_b);
    y[at] = vec4f(centred / vec3f(p.std_r, p.std_g, p.std_b), 0.0);
}
