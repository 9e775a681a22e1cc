//! The end of a weight gradient that was made in slices. Shader: `shaders/reduce.wgsl`.

use crate::graph::{Launch, Lowered, Param, Shape, Slot, groups};
use crate::kernel::KernelId;

/// `main`, whose `slices` are [slices, 4 n4], and their sum.
pub(super) fn summed(main: Launch, slices: usize, n4: usize) -> Lowered {
    let sum = sum_slices(Slot::Scratch(0), Slot::Out(0), slices, n4);
    Lowered { scratch: vec![Shape::f32(&[slices, n4 * 4])], launches: vec![main, sum] }
}

/// The sum `to` [4 n4] of `from` [count, 4 n4].
pub(super) fn sum_slices(from: Slot, to: Slot, count: usize, n4: usize) -> Launch {
    Launch {
        kernel: KernelId::new("reduce", "sum_slices"),
        bind: vec![("slices", from), ("y", to)],
        params: vec![("n4", Param::U32(n4 as u32)), ("count", Param::U32(count as u32))],
        groups: groups(n4, 64),
    }
}
