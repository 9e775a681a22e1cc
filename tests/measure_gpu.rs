//! `scripts/measure_gpu.sh`, dry: tiny sizes on whatever adapter there is.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn script(place: &Path, settings: &[(&str, &str)]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("scripts/measure_gpu.sh"));
    let tiny = [("WIDTH", "4"), ("BATCHES", "4 8"), ("STARTS", "2"), ("PYTHON", "no-such-python")];
    command.arg(place.join("out")).arg(env!("CARGO_BIN_EXE_dau")).envs(tiny).envs(settings.iter().copied());
    command.env_remove("DATA").output().expect("a shell")
}

#[test]
fn parts_leave_their_figures_and_how_they_ended() {
    let place = tempfile::tempdir().unwrap();
    let output = script(place.path(), &[("PARTS", "devices start step-f32-8")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let out = place.path().join("out");
    let parts = fs::read_to_string(out.join("parts.tsv")).unwrap();
    let rows: Vec<Vec<&str>> = parts.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), ["devices", "start-1", "start-2", "step-f32-8"]);
    for row in rows {
        assert!(row[1] == "0" && row[2].parse::<f64>().unwrap() >= 0.0, "{row:?}\n{said}");
    }
    let json = |file: &str| -> Value { serde_json::from_str(&fs::read_to_string(out.join(file)).unwrap()).expect(file) };
    assert!(json("step-f32-8.json")["batch"] == 8 && json("start-2.json")["batch"] == 4);

    let again = script(place.path(), &[]);
    assert!(again.status.code() == Some(2) && String::from_utf8_lossy(&again.stderr).contains("is there already"));
}

#[test]
fn what_does_not_fit_into_the_time_is_skipped() {
    let place = tempfile::tempdir().unwrap();
    let output = script(place.path(), &[("TOTAL", "5")]);
    assert!(output.status.success());
    let parts = fs::read_to_string(place.path().join("out/parts.tsv")).unwrap();
    let names: Vec<&str> = parts.lines().map(|line| line.strip_suffix("\tskipped\t0").expect(line)).collect();
    let (starts, steps) = (["devices", "start-1", "start-2"], ["step-f32-4", "step-f32-8"]);
    assert!([&starts[..], &steps].concat().iter().all(|name| names.contains(name)), "{names:?}");
    let others = ["selftest", "kernels-f32", "tune-f32", "demo"];
    assert!(others.iter().all(|name| names.contains(name)), "{names:?}");
}
