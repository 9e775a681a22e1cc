// A load of two quads of channels; common/quads.wgsl says for whom. load1.wgsl has the same functions for one.
//: include quads
alias Load = vec4<u64>;

fn quad0(l: Load) -> vec4f {
    return quad(l.x, l.y);
}

fn quad1(l: Load) -> vec4f {
    return quad(l.z, l.w);
}

fn load(a: vec4f, b: vec4f) -> Load {
    return vec4<u64>(pair(a.xy), pair(a.zw), pair(b.xy), pair(b.zw));
}
