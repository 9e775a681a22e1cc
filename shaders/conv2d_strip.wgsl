// 3x3 convolution, stride 1, padding 1, for few channels: part of staging "subgroup-shuffle", where a subgroup as wide as the channels
// would run half empty. A lane owns a strip of PX pixels along x: what it loads of a row serves all three taps of that row.
//
// gather:           y[n, oy, ox, co] = sum over ky, kx, ci of x[n, oy + ky - 1, ox + kx - 1, ci] w[ky, kx, ci, co]. For the input
//                   gradient x is the upstream gradient, w flipped and transposed.
// weight_gradient:  slices[s, ky, kx, ci, co] = sum over the strips of slice s of x[n, oy + ky - 1, ox + kx - 1, ci] gy[n, oy, ox, co];
//                   reduce.sum_slices adds the slices.
//
// x [n, ih, iw, 4 ci4], y and gy [n, oh, ow, 4 co4], w [3, 3, 4 ci4, 4 co4], slices [.., 3, 3, 4 ci4, 4 co4], all f32, bound as vec4
// along channels. Strips: (image, row, ceil(ow / PX)).
//
// gather: a lane owns one strip x 16 channels; lanes load other weights and hand them round. A workgroup is 4 subgroups; grid: strips /
// (4 SG), channels / 16. weight_gradient: a lane is a slice, every SG-th of its subgroup's SG rows_a_slice strips, and owns all taps, 4 ci
// and 16 co of it. A workgroup is 4 subgroups; grid: slices / (4 SG), ci / 4, co / 16.
const SG = 8u;
const PX = 8u;
// Loads a lane takes for the 16 vec4 of one tap and 4 ci: ceil(16 / SG).
const WL = 2u;

//: include conv2d

// A strip's image, row and first pixel.
struct Strip { inside: bool, n: u32, oy: u32, ox: u32 }

fn strip(s: u32) -> Strip {
    let across = (p.ow + PX - 1u) / PX;
    let row = s / across;
    let n = row / p.oh;
    return Strip(n < p.n, n, row - n * p.oh, (s - row * across) * PX);
}

// Pixel ox of the row of x that begins at `row`; zero outside.
fn pixel(row: u32, inside: bool, ox: u32) -> vec4f {
    let in = inside && ox < p.iw; // -1 is past it too
    return select(vec4f(), x[select(0u, row + ox * p.ci4, in)], in);
}

@compute @workgroup_size(SG, 4)
fn gather(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_id) l: vec3u) {
    let t = strip((g.x * 4u + l.y) * SG + l.x);
    let first = g.y * 4u;
    // Of the weights this lane loads: 4 rows ci of 4 vec4.
//: for j in 0..WL
    let r{j} = (l.x + {j}u * SG) % 16u / 4u;
    let w{j} = r{j} * p.co4 + min(first + (l.x + {j}u * SG) % 4u, p.co4 - 1u);
//: end
//: for i in 0..PX
//: for q in 0..4
    var a{i}_{q} = vec4f();
//: end
//: end
    for (var ky = 0u; ky < 3u; ky++) {
        let iy = t.oy + ky - p.off;
        let inside = t.inside && iy < p.ih;
        let row = select(0u, (t.n * p.ih + iy) * p.iw * p.ci4, inside);
        for (var c = 0u; c < p.ci4; c++) {
//: for i in 0..PX + 2
            let x{i} = pixel(row + c, inside, t.ox + {i}u - 1u);
//: end
//: for k in 0..3
//: for j in 0..WL
            let b{k}_{j} = w[((ky * 3u + {k}u) * p.ci4 + c) * 4u * p.co4 + w{j}];
//: end
//: for i in 0..16
            let s{k}_{i} = vec4f(
                subgroupShuffle(b{k}_{i / SG}.x, {i % SG}u), subgroupShuffle(b{k}_{i / SG}.y, {i % SG}u),
                subgroupShuffle(b{k}_{i / SG}.z, {i % SG}u), subgroupShuffle(b{k}_{i / SG}.w, {i % SG}u));
//: end
//: end
//: for i in 0..PX
//: for q in 0..4
            a{i}_{q} += x{i}.x * s0_{q} + x{i}.y * s0_{q + 4} + x{i}.z * s0_{q + 8} + x{i}.w * s0_{q + 12}
                + x{i + 1}.x * s1_{q} + x{i + 1}.y * s1_{q + 4} + x{i + 1}.z * s1_{q + 8} + x{i + 1}.w * s1_{q + 12}
                + x{i + 2}.x * s2_{q} + x{i + 2}.y * s2_{q + 4} + x{i + 2}.z * s2_{q + 8} + x{i + 2}.w * s2_{q + 12};
//: end
//: end
        }
    }
    let to = ((t.n * p.oh + t.oy) * p.ow + t.ox) * p.co4 + first;
//: for i in 0..PX
//: for q in 0..4
    if (t.inside && t.ox + {i}u < p.ow && first + {q}u < p.co4) {
        y[to + {i}u * p.co4 + {q}u] = a{i}_{q};
    }
//: end
//: end
}

