// 3x3 convolution, stride 1, padding 1, for few channels: part of staging "subgroup-shuffle", where a subgroup as wide as the channels
// would run half empty. A subgroup takes strips of PX pixels along x: what its lanes load of a row serves all three taps of that row, and
// a lane owns only 2 of the channels that the weights lead to.
//
// gather:           y[n, oy, ox, co] = sum over ky, kx, ci of x[n, oy + ky - 1, ox + kx - 1, ci] w[ky, kx, ci, co]. For the input
//                   gradient x is the upstream gradient, w flipped and transposed.
// weight_gradient:  slices[s, ky, kx, ci, co] = sum over the image rows (n, oy) of slice s and over ox of
//                   x[n, oy + ky - 1, ox + kx - 1, ci] gy[n, oy, ox, co]; reduce.sum_slices adds the slices.
//
// x [n, ih, iw, 4 ci4], bound as XW channels a load, 4 or 8; y and gy [n, oh, ow, 4 co4], slices [.., 3, 3, 4 ci4, 4 co4], bound as
// pairs of channels; w [co / (2 SG), 3, 3, ci4, SG, 4 ci, 2 co] (conv2d_weights.pairs), bound as the 8 of a lane; all f32 in u64
// (common/quads). Strips: (image, row, ceil(ow / PX)).
//
// A workgroup is 4 subgroups. gather: a subgroup owns a strip x 2 SG channels; grid: strips / 4, co / (2 SG). weight_gradient: a subgroup
// is a slice of rows_a_slice image rows and owns all taps, XW ci and 2 SG co of it; grid: slices / 4, ci / XW, co / (2 SG).
const SG = 8u;
const PX = 32u;
const XW = 4u;
// Whether a row is more than one strip: else a strip's neighbours are outside the image.
const EDGES = 1u;

//: include extents
//: include quads
//: include epilogue
@group(0) @binding(1) var<storage, read> x: array<vec{XW / 2}<u64>>;
@group(0) @binding(2) var<storage, read> w: array<vec4<u64>>;
@group(0) @binding(3) var<storage, read_write> y: array<u64>;
@group(0) @binding(4) var<storage, read> gy: array<u64>;
@group(0) @binding(5) var<storage, read_write> slices: array<u64>;
@group(0) @binding(6) var<storage, read> affine: array<vec2f>;
@group(0) @binding(7) var<storage, read> residual: array<u64>;

fn two(a: u64) -> vec2f {
    return bitcast<vec2f>(vec2u(u32(a), u32(a >> 32u)));
}

@compute @workgroup_size(SG, 4)
fn gather(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_id) l: vec3u) {
    let across = (p.ow + PX - 1u) / PX;
    let strip = g.x * 4u + l.y;
    let t = strip / across; // an image row: (n, oy)
    let n = t / p.oh;
    let oy = t - n * p.oh;
    let ox = (strip - t * across) * PX;
    if (n >= p.n) { // the whole subgroup
        return;
    }
    let ci = p.ci4 * 4u / XW;
//: for i in 0..PX
    var a{i} = vec2f();
//: end
    for (var ky = 0u; ky < 3u; ky++) {
        let iy = oy + ky - 1u;
        let row = (n * p.ih + iy) * p.iw;
        // Pixel j of this lane; -1 is past all rows and columns too. The last are the strip's neighbours, of lanes 0 and 1.
//: for j in 0..PX / SG + 1
        let ix{j} = ox + {j * SG}u + l.x;
//: end
        let edge = select(ix{PX / SG} - 1u, ox - 1u, l.x == 0u);
//: for j in 0..PX / SG
        let in{j} = iy < p.ih && ix{j} < p.iw;
        let at{j} = select(0u, (row + ix{j}) * ci, in{j});
//: end
        let in_edge = iy < p.ih && l.x < 2u && edge < p.iw;
        let at_edge = select(0u, (row + edge) * ci, in_edge);
        let wb = ((g.y * 3u + ky) * 3u * p.ci4) * SG + l.x;
        for (var c = 0u; c < ci; c++) {
//: for j in 0..PX / SG
            let x{j} = x[at{j} + c];
//: for h in 0..XW / 4
            let x{j}_{h} = select(vec4f(), quad(x{j}[{h * 2}], x{j}[{h * 2 + 1}]), in{j});
//: end
//: end
            var e = vec{XW / 2}<u64>();
            if (EDGES == 1u) {
                e = x[at_edge + c];
            }
//: for h in 0..XW / 4
            let e_{h} = select(vec4f(), quad(e[{h * 2}], e[{h * 2 + 1}]), in_edge);
//: end
//: for k in 0..3
//: for h in 0..XW / 4
            let w{k}_{h} = w[wb + ({k}u * p.ci4 + c * (XW / 4u) + {h}u) * SG];
//: end
//: for r in 0..XW
            let b{k}_{r} = two(w{k}_{r / 4}[{r % 4}]);
//: end
//: end
//: for r in 0..XW
            let s0_{r} = subgroupShuffle(e_{r / 4}[{r % 4}], 0u);
//: for i in 0..PX
            let s{i + 1}_{r} = subgroupShuffle(x{i / SG}_{r / 4}[{r % 4}], {i % SG}u);
//: end
            let s{PX + 1}_{r} = subgroupShuffle(e_{r / 4}[{r % 4}], 1u);
//: end
//: for i in 0..PX
            a{i} = a{i}
//: for r in 0..XW
                + s{i}_{r} * b0_{r} + s{i + 1}_{r} * b1_{r} + s{i + 2}_{r} * b2_{r}
//: end
            ;
//: end
        }
    }
    let c = g.y * SG + l.x;
    let to = (t * p.ow + ox) * p.co4 * 2u + c;
//: for e in 0..AFFINE
    // Of the pair's half of its quad of channels.
    let at = min(c, p.co4 * 2u - 1u);
    let scale = affine[at / 2u * 4u + at % 2u];
    let shift = affine[at / 2u * 4u + at % 2u + 2u];
//: end
//: for i in 0..PX
    if (ox + {i}u < p.ow && c < p.co4 * 2u) {
//: for e in 0..AFFINE
        a{i} = a{i} * scale + shift;
//: end
//: for e in 0..RESIDUAL
        a{i} += two(residual[to + {i}u * p.co4 * 2u]);
//: end
//: for e in 0..RELU
        a{i} = rectified(a{i}.xyxy).xy;
//: end
        y[to + {i}u * p.co4 * 2u] = pair(a{i});
    }
//: end
}

