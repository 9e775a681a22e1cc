//! Every op's cases on this machine's adapter, against the CPU oracle, in every staging the adapter offers.

mod common;

use dau::gpu::Staging;
use dau::kernel::Kernels;
use dau::ops::{OPS, check};

fn run_all(kernels: &Kernels) {
    let mut failed = Vec::new();
    for op in OPS {
        for case in (op.cases)() {
            match check(kernels, &case, 1) {
                Ok(r) if r.error <= r.allowed => println!("{} {}: {:.1e} <= {:.1e}", op.name, case.name, r.error, r.allowed),
                Ok(r) => failed.push(format!("{} {}: error {:.2e}, allowed {:.2e}", op.name, case.name, r.error, r.allowed)),
                Err(e) => failed.push(format!("{} {}: {e}", op.name, case.name)),
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_op_agrees_with_its_oracle_in_the_adapters_own_staging() {
    run_all(&common::kernels());
}

#[test]
fn every_op_agrees_with_its_oracle_with_workgroup_tiles() {
    run_all(&common::kernels_with(Staging::WorkgroupTile));
}

#[test]
fn every_op_agrees_with_its_oracle_with_register_blocks() {
    run_all(&common::kernels_with(Staging::RegisterBlock));
}
