// What a convolution does to its sums on their way out, for a batch normalisation by running statistics that follows it:
// y = relu?(sum * scale + shift + residual?). affine [co4][2]: scale and shift by quads of channels (batch_norm.fold_running); residual: as y.
// With AFFINE = 0 nothing of it is in a kernel.
const AFFINE = 0u;
const RESIDUAL = 0u;
const RELU = 0u;

// Not max(v, 0), which may hide a NaN.
fn rectified(v: vec4f) -> vec4f {
    return select(v, vec4f(), v <= vec4f());
}
