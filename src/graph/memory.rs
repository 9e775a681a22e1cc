//! Which buffer each temporary lives in: a pure function of lifetimes.

/// When a temporary is in use, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// The first step that uses it.
    pub first: usize,
    /// The last step that uses it; may be the first.
    pub last: usize,
    /// Bytes that it needs.
    pub bytes: u64,
}

/// Buffers and, for each lifetime, the index of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Bytes of each buffer.
    pub buffers: Vec<u64>,
    /// For each lifetime, in the order given, an index into `buffers`.
    pub of: Vec<usize>,
}

/// Shares whole buffers among lifetimes that do not overlap: largest first, each into the fullest-fitting buffer that is
/// free throughout, growing none. Whole buffers, because WebGPU forbids one buffer bound both for reading and for writing in
/// one dispatch, even at disjoint ranges.
pub fn assign(lifetimes: &[Lifetime]) -> Assignment {
    let mut order: Vec<usize> = (0..lifetimes.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lifetimes[i].bytes), lifetimes[i].first));
    let mut out = Assignment { buffers: Vec::new(), of: vec![0; lifetimes.len()] };
    let mut tenants: Vec<Vec<Lifetime>> = Vec::new();
    for i in order {
        let l = lifetimes[i];
        // Sizes only fall, so every existing buffer is large enough: the last free one is the tightest.
        let free = (0..tenants.len()).rev().find(|&b| tenants[b].iter().all(|t| t.last < l.first || l.last < t.first));
        let b = free.unwrap_or_else(|| {
            out.buffers.push(l.bytes);
            tenants.push(Vec::new());
            tenants.len() - 1
        });
        tenants[b].push(l);
        out.of[i] = b;
    }
    out
}
