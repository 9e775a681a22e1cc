//! What the integration tests share.
#![allow(dead_code)]

use dau::gpu::{AdapterChoice, Gpu, Staging};
use dau::kernel::Kernels;

/// The machine's best adapter. No adapter fails the test: a run without one would prove nothing.
pub fn kernels() -> Kernels {
    open(AdapterChoice::default())
}

pub fn kernels_with(staging: Staging) -> Kernels {
    open(AdapterChoice { staging: Some(staging), ..Default::default() })
}

fn open(choice: AdapterChoice) -> Kernels {
    let gpu = Gpu::open(&choice).unwrap_or_else(|e| panic!("the tests need an adapter: {e}"));
    Kernels::new(gpu)
}
