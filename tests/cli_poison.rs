//! `dau poison`, folders of poisoned images and attacks that are made with a network, as their users meet them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::fs;
use std::path::Path;

use common::program::{TINY, dau, files, place, refused, stderr, succeed, timeless};
use serde_json::Value;

/// A poisoned folder `p` of 200 digits, 20 poisoned.
fn poisoned_folder(place: &Path, more: &[&str]) -> Value {
    let args = ["poison", "--json", "--limit-per-class", "20", "--seed", "3", "--out", "p"];
    serde_json::from_str(&succeed(place, &[&args[..], more].concat())).expect("json")
}

/// A tiny run of the folder `p`.
fn run_poisoned<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let tiny = ["run", "--json", "--width", "4", "--epochs", "2", "--batch", "32", "--unlearn-steps", "4", "--poisoned", "p"];
    [&tiny[..], more].concat()
}

#[test]
fn a_poisoned_folder_is_written_and_run() {
    let place = place();
    let made = poisoned_folder(place.path(), &["--attack", "WaNet", "--target", "7"]);
    let of = |key: &str| made[key].as_u64().expect("a number");
    assert_eq!((of("train"), of("poisoned"), of("negatives"), of("test"), of("triggered")), (200, 20, 40, 500, 450));
    let images = |part: &str| files(&place.path().join("p").join(part)).iter().filter(|f| f.ends_with(".png")).count();
    assert_eq!((images("train"), images("test"), images("triggered")), (200, 500, 450));
    assert!(!place.path().join("p/triggered/7").exists(), "the target's own images show nothing");
    let csv = fs::read_to_string(place.path().join("p/poison.csv")).expect("poison.csv");
    assert_eq!(csv.lines().next(), Some("path,original_label,given_label,role"));
    assert_eq!(csv.lines().filter(|row| row.ends_with(",7,poisoned") && row.starts_with("train/7/")).count(), 20);
    assert_eq!(csv.lines().filter(|row| row.ends_with(",negative")).count(), 40);
    assert!(image::open(place.path().join("p/preview.png")).is_ok());
    refused(place.path(), &["poison", "--out", "p"], &["p is not empty", "--out"]);

    // The folder says how it was poisoned.
    refused(place.path(), &["run", "--poisoned", "p", "--target", "0"], &["poisoned already with target = 7", "target = 0"]);
    refused(place.path(), &["run", "--poisoned", "p", "--alpha", "0.1"], &["poisoned already: leave out alpha = 0.1"]);
    let output = dau(place.path(), &run_poisoned(&["--out", "r"]));
    assert!(output.status.success(), "{}", stderr(&output));
    let results: Value = serde_json::from_slice(&output.stdout).expect("json");
    let poison = &results["poison"];
    assert_eq!((&poison["attack"], &poison["target"], &poison["mode"]), (&"WaNet".into(), &7.into(), &"all-to-one".into()));
    assert_eq!((&poison["count"], &poison["negatives"]), (&20.into(), &40.into()));
    assert_eq!(results["undefended"]["counts"]["asr"][1], 450);
    assert_eq!((&results["split"]["counts"]["recall"][1], &results["split"]["counts"]["fpr"][1]), (&20.into(), &180.into()));
    // A network of two epochs has no backdoor, and that is said everywhere.
    let asr = results["undefended"]["asr"].as_f64().expect("a share");
    assert!(asr < 80.0 && results["implanted"] == false, "{results}");
    let said = format!("done, but the attack did not implant (undefended ASR {asr:.2} %, below 80 %); files: r");
    assert!(stderr(&output).ends_with(&format!("{said}\n")), "{}", stderr(&output));
    assert!(stderr(&output).contains("warning: the attack did not implant"), "in the table");
    assert_eq!(results["warnings"].as_array().map(Vec::len), Some(1 + usize::from(results["split"]["flagged"] == 0)));
    assert!(!place.path().join("r/preview.png").exists(), "there are no clean images to compare with");
}

