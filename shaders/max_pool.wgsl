// Max pooling over windows of `kernel` x `kernel`, and its gradient:
// y[n][oy][ox][c] = max over ky, kx of x[n][oy stride + ky - pad][ox stride + kx - pad][c], padding left out;
// first[n][oy][ox][c] = ky kernel + kx of the first maximum in the window's order: it gets the whole gradient, as in PyTorch.
// x, gx: [N][ih][iw][c4] of vec4 along channels; y, gy, first, tap: [N][oh][ow][c4]. An invocation owns a channel quadruple of one pixel:
// `take` of y, with its window; `give` of gx, with the windows that it lies in. items = N * pixels * c4.
//: include index
struct Params { items: u32, ih: u32, iw: u32, oh: u32, ow: u32, c4: u32, kernel: u32, stride: u32, pad: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> gy: array<vec4f>;
@group(0) @binding(3) var<storage, read> tap: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> first: array<vec4u>;
@group(0) @binding(6) var<storage, read_write> gx: array<vec4f>;

struct Place { n: u32, y: u32, x: u32, c: u32 }

// Invocation i's, in images of h x w pixels.
fn place(i: u32, h: u32, w: u32) -> Place {
    let pixel = i / p.c4;
    return Place(pixel / w / h, pixel / w % h, pixel % w, i % p.c4);
}

@compute @workgroup_size(64)
fn take(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if i >= p.items {
        return;
    }
    let o = place(i, p.oh, p.ow);
    // Every window holds a pixel: pad < kernel.
    var best = vec4f(-3.4028234e38);
    var at = vec4u(p.kernel * p.kernel);
    for (var ky = 0u; ky < p.kernel; ky++) {
        let iy = o.y * p.stride + ky - p.pad; // wraps above the image, and so is not below ih
        for (var kx = 0u; kx < p.kernel; kx++) {
            let ix = o.x * p.stride + kx - p.pad;
            if iy < p.ih && ix < p.iw {
                let v = x[((o.n * p.ih + iy) * p.iw + ix) * p.c4 + o.c];
                // The first pixel counts even where it is the lowest number.
                let better = (v > best) | (at == vec4u(p.kernel * p.kernel));
                best = select(best, v, better);
                at = select(at, vec4u(ky * p.kernel + kx), better);
            }
        }
    }
    y[i] = best;
    first[i] = at;
}

@compute @workgroup_size(64)
fn give(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) ng: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = linear_index(g, ng, l, 64u);
    if i >= p.items {
        return;
    }
    let at = place(i, p.ih, p.iw);
    var sum = vec4f();
    for (var ky = 0u; ky < p.kernel; ky++) {
        // The window in which this pixel is tap ky, if there is one: oy stride = iy + pad - ky.
        let top = at.y + p.pad - ky;
        for (var kx = 0u; kx < p.kernel; kx++) {
            let left = at.x + p.pad - kx;
            let oy = top / p.stride;
            let ox = left / p.stride;
            if top % p.stride == 0u && left % p.stride == 0u && oy < p.oh && ox < p.ow {
                let o = ((at.n * p.oh + oy) * p.ow + ox) * p.c4 + at.c;
                sum += select(vec4f(), gy[o], tap[o] == vec4u(ky * p.kernel + kx));
            }
        }
    }
    gx[i] = sum;
}
