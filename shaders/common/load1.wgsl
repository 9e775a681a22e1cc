// A load of one quad of channels. load2.wgsl has the same functions for two; `//: include load{QUADS}` chooses.
alias Load = vec4f;

fn quad0(l: Load) -> vec4f {
    return l;
}

fn load(a: vec4f) -> Load {
    return a;
}
