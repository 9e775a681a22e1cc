//! `dau bench` as its users meet it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;

use common::program::{self, stderr};
use serde_json::Value;

const TINY: [&str; 7] = ["bench", "--width", "4", "--batch", "2", "--image-size", "8"];

fn dau(args: &[&str]) -> Output {
    program::dau(Path::new("."), args)
}

fn json(args: &[&str]) -> Value {
    let output = dau(args);
    assert!(output.status.success(), "dau {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("json")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
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
    let named: std::collections::BTreeSet<String> =
        kernels.iter().map(|k| format!("{} {} {}", k["op"], k["entry"], k["shape"])).collect();
    assert_eq!(named.len(), kernels.len(), "op, entry and shape tell the kernels apart, for --baseline");
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
    for key in ["variables", "step", "unshared", "activations"] {
        positive(&found["memory"], key);
    }
    assert!(found["memory"]["activations"].as_u64() < found["memory"]["step"].as_u64(), "the step keeps them");
    let floor = &found["floor"];
    for key in ["bytes", "flops", "ms", "share"] {
        positive(floor, key);
    }
    let of = |op: &str, key: &str| {
        let ops = floor["ops"].as_array().expect("ops");
        ops.iter().find(|w| w["op"] == op).and_then(|w| w[key].as_u64()).unwrap_or_else(|| panic!("{key} of {op}"))
    };
    // Pixels of 2 images of 8x8 once, as a word and as four floats; parameters and velocities read and written, gradients read.
    assert_eq!(of("augment", "bytes"), 2 * 8 * 8 * (4 + 16));
    // Momenta are as large as what is trained, running statistics and counters aside.
    let trained = of("sgd", "bytes") / 5;
    let variables = found["memory"]["variables"].as_u64().expect("variables");
    assert!(trained * 2 < variables && variables < trained * 5 / 2, "{trained} of {variables}");
    // 1x1 and 3x3 convolutions by their direct sum: each gradient takes what the forward pass does, the images have none.
    assert_eq!(of("conv2d", "flops"), of("conv2d_weight_grad", "flops"));
    // Where two gradients meet, one may be added as the other is made.
    let gradients = |w: &&Value| w["op"].as_str().is_some_and(|op| op.starts_with("conv2d_input_grad"));
    let ops = floor["ops"].as_array().expect("ops");
    let input_grads: u64 = ops.iter().filter(gradients).filter_map(|w| w["flops"].as_u64()).sum();
    assert_eq!(of("conv2d", "flops") - input_grads, 2 * 2 * 8 * 8 * 3 * 3 * 4 * 4);
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

#[test]
fn a_shader_is_printed_as_the_driver_gets_it() {
    // Workgroups of the subgroup-shuffle staging depend on the adapter; these do not.
    let output = dau(&[&TINY[..], &["--staging", "register-block", "--print-shader", "conv2d_register.gather"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.starts_with("// conv2d_register.gather<MT="), "{text}");
    let tile = text.split("MT=").nth(1).and_then(|t| t.split('>').next()).expect("the tile");
    assert!(text.contains(&format!("const MT = {tile}u;")), "the constant is not in place: {text}");
    assert!(text.contains("struct Params") && text.contains("fn gather("), "includes are in place: {text}");
    assert!(!text.contains("//: "), "a directive is left: {text}");

    // Every set of constants: with a ReLU and without.
    let text = stdout(&dau(&[&TINY[..], &["--print-shader", "batch_norm.normalise"]].concat()));
    assert!(text.contains("const RELU = 0u;") && text.contains("const RELU = 1u;"), "{text}");

    // By the file's name.
    let text = stdout(&dau(&[&TINY[..], &["--print-shader", "optimizer"]].concat()));
    assert!(text.contains("// optimizer.") && text.contains("NESTEROV=1") && text.contains("const NESTEROV = 1u;"), "{text}");
}

#[test]
fn an_unknown_shader_is_refused_with_the_known_ones() {
    let output = dau(&[&TINY[..], &["--print-shader", "conv2d_fft"]].concat());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(output.stdout.is_empty());
    assert!(said.contains("--print-shader conv2d_fft: no such kernel") && said.contains("batch_norm."), "{said}");
}

/// The two kernels that the tests below time.
const POOL: [&str; 2] = ["--op", "pool"];

/// What `found` would be if each kernel had taken `factor` times as long.
fn baseline(place: &Path, found: &Value, factor: f64) -> PathBuf {
    let mut found = found.clone();
    for kernel in found["kernels"].as_array_mut().expect("kernels") {
        kernel["us"] = (kernel["us"].as_f64().expect("us") * factor).into();
    }
    let file = place.join("baseline.json");
    std::fs::write(&file, found.to_string()).expect("written");
    file
}

/// Runs the two kernels against a baseline file.
fn against(file: &Path, more: &[&str]) -> Output {
    dau(&[&TINY[..], &POOL, &["--baseline", file.to_str().expect("text")], more].concat())
}

#[test]
fn kernels_slower_than_the_baseline_are_named_and_fail() {
    let place = tempfile::tempdir().expect("a folder");
    let found = json(&[&TINY[..], &POOL, &["--json"]].concat());
    // A factor that no noise reaches.
    let file = baseline(place.path(), &found, 1e-3);
    let output = against(&file, &[]);
    let (table, said) = (stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("by more than 10 %: global_avg_pool ") && said.contains("global_avg_pool_grad "), "{said}");
    assert!(table.contains("the same adapter") && table.contains("slower"), "{table}");
    assert!(!said.contains("WARNING"), "{said}");

    let output = against(&file, &["--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let found: Value = serde_json::from_slice(&output.stdout).expect("json, slower or not");
    let ratios = found["baseline"]["ratios"].as_array().expect("ratios");
    assert_eq!(ratios.len(), 2);
    for ratio in ratios {
        assert!(ratio["time"].as_f64().is_some_and(|x| x > 10.0) && ratio["slower"] == true, "{ratio}");
        positive(ratio, "roof_share");
    }
    let output = against(&file, &["--tolerance", "1e9"]);
    assert!(output.status.success(), "a tolerance is kept to: {}", stderr(&output));
}

#[test]
fn kernels_as_fast_as_the_baseline_pass_and_strangers_are_listed() {
    let place = tempfile::tempdir().expect("a folder");
    let mut found = json(&[&TINY[..], &POOL, &["--json"]].concat());
    let output = against(&baseline(place.path(), &found, 1e3), &["--tolerance", "0"]);
    assert!(output.status.success(), "{}", stderr(&output));

    // Another adapter, a kernel that is gone and a new one.
    found["adapter"] = "a GPU of old".into();
    found["kernels"][0]["op"] = "max_pool".into();
    let output = against(&baseline(place.path(), &found, 1e3), &[]);
    let (table, said) = (stdout(&output), stderr(&output));
    assert!(output.status.success(), "{said}");
    assert!(said.contains("WARNING") && said.contains("ANOTHER ADAPTER, a GPU of old"), "{said}");
    assert!(table.contains("only here: global_avg_pool ") && table.contains("only in the baseline: max_pool "), "{table}");
}

#[test]
fn a_damaged_baseline_is_refused_before_anything_is_timed() {
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("baseline.json");
    let row =
        r#"{"op":"add","entry":"add.add","shape":"2x2","staging":null,"us":US,"gflops":0,"gbps":1,"roof_share":0.5,"count":1}"#;
    let whole = format!(r#"{{"adapter":"a","roof":{{"gflops":1,"gbps":1}},"kernels":[{row}]}}"#);
    let cases = [
        (whole[..40].to_string(), "is not what `dau bench --json` writes"),
        (r#"{"adapter": "a", "training": {"ms": 1}}"#.to_string(), "missing field `roof`"),
        (whole.replace("US", "0"), "damaged: add 2x2 has us = 0"),
        (whole.replace("US", "1"), "no kernel of this training step"),
    ];
    for (text, why) in cases {
        std::fs::write(&file, text).expect("written");
        let output = against(&file, &[]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{why}: {said}");
        assert!(said.contains("baseline.json") && said.contains(why), "{why}: {said}");
        assert!(output.stdout.is_empty(), "{why}");
    }
    let said = stderr(&against(&place.path().join("none.json"), &[]));
    assert!(said.contains("none.json cannot be read"), "{said}");
}
