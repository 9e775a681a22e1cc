// Values in f16, as the matrix kernels multiply these: v = hi, or with two PLANES hi + lo / LOW, one plane after the other. f16 holds
// 6e-8 .. 65504, and full precision from 6e-5 on; lo is made larger, so that it has that for all that hi holds. Needs
// `half`, an array of vec4 of f16, where it is written.
const LOW = 2048.0;

// How many of `values` vec4 a plane has.
fn plane(values: u32) -> u32 {
    return values / PLANES;
}

fn put_half(at: u32, v: vec4f) {
//: for b in 1..PLANES
    // v as f16 rounds it, by bits: 11 significant ones, and none below 2^-24. A compiler may take the way to f16 and back for no change at all.
    let bits = bitcast<vec4u>(v);
    let exponent = (bits >> vec4u(23u)) & vec4u(255u);
    let dropped = vec4u(13u) + vec4u(113u) - min(exponent, vec4u(113u));
    let unit = vec4u(1u) << min(dropped, vec4u(23u));
    let hi = bitcast<vec4f>(select((bits + unit / 2u) & (vec4u(0u) - unit), vec4u(), dropped > vec4u(23u)));
    half[plane(arrayLength(&half)) + at] = vec4<f16>((v - hi) * LOW);
    half[at] = vec4<f16>(hi);
//: end
//: for b in PLANES..2
    half[at] = vec4<f16>(v);
//: end
}
