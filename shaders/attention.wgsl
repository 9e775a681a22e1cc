// Attention transfer (Zagoruyko and Komodakis 2017) from a teacher's activation to a student's, an image each:
//   A_p = sum_c x_pc^2 at pixel p,  a = A / (||A||_2 + 1e-6),  loss = beta / pixels sum_p d_p^2,  d = a of the student - a of the teacher,
// and its gradient, weighted by image, with respect to the student's activation x:
//   2 x_pc pull_p,  pull_p = 2 beta weight / pixels (d_p - A_p / ||A|| sum_q d_q a_q) / (||A|| + 1e-6).
//
// x, gx: [n][pixels][c4] of vec4 along channels; attention, student, teacher (maps A), pull: [n][pixels]; weight, loss: [n]. loss is not
// weighted. An image of weight 0 has gradient 0 whatever its activations are.
// map: an invocation owns a pixel. compare: a workgroup owns an image; sums in a fixed order. spread: an invocation owns a vec4.
//: include index
struct Params { n: u32, pixels: u32, c4: u32, beta: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> student: array<f32>;
@group(0) @binding(3) var<storage, read> teacher: array<f32>;
@group(0) @binding(4) var<storage, read> weight: array<f32>;
@group(0) @binding(5) var<storage, read_write> attention: array<f32>;
@group(0) @binding(6) var<storage, read_write> loss: array<f32>;
@group(0) @binding(7) var<storage, read_write> pull: array<f32>;
@group(0) @binding(8) var<storage, read_write> gx: array<vec4f>;

const LEAST = 1e-6;

@compute @workgroup_size(64)
fn map(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if i >= p.n * p.pixels {
        return;
    }
    var sum = 0.0;
    for (var c = 0u; c < p.c4; c++) {
        let v = x[i * p.c4 + c];
        sum += dot(v, v);
    }
    attention[i] = sum;
}

var<workgroup> sums: array<vec2f, 256>;

// The sum of all invocations' values, for all of them.
fn sum_of(mine: vec2f, l: u32) -> vec2f {
    workgroupBarrier();
    sums[l] = mine;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if l < half {
            sums[l] += sums[l + half];
        }
    }
    workgroupBarrier();
    return sums[0];
}

@compute @workgroup_size(256)
fn compare(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) l: u32) {
    let first = g.x * p.pixels;
    let end = first + p.pixels;
    var squares = vec2f();
    for (var i = first + l; i < end; i += 256u) {
        let both = vec2f(student[i], teacher[i]);
        squares += both * both;
    }
    let norm = sqrt(sum_of(squares, l));
    var mine = vec2f();
    for (var i = first + l; i < end; i += 256u) {
        let a = student[i] / (norm.x + LEAST);
        let d = a - teacher[i] / (norm.y + LEAST);
        mine += vec2f(d * d, d * a);
    }
    let all = sum_of(mine, l);
    let share = p.beta / f32(p.pixels);
    if l == 0u {
        loss[g.x] = share * all.x;
    }
    let force = 2.0 * share * weight[g.x] / (norm.x + LEAST);
    for (var i = first + l; i < end; i += 256u) {
        let d = student[i] / (norm.x + LEAST) - teacher[i] / (norm.y + LEAST);
        // Where the student's map is 0, so is its activation.
        let along = student[i] / max(norm.x, 1e-30) * all.y;
        // Not 0 * garbage.
        pull[i] = select(force * (d - along), 0.0, weight[g.x] == 0.0);
    }
}

@compute @workgroup_size(64)
fn spread(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if i >= p.n * p.pixels * p.c4 {
        return;
    }
    let mine = pull[i / p.c4];
    gx[i] = select(2.0 * mine * x[i], vec4f(), mine == 0.0);
}
