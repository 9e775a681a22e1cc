//! Every op's cases on this machine's adapter, against the CPU oracle, in every staging the adapter offers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::process::Command;

use dau::gpu::{AdapterChoice, Caps, Gpu, LimitChoice, Matrix, Precision, Staging};
use dau::kernel::Kernels;
use dau::ops::{OPS, check, matrices_add_up};

fn run_all(kernels: &Kernels) {
    run_some(kernels, |_| true, 1);
}

/// Of the ops whose name is wanted every so many-th case.
fn run_some(kernels: &Kernels, wanted: impl Fn(&str) -> bool, every: usize) {
    let mut failed = Vec::new();
    for op in OPS.iter().filter(|op| wanted(op.name)) {
        for case in (op.cases)().into_iter().step_by(every) {
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

/// On a GPU an invocation of a transform owns one quad of channels, on a CPU driver two: with WebGPU's defaults there are no 64-bit loads.
#[test]
fn every_convolution_agrees_with_its_oracle_with_winograd_on_tiles() {
    let choice = AdapterChoice { staging: Some(Staging::WinogradTile), ..Default::default() };
    for (limits, wide) in [(LimitChoice::Adapter, true), (LimitChoice::Default, false)] {
        let kernels = Kernels::new(Gpu::open(&AdapterChoice { limits, ..choice.clone() }).unwrap());
        assert!(!kernels.gpu().caps().cpu || kernels.gpu().caps().wide == wide);
        run_some(&kernels, |op| op.starts_with("conv2d"), 1);
        assert!(kernels.made("winograd") && kernels.made("products_tile") && !kernels.made("conv2d_shuffle"));
    }
}

/// Ways that no rule chooses, and `dau tune` may: invocations that own eight channels. A third of the cases, since CPU drivers take long to
/// compile so much text: they are small and odd shapes, and such as Winograd is for.
#[test]
fn every_convolution_agrees_with_its_oracle_with_wide_tiles() {
    let kernels = common::kernels();
    for way in kernels.gpu().caps().candidates().into_iter().filter(|way| way.own == Some([8, 8])) {
        run_some(&kernels.with(way), |op| ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"].contains(&op), 3);
    }
    assert!(kernels.made("products_tile") && kernels.made("conv2d_tile"));
}

#[test]
fn every_op_agrees_with_its_oracle_with_register_blocks() {
    run_all(&common::kernels_with(Staging::RegisterBlock));
}

#[test]
fn every_op_agrees_with_its_oracle_with_cooperative_matrices() {
    agree_with_matrices(Precision::Mixed);
}

#[test]
fn every_op_agrees_with_its_oracle_as_closely_as_f32_with_split_operands() {
    agree_with_matrices(Precision::Split);
}

fn agree_with_matrices(precision: Precision) {
    let Some(kernels) = common::kernels_with_matrices(precision) else { return };
    let caps = kernels.gpu().caps();
    assert_eq!((caps.staging, caps.rounds()), (Staging::CooperativeMatrix, precision == Precision::Mixed));
    run_all(&kernels);
    assert!(kernels.made("conv2d_matrix") && !kernels.made("conv2d_tile"));
    assert!(matrices_add_up(&kernels).unwrap());
}

/// Tiles that the rule leaves to GPUs. A fifth of the cases: CPU drivers take long to compile so much text.
#[test]
fn every_convolution_agrees_with_its_oracle_with_matrices_on_every_tile() {
    for kernels in [Precision::Mixed, Precision::Split].into_iter().filter_map(common::kernels_with_matrices) {
        agree_on_every_tile(&kernels);
    }
}

fn agree_on_every_tile(kernels: &Kernels) {
    for way in kernels.gpu().caps().candidates().into_iter().filter(|way| way.staging == Staging::CooperativeMatrix) {
        run_some(&kernels.with(way), |op| ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"].contains(&op), 5);
    }
}

/// A test that cannot run where it is must not look like one that has passed.
#[test]
fn a_test_of_matrices_that_is_skipped_says_so() {
    let test = "every_op_agrees_with_its_oracle_with_cooperative_matrices";
    let run = Command::new(std::env::current_exe().unwrap()).args(["--exact", test]).output().unwrap();
    let said = [run.stdout, run.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(run.status.success() && said[0].contains("1 passed"), "{said:?}");
    let there = Gpu::open(&AdapterChoice { precision: Precision::Mixed, ..Default::default() }).is_ok();
    assert_eq!(said[1].contains(&format!("skipped: {test}: ")), !there, "{said:?}");
}

#[test]
fn f16_is_allowed_what_rounding_its_operands_costs_and_no_other_kernel_is() {
    for op in OPS {
        for case in (op.cases)() {
            let caps = common::kernels().gpu().caps();
            let with = |staging, planes| Caps { staging, matrix: Some(Matrix { planes, ..Matrix::default() }), ..caps };
            let of = [with(Staging::WorkgroupTile, 1), with(Staging::CooperativeMatrix, 1), with(Staging::CooperativeMatrix, 2)];
            let [f32, f16, split] = of.map(|caps| case.allowed(caps));
            assert_eq!(split, f32);
            let rounds = op.name.starts_with("conv2d") && !case.name.ends_with("whole numbers");
            // 2^-11 for either operand, as independent changes add.
            assert_eq!(f16 - f32 > 6e-4, rounds, "{} {}", op.name, case.name);
            assert!(f16 - f32 < 7e-4, "{} {}: {f16:e}", op.name, case.name);
        }
    }
}

#[test]
fn matrices_are_never_chosen_for_f32_and_never_without_being_there() {
    let offered = |kernels: &Kernels| kernels.gpu().caps().stagings().contains(&Staging::CooperativeMatrix);
    assert!(!offered(&common::kernels()));
    let refused = |precision, staging| match Gpu::open(&AdapterChoice { precision, staging, ..Default::default() }) {
        Ok(_) => None,
        Err(e) => Some(e.to_string()),
    };
    let forced = refused(Precision::F32, Some(Staging::CooperativeMatrix)).expect("f32 has no matrices");
    assert!(forced.contains("add --precision mixed"), "{forced}");
    match refused(Precision::Mixed, None) {
        None => assert!(common::kernels_with_matrices(Precision::Mixed).is_some_and(|kernels| offered(&kernels))),
        Some(why) => {
            assert!(why.contains("dau devices") && why.contains("Leave --precision mixed out"), "{why}");
        }
    }
}