@compute @workgroup_size(SG, 4)
fn weight_gradient(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_id) l: vec3u) {
    let slice = g.x * 4u + l.y;
    let ci = p.ci4 * 4u / XW;
    let c = g.z * SG + l.x;
    let column = min(c, p.co4 * 2u - 1u);
//: for k in 0..9
//: for r in 0..XW
    var a{k}_{r} = vec2f();
//: end
//: end
    var t = slice * p.rows_a_slice; // an image row: (n, oy)
    var n = t / p.oh;
    var oy = t - n * p.oh;
    for (var s = 0u; s < p.rows_a_slice; s++) {
        let real = t < p.n * p.oh;
        for (var ox = 0u; ox < p.ow; ox += PX) {
//: for i in 0..PX
            let ok{i} = real && ox + {i}u < p.ow;
            let d{i} = select(vec2f(), two(gy[select(0u, (t * p.ow + ox + {i}u) * p.co4 * 2u, ok{i}) + column]), ok{i});
//: end
//: for j in 0..PX / SG + 1
            let ix{j} = ox + {j * SG}u + l.x - 1u;
//: end
//: for k in 0..3
            let iy{k} = oy + {k}u - 1u;
//: for j in 0..PX / SG + 1
            let in{k}_{j} = real && iy{k} < p.ih && ix{j} < p.iw;
            let x{k}_{j} = x[select(0u, ((n * p.ih + iy{k}) * p.iw + ix{j}) * ci, in{k}_{j}) + g.y];
//: for h in 0..XW / 4
            let x{k}_{j}_{h} = select(vec4f(), quad(x{k}_{j}[{h * 2}], x{k}_{j}[{h * 2 + 1}]), in{k}_{j});
//: end
//: end
//: for i in 0..PX + 2
//: for r in 0..XW
            let s{k}_{i}_{r} = subgroupShuffle(x{k}_{i / SG}_{r / 4}[{r % 4}], {i % SG}u);
//: end
//: end
//: for q in 0..3
//: for r in 0..XW
            a{k * 3 + q}_{r} = a{k * 3 + q}_{r}
//: for i in 0..PX
                + s{k}_{i + q}_{r} * d{i}
//: end
            ;
//: end
//: end
//: end
        }
        // The next row without a division, which lavapipe does lane by lane.
        t++;
        oy++;
        if (oy == p.oh) {
            oy = 0u;
            n++;
        }
    }
    let to = (slice * 9u * p.ci4 * 4u + g.y * XW) * p.co4 * 2u + c;
    if (c < p.co4 * 2u) {
//: for k in 0..9
//: for r in 0..XW
        slices[to + ({k}u * p.ci4 * 4u + {r}u) * p.co4 * 2u] = pair(a{k}_{r});
//: end
//: end
    }
}
