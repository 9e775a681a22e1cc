//! A run that is killed at any moment goes on by the same command and ends with the same bits.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::program::{command, dau, place, refused, stderr, succeed, timeless};
use rand::RngExt;
use serde_json::Value;

const RUN: [&str; 16] = [
    "run",
    "--json",
    "--seed",
    "3",
    "--width",
    "4",
    "--epochs",
    "5",
    "--limit-per-class",
    "20",
    "--batch",
    "16",
    "--unlearn-steps",
    "60",
    "--out",
    "r",
];

/// Kills in all; `DAU_KILLS` asks for more.
fn kills() -> usize {
    std::env::var("DAU_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(4)
}

/// `metrics.jsonl` but for the clock.
fn metrics(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).expect("metrics.jsonl");
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
    for line in &mut lines {
        line["seconds"] = Value::Null;
        line["images_per_second"] = Value::Null;
    }
    lines
}

fn same(place: &Path, whole: &Path) {
    let [folder, whole] = [place, whole].map(|place| place.join("r"));
    for file in ["backdoored.safetensors", "defended.safetensors", "findings.json", "evidence.json", "split.csv", "poison.csv"] {
        let [a, b] = [&folder, &whole].map(|folder| fs::read(folder.join(file)).expect(file));
        assert!(a == b, "{file} differs from the undisturbed run's");
    }
    assert_eq!(metrics(&folder), metrics(&whole));
    let [a, b] =
        [&folder, &whole].map(|folder| timeless(&fs::read_to_string(folder.join("results.json")).expect("results.json")));
    assert_eq!(a, b);
    let left = fs::read_dir(&folder).expect("readable").flatten().map(|file| file.file_name().to_string_lossy().into_owned());
    let strays: Vec<String> =
        left.filter(|name| name.ends_with(".tmp") || name.starts_with("training") || name.starts_with("unlearning")).collect();
    assert!(strays.is_empty(), "{strays:?} stay");
}

#[test]
fn a_killed_run_goes_on_and_ends_with_the_bits_of_an_undisturbed_one() {
    let whole = place();
    let began = Instant::now();
    let undisturbed = succeed(whole.path(), &RUN);
    let length = began.elapsed();
    let mut rng = dau::rng::stream(u64::from(std::process::id()), "kill");
    let (mut left, mut stages) = (kills(), Vec::new());
    while left > 0 {
        let place = place();
        loop {
            let out = |stream| Stdio::from(fs::File::create(place.path().join(stream)).expect("a file"));
            let mut child = command(place.path(), &RUN).stdout(out("stdout")).stderr(out("stderr")).spawn().expect("dau starts");
            let until = Instant::now() + length.mul_f64(rng.random_range(0.05..0.9));
            let done = loop {
                match child.try_wait().expect("a child") {
                    Some(status) => break Some(status),
                    None if left > 0 && Instant::now() >= until => {
                        child.kill().expect("killed");
                        child.wait().expect("dead");
                        break None;
                    }
                    None => std::thread::sleep(Duration::from_millis(5)),
                }
            };
            let said = fs::read_to_string(place.path().join("stderr")).expect("text");
            let Some(status) = done else {
                left -= 1;
                stages.push(said.lines().last().unwrap_or("nothing").to_string());
                continue;
            };
            assert!(status.success(), "{said}");
            break;
        }
        same(place.path(), whole.path());
    }
    println!("killed after: {stages:#?}");

    // Ended, the same command shows it again and writes nothing; another one is told what differs; by force it begins anew.
    let output = dau(whole.path(), &RUN);
    assert_eq!(String::from_utf8_lossy(&output.stdout), undisturbed);
    assert!(stderr(&output).contains("r holds this run, ended"), "{}", stderr(&output));
    let other = [&RUN[..], &["--lr", "0.5"]].concat();
    refused(whole.path(), &other, &["r holds a run with lr = 0.02, and this one has lr = 0.5", "--force"]);
}