@compute @workgroup_size(SG, 4)
fn weight_gradient(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_id) l: vec3u) {
    let group = g.x * 4u + l.y;
    let first = g.z * 4u;
//: for y in 0..3
//: for r in 0..4
//: for q in 0..4
    var a{y}0{r}{q} = vec4f();
    var a{y}1{r}{q} = vec4f();
    var a{y}2{r}{q} = vec4f();
//: end
//: end
//: end
    for (var k = 0u; k < p.rows_a_slice; k++) {
        let t = strip((group * p.rows_a_slice + k) * SG + l.x);
        let gb = select(0u, ((t.n * p.oh + t.oy) * p.ow + t.ox) * p.co4, t.inside);
//: for i in 0..PX
        let in{i} = t.inside && t.ox + {i}u < p.ow;
//: for q in 0..4
        let d{i}_{q} = select(vec4f(), gy[select(0u, gb + {i}u * p.co4, in{i}) + min(first + {q}u, p.co4 - 1u)], in{i});
//: end
//: end
//: for y in 0..3
        let iy{y} = t.oy + {y}u - p.off;
        let inside{y} = t.inside && iy{y} < p.ih;
        let row{y} = select(0u, (t.n * p.ih + iy{y}) * p.iw * p.ci4, inside{y}) + g.y;
//: for i in 0..PX + 2
        let x{y}_{i} = pixel(row{y}, inside{y}, t.ox + {i}u - 1u);
//: end
//: for r in 0..4
//: for q in 0..4
        a{y}0{r}{q} = a{y}0{r}{q}
//: for i in 0..PX
            + x{y}_{i}[{r}] * d{i}_{q}
//: end
            ;
        a{y}1{r}{q} = a{y}1{r}{q}
//: for i in 0..PX
            + x{y}_{i + 1}[{r}] * d{i}_{q}
//: end
            ;
        a{y}2{r}{q} = a{y}2{r}{q}
//: for i in 0..PX
            + x{y}_{i + 2}[{r}] * d{i}_{q}
//: end
            ;
//: end
//: end
//: end
    }
    let slice = group * SG + l.x;
//: for y in 0..3
//: for r in 0..4
//: for q in 0..4
    if (first + {q}u < p.co4) {
        let to = ((slice * 9u + {y * 3}u) * p.ci4 + g.y) * 4u * p.co4 + {r}u * p.co4 + first + {q}u;
        slices[to] = a{y}0{r}{q};
        slices[to + 4u * p.ci4 * p.co4] = a{y}1{r}{q};
        slices[to + 8u * p.ci4 * p.co4] = a{y}2{r}{q};
    }
//: end
//: end
//: end
}
