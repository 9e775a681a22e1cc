// How far apart Winograd's 36 matrices of rows x 4 c4 begin, in vec4: 128 bytes more than they hold. Powers of two would put all
// 36 values of a tile into the same few sets of a cache.
fn pitch(rows: u32, c4: u32) -> u32 {
    return rows * c4 + 8u;
}
