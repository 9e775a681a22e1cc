//! `dau bench` as its users meet it.

use std::process::{Command, Output};

use serde_json::Value;

const TINY: [&str; 7] = ["bench", "--width", "4", "--batch", "2", "--image-size", "8"];

fn dau(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dau"));
    // Without XDG_RUNTIME_DIR Mesa's OpenGL complains on stderr.
    command.args(args).env("XDG_RUNTIME_DIR", std::env::temp_dir()).env_remove("RUST_LOG");
    command.output().expect("dau starts")
}

fn json(args: &[&str]) -> Value {
    let output = dau(args);
    assert!(output.status.success(), "dau {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("json")
}

fn positive(value: &Value, key: &str) {
    assert!(value[key].as_f64().is_some_and(|x| x > 0.0), "{key} in {value}");
}

#[test]
fn every_kernel_is_timed_beside_the_roof() {
    let found = json(&[&TINY[..], &["--json"]].concat());
    assert!(found["adapter"].is_string());
    positive(&found["roof"], "gflops");
    positive(&found["roof"], "gbps");
    let kernels = found["kernels"].as_array().expect("kernels");
    for kernel in kernels {
        for key in ["us", "gbps", "roof_share", "count"] {
            positive(kernel, key);
        }
        for key in ["op", "entry", "shape"] {
            assert!(kernel[key].as_str().is_some_and(|s| !s.is_empty()), "{key} in {kernel}");
        }
        let convolution = kernel["op"].as_str().is_some_and(|op| op.starts_with("conv2d"));
        assert_eq!(kernel["staging"].is_string(), convolution, "{kernel}");
        assert!(!convolution || kernel["gflops"].as_f64().is_some_and(|x| x > 0.0), "{kernel}");
    }
    let runs = |op: &str| kernels.iter().filter(|k| k["op"] == op).filter_map(|k| k["count"].as_u64()).sum::<u64>();
    // ResNet-18: 17 convolutions, 3 projections; the images need no gradient.
    assert_eq!(["conv2d", "conv2d_input_grad", "conv2d_weight_grad", "batch_norm"].map(runs), [20, 19, 20, 20]);
}

#[test]
fn a_filter_leaves_some_ops_and_says_when_it_leaves_none() {
    let found = json(&[&TINY[..], &["--op", "pool", "--json"]].concat());
    let ops: Vec<_> = found["kernels"].as_array().expect("kernels").iter().map(|k| k["op"].clone()).collect();
    assert_eq!(ops, ["global_avg_pool", "global_avg_pool_grad"]);
    let refused = dau(&[&TINY[..], &["--op", "fft"]].concat());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("--op fft: no such op") && said.contains("conv2d_weight_grad"), "{said}");
}

#[test]
fn a_step_is_timed_and_its_memory_said() {
    let found = json(&[&TINY[..], &["--step", "--json"]].concat());
    for what in ["training", "inference"] {
        positive(&found[what], "ms");
        positive(&found[what], "images_per_second");
    }
    for key in ["variables", "step", "unshared"] {
        positive(&found["memory"], key);
    }
    assert!(found["memory"]["step"].as_u64() < found["memory"]["unshared"].as_u64(), "buffers are shared");
    // Where the adapter has no timestamps there is none.
    for share in found["breakdown"].as_array().into_iter().flatten() {
        positive(share, "us");
        positive(share, "dispatches");
    }
    let table = dau(&[&TINY[..], &["--step"]].concat());
    let text = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(text.contains("images a second") && text.contains("memory"), "{text}");
}