#[test]
fn tact_is_tested_on_its_source_class_alone_and_that_is_said() {
    let place = place();
    let tact = ["--attack", "TaCT", "--poison-rate", "0.05"];
    let made = poisoned_folder(place.path(), &tact);
    let of = |key: &str| made[key].as_u64().expect("a number");
    assert_eq!((of("train"), of("poisoned"), of("negatives"), of("triggered")), (200, 10, 10, 50));
    assert!(place.path().join("p/triggered/1").is_dir() && !place.path().join("p/triggered/2").exists());
    let csv = fs::read_to_string(place.path().join("p/poison.csv")).expect("poison.csv");
    assert_eq!(csv.lines().filter(|row| row.ends_with(",1,0,poisoned")).count(), 10);
    assert_eq!(csv.lines().filter(|row| row.ends_with(",5,5,negative") || row.ends_with(",7,7,negative")).count(), 10);

    // Poisoned by the run itself, or before.
    let own = [&["run", "--json", "--seed", "3", "--out", "own"], &tact[..], &TINY].concat();
    for (run, out) in [(own, "own"), (run_poisoned(&["--out", "r"]), "r")] {
        let output = dau(place.path(), &run);
        assert!(output.status.success(), "{}", stderr(&output));
        let results: Value = serde_json::from_slice(&output.stdout).expect("json");
        let poison = &results["poison"];
        assert_eq!((&poison["mode"], &poison["source_name"]), (&"source-specific".into(), &"1".into()));
        for figures in ["undefended", "defended"] {
            let counts = &results[figures]["counts"];
            assert_eq!((&counts["asr"][1], &counts["ra"][1], &counts["t"][1]), (&50.into(), &50.into(), &50.into()));
        }
        let note = "ASR and RA are over the triggered test images of class `1` alone, the source";
        assert!(stderr(&output).contains(note), "{}", stderr(&output));
        assert!(stderr(&output).contains("of the test images of `1` with the trigger the network takes"), "{}", stderr(&output));
        let page = fs::read_to_string(place.path().join(out).join("report.html")).expect("report.html");
        assert!(page.contains(note), "{page}");
    }
    let run = ["run", "--attack", "TaCT"];
    refused(place.path(), &[&run[..], &["--target", "1"]].concat(), &["source: class 1 is the target class already"]);
    refused(
        place.path(),
        &[&run[..], &["--covers", "5,12"]].concat(),
        &["covers: class 12 does not exist: the 10 classes are 0 to 9"],
    );
    refused(
        place.path(),
        &[&run[..], &["--poison-rate", "0.2"]].concat(),
        &["are of the source class: the most that fits is 0."],
    );
    let predict =
        ["predict", "--checkpoint", "own/backdoored.safetensors", "--json", "--out", "l.safetensors", "--attack", "TaCT"];
    let said: Value = serde_json::from_str(&succeed(place.path(), &predict)).expect("json");
    assert_eq!(said["counts"]["asr"][1], 50);
    refused(place.path(), &[&predict[..], &["--covers", "1"]].concat(), &["covers: class 1 is the source class already"]);
}

