// The most likely class and its probability: best = the first index of the row's maximum, confidence = its softmax.
// logits: [n][k]; best (u32), confidence: [n]. An invocation owns a row.
//: include index
struct Params { n: u32, k: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read_write> best: array<u32>;
@group(0) @binding(3) var<storage, read_write> confidence: array<f32>;

@compute @workgroup_size(64)
fn choose(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if i >= p.n {
        return;
    }
    let row = i * p.k;
    var at = 0u;
    var top = logits[row];
    for (var j = 1u; j < p.k; j++) {
        let z = logits[row + j];
        if z > top {
            top = z;
            at = j;
        }
    }
    var sum = 0.0;
    for (var j = 0u; j < p.k; j++) {
        sum += exp(logits[row + j] - top);
    }
    best[i] = at;
    confidence[i] = 1.0 / sum;
}
