// A tensor into f16, as the matrix kernels multiply it, and the power of two by which a gradient goes there: scale[0] brings the largest of
// its values to 2^14 .. 2^15, scale[1] = 1 / scale[0]. Found anew in each step and for each tensor, it needs no state, no guess and no step
// thrown away, as one loss scale for the whole network does; and a maximum is the same in whatever order it is taken. Multiplying by it is
// exact, nothing overflows, and what is lost is 2^-29 of the largest value and less.
//
// x [4 n4] f32, bound as vec4; maxima [count] f32; scale [2] f32; half [PLANES, 4 n4] f16 (common/half).
// largest: workgroup g of `count` puts the largest |x| of its vec4s, each count * 256th, into maxima[g].
// choose: one workgroup makes scale of maxima. From 2^-112 on down the power stays 2^126; infinities and NaN stay what they are.
// pack: half of x, multiplied by scale[0] where SCALED. An invocation a vec4.
enable f16;
const PLANES = 1u;
const SCALED = 0u;
//: include index
struct Params { n4: u32, count: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> maxima: array<f32>;
@group(0) @binding(3) var<storage, read_write> scale: array<f32>;
@group(0) @binding(4) var<storage, read_write> half: array<vec4<f16>>;
@group(0) @binding(5) var<storage, read> chosen: array<f32>;
//: include half

var<workgroup> tops: array<f32, 256>;

// The largest of all invocations' values, in tops[0] for invocation 0.
fn largest_of(mine: f32, l: u32) {
    tops[l] = mine;
    for (var width = 128u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if (l < width) {
            tops[l] = max(tops[l], tops[l + width]);
        }
    }
}

@compute @workgroup_size(256)
fn largest(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) l: u32) {
    var top = vec4f();
    for (var i = g.x * 256u + l; i < p.n4; i += p.count * 256u) {
        top = max(top, abs(x[i]));
    }
    largest_of(max(max(top.x, top.y), max(top.z, top.w)), l);
    if (l == 0u) {
        maxima[g.x] = tops[0];
    }
}

@compute @workgroup_size(256)
fn choose(@builtin(local_invocation_index) l: u32) {
    var mine = 0.0;
    for (var i = l; i < p.count; i += 256u) {
        mine = max(mine, maxima[i]);
    }
    largest_of(mine, l);
    if (l == 0u) {
        // Exponents as f32 holds them, 127 more than they are: the largest value has 2^(e - 127), the power shall be 2^(141 - e).
        let e = bitcast<u32>(tops[0]) >> 23u;
        let up = min(268u - e, 253u);
        scale[0] = bitcast<f32>(up << 23u);
        scale[1] = bitcast<f32>((254u - up) << 23u);
    }
}

@compute @workgroup_size(256)
fn pack(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 256u);
    if (i >= p.n4) {
        return;
    }
    var v = x[i];
//: for s in 0..SCALED
    v *= chosen[0];
//: end
    put_half(i, v);
}