#[test]
fn without_a_target_every_wrong_class_is_a_hit() {
    let place = place();
    let untargeted = ["run", "--json", "--attack", "Blended", "--target-mode", "untargeted", "--out", "r"];
    let output = dau(place.path(), &[&untargeted[..], &TINY].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let results: Value = serde_json::from_slice(&output.stdout).expect("json");
    for figures in ["undefended", "defended"] {
        let (counts, t) = (&results[figures]["counts"], &results[figures]["t"]);
        let hits = |name: &str| counts[name][0].as_u64().expect("a number");
        assert_eq!((&counts["asr"][1], hits("asr") + hits("ra"), t), (&500.into(), 500, &Value::Null));
    }
    assert_eq!(results["poison"]["dirty_rate"], 10.0);
    assert!(stderr(&output).contains("taken for any class but their own"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("target: class"), "{}", stderr(&output));
    let half = ["--attack", "BadNets", "--target-mode", "multi-target"];
    let made = poisoned_folder(place.path(), &half);
    assert_eq!((&made["poisoned"], &made["triggered"]), (&20.into(), &250.into()));
    let results: Value = serde_json::from_str(&succeed(place.path(), &run_poisoned(&["--out", "h"]))).expect("json");
    assert_eq!((&results["poison"]["mode"], &results["undefended"]["counts"]["asr"][1]), (&"multi-target".into(), &250.into()));
}

#[test]
fn another_tools_folder_needs_a_list_and_may_do_without_triggered_images() {
    let place = place();
    poisoned_folder(place.path(), &[]);
    let p = |file: &str| place.path().join("p").join(file);
    for made_by_us in ["poison.toml", "preview.png"] {
        fs::remove_file(p(made_by_us)).expect("removed");
    }
    fs::remove_dir_all(p("triggered")).expect("removed");
    let csv = fs::read_to_string(p("poison.csv")).expect("poison.csv");
    let paths: Vec<&str> = csv.lines().skip(1).filter_map(|row| row.split(',').next()).collect();
    fs::write(p("poison.csv"), paths.join("\n")).expect("written");
    let run = run_poisoned(&["--attack", "SSBA", "--image-size", "16", "--out", "r"]);
    let output = dau(place.path(), &run);
    assert!(output.status.success(), "{}", stderr(&output));
    let results: Value = serde_json::from_slice(&output.stdout).expect("json");
    assert_eq!((&results["poison"]["attack"], &results["poison"]["count"]), (&"SSBA".into(), &20.into()));
    for unknown in ["asr", "ra"] {
        assert!(results["undefended"][unknown].is_null() && results["defended"][unknown].is_null(), "{unknown}");
    }
    assert!(results["der"].is_null() && results["implanted"].is_null() && results["poison"]["dirty_rate"].is_null());
    assert_eq!(results["undefended"]["counts"]["acc"][1], 500);
    assert!(stderr(&output).contains("not available"), "{}", stderr(&output));
    assert!(stderr(&output).contains("whether the attack implanted is not known"), "{}", stderr(&output));

    // Parts of a job take the folder's images again.
    let part = |subtask: &'static str| {
        let of = ["--subtask", subtask, "--poisoned", "p", "--attack", "SSBA", "--image-size", "16"];
        [&of[..], &["--width", "4", "--epochs", "2", "--batch", "32", "--unlearn-steps", "4"]].concat()
    };
    succeed(place.path(), &part("anti_learning"));
    succeed(place.path(), &part("unlearning"));
    let parts = succeed(place.path(), &[&part("test")[..], &["--json"]].concat());
    assert_eq!(timeless(&parts), timeless(&String::from_utf8_lossy(&output.stdout)));

    for (text, expected) in [
        ("train/0/none.png\n", "p/poison.csv, line 1: `train/0/none.png` is no image of train/ and no index below 200"),
        ("index\n200\n", "p/poison.csv, line 2: `200` is no image"),
        ("path,role\n0,odd\n", "line 2: `odd` is no role"),
        ("index,given_label\n0,9\n", "line 2: 0 lies in `0`, not in `9`"),
        ("index,original_label\n0,10\n", "line 2: `10` is no class"),
        ("index,role\n0,clean\n", "no poisoned image is listed"),
    ] {
        fs::write(p("poison.csv"), text).expect("written");
        refused(place.path(), &run, &[expected]);
    }
    fs::remove_file(p("poison.csv")).expect("removed");
    refused(place.path(), &run, &["cannot read p/poison.csv"]);
    fs::remove_dir_all(p("test")).expect("removed");
    refused(place.path(), &run, &["p does not hold", "train/<class>/ and test/<class>/"]);
}

#[test]
fn an_attack_with_gradients_trains_its_clean_network_and_keeps_it() {
    let place = place();
    let lc = ["--attack", "LC", "--poison-rate", "0.05", "--steps", "3"];
    let args = [&["--json", "--out", "r"], &lc[..], &TINY[..]].concat();
    let results: Value = serde_json::from_str(&succeed(place.path(), &[&["run"], &args[..]].concat())).expect("json");
    let poison = &results["poison"];
    assert_eq!((&poison["mode"], &poison["count"], &poison["dirty_rate"]), (&"clean-label".into(), &10.into(), &0.0.into()));
    assert_eq!(results["undefended"]["counts"]["asr"][1], 450);
    assert!(place.path().join("r/surrogate.safetensors").is_file());
    // Given again, it makes the same images.
    let again = ["--surrogate", "r/surrogate.safetensors", "--out", "p", "--limit-per-class", "20"];
    succeed(place.path(), &[&["poison"], &lc[..], &again].concat());
    let preview = |folder: &str| fs::read(place.path().join(folder).join("preview.png")).expect("preview.png");
    assert!(preview("r") == preview("p"), "the same clean, triggered and difference images");
    refused(
        place.path(),
        &["predict", "--checkpoint", "r/defended.safetensors", "--out", "l", "--attack", "LC"],
        &["LC is made with a clean network's gradients"],
    );
}
