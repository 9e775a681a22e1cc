//! What the integration tests share.
#![allow(dead_code)]

use dau::gpu::{AdapterChoice, Gpu};
use dau::kernel::Kernels;

/// The machine's best adapter. No adapter fails the test: a run without one would prove nothing.
pub fn kernels() -> Kernels {
    let gpu = Gpu::open(&AdapterChoice::default()).unwrap_or_else(|e| panic!("the tests need an adapter: {e}"));
    Kernels::new(gpu)
}
