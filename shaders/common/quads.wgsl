// Channels in 64-bit loads: a driver that takes a load lane by lane (lavapipe) takes as long for a vec4 of u64 as for one of f32,
// so eight channels cost what four did. A quad is 4 channels, two u64; needs 64-bit integers.
fn quad(a: u64, b: u64) -> vec4f {
    return bitcast<vec4f>(vec4u(u32(a), u32(a >> 32u), u32(b), u32(b >> 32u)));
}

// Two channels of a quad as they lie in memory.
fn pair(v: vec2f) -> u64 {
    let u = bitcast<vec2u>(v);
    return u64(u.x) | (u64(u.y) << 32u);
}
