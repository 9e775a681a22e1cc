// y = x w' + b and its gradients: gx = gy w, gw = gy' x, gb = sum of gy's rows.
// x, gx: [n][d4] of vec4; w, gw: [k][d4] of vec4 (PyTorch's [K, D]); b, gb: [k]; y, gy: [n][k].
// partial: [chunks][k][d4 + 1] of vec4, the gradient over `chunk` rows each; the bias is the weight of one more input that is
// always 1, in column d4.
// forward: an invocation owns 4 rows and 4 outputs. backward_input: 4 rows, one quadruple of inputs.
// backward_weight: 4 outputs, one quadruple, the rows of one chunk. sum_chunks: one entry of [k][d4 + 1], chunks in order.
// A tile that hangs over an edge reads the last row or output again and does not write it.
//: include index
struct Params { n: u32, k: u32, d4: u32, chunk: u32, chunks: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> w: array<vec4f>;
@group(0) @binding(3) var<storage, read> b: array<f32>;
@group(0) @binding(4) var<storage, read> gy: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<storage, read_write> gx: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> partial: array<vec4f>;
@group(0) @binding(8) var<storage, read_write> gw: array<vec4f>;
@group(0) @binding(9) var<storage, read_write> gb: array<f32>;

@compute @workgroup_size(64)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    let tiles = (p.k + 3u) / 4u;
    let n0 = (i / tiles) * 4u;
    let k0 = (i % tiles) * 4u;
    if n0 >= p.n {
        return;
    }
    //: for r in 0..4
    let n_{r} = min(n0 + {r}u, p.n - 1u);
    let k_{r} = min(k0 + {r}u, p.k - 1u);
    var s_{r} = vec4f(b[k0], b[min(k0 + 1u, p.k - 1u)], b[min(k0 + 2u, p.k - 1u)], b[min(k0 + 3u, p.k - 1u)]);
    //: end
    for (var d = 0u; d < p.d4; d++) {
        //: for c in 0..4
        let w_{c} = w[k_{c} * p.d4 + d];
        //: end
        //: for r in 0..4
        let x_{r} = x[n_{r} * p.d4 + d];
        s_{r} += vec4f(dot(x_{r}, w_0), dot(x_{r}, w_1), dot(x_{r}, w_2), dot(x_{r}, w_3));
        //: end
    }
    //: for r in 0..4
    if n0 + {r}u < p.n {
        for (var c = 0u; c < min(4u, p.k - k0); c++) {
            y[(n0 + {r}u) * p.k + k0 + c] = s_{r}[c];
        }
    }
    //: end
}

@compute @workgroup_size(64)
fn backward_input(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    let n0 = (i / p.d4) * 4u;
    let d = i % p.d4;
    if n0 >= p.n {
        return;
    }
    //: for r in 0..4
    let n_{r} = min(n0 + {r}u, p.n - 1u);
    var s_{r} = vec4f();
    //: end
    for (var k = 0u; k < p.k; k++) {
        let v = w[k * p.d4 + d];
        //: for r in 0..4
        s_{r} += gy[n_{r} * p.k + k] * v;
        //: end
    }
    //: for r in 0..4
    if n0 + {r}u < p.n {
        gx[(n0 + {r}u) * p.d4 + d] = s_{r};
    }
    //: end
}

@compute @workgroup_size(64)
fn backward_weight(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    let columns = p.d4 + 1u;
    let tiles = (p.k + 3u) / 4u;
    let d = i % columns;
    let k0 = (i / columns % tiles) * 4u;
    let chunk = i / columns / tiles;
    if chunk >= p.chunks {
        return;
    }
    //: for c in 0..4
    let k_{c} = min(k0 + {c}u, p.k - 1u);
    var s_{c} = vec4f();
    //: end
    for (var n = chunk * p.chunk; n < min((chunk + 1u) * p.chunk, p.n); n++) {
        let v = select(x[n * p.d4 + min(d, p.d4 - 1u)], vec4f(1.0), d == p.d4);
        //: for c in 0..4
        s_{c} += gy[n * p.k + k_{c}] * v;
        //: end
    }
    //: for c in 0..4
    if k0 + {c}u < p.k {
        partial[(chunk * p.k + k0 + {c}u) * columns + d] = s_{c};
    }
    //: end
}

@compute @workgroup_size(64)
fn sum_chunks(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    let columns = p.d4 + 1u;
    let k = i / columns;
    let d = i % columns;
    if k >= p.k {
        return;
    }
    var s = vec4f();
    for (var chunk = 0u; chunk < p.chunks; chunk++) {
        s += partial[(chunk * p.k + k) * columns + d];
    }
    if d < p.d4 {
        gw[k * p.d4 + d] = s;
    } else {
        gb[k] = s.x;
    }
}
