// PCG-RXS-M-XS 32 (O'Neill 2014; as a hash: Jarzynski and Olano, JCGT 2020). ops::augment has its CPU twin.
fn hash(x: u32) -> u32 {
    let state = x * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}
