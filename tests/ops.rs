//! Every op's cases on this machine's adapter, against the CPU oracle.

mod common;

use dau::ops::{OPS, check};

#[test]
fn every_op_agrees_with_its_oracle() {
    let kernels = common::kernels();
    let mut failed = Vec::new();
    for op in OPS {
        for case in (op.cases)() {
            match check(&kernels, &case, 1) {
                Ok(r) if r.error <= r.allowed => println!("{} {}: {:.1e} <= {:.1e}", op.name, case.name, r.error, r.allowed),
                Ok(r) => failed.push(format!("{} {}: error {:.2e}, allowed {:.2e}", op.name, case.name, r.error, r.allowed)),
                Err(e) => failed.push(format!("{} {}: {e}", op.name, case.name)),
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
