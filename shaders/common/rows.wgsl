// How batch normalisation deals out the rows and channels of its tensors: QUADS vec4 a load (load1, load2), LANES_R rows and LANES_C loads beside each other.
//: include index
const LANES_C = 4u;
const LANES_R = 2u;
const LANES = LANES_C * LANES_R;

struct Params { rows: u32, c4: u32, chunk: u32, chunks: u32, sample_rows: u32, n_valid: u32, eps: f32, momentum: f32 }
@group(0) @binding(0) var<uniform> p: Params;

// What an invocation owns: rows first, first + LANES_R, .. below end, at load c.
struct Part { chunk: u32, c: u32, first: u32, end: u32 }

fn part(g: vec3u, ng: vec3u, l: u32) -> Part {
    let blocks = (p.c4 / QUADS + LANES_C - 1u) / LANES_C;
    let i = linear_index(g, ng, 0u, 1u);
    let chunk = i / blocks;
    let c = (i % blocks) * LANES_C + l % LANES_C;
    // A lane past the last channel owns no rows.
    let end = select(0u, min((chunk + 1u) * p.chunk, p.rows), c < p.c4 / QUADS);
    return Part(chunk, c, chunk * p.chunk + l / LANES_C, end);
}

fn valid_rows() -> u32 {
    return min(p.n_valid * p.sample_rows, p.rows);
}
