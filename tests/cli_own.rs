//! `dau defend`, `scan`, `unlearn` and `predict --images` as their users meet them: images of their own, and no ground truth.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::program::{dau, place, stderr, succeed};
use serde_json::Value;

/// Settings of the digits, a small network, few steps: seconds on a CPU.
const TINY: [&str; 8] = ["--dataset", "digits", "--width", "4", "--epochs", "2", "--unlearn-steps", "4"];

fn json(place: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&succeed(place, &[args, &["--json"]].concat())).expect("json")
}

/// Refused with exit code 2 and a last line that holds all of `parts`; `out` is not there.
fn refused(place: &Path, args: &[&str], parts: &[&str]) {
    let output = dau(place, &[args, &["--out", "refused"]].concat());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "dau {args:?}: {said}");
    let error = said.lines().last().unwrap_or_default();
    assert!(error.starts_with("error: "), "dau {args:?}: {said}");
    for part in parts {
        assert!(error.contains(part), "dau {args:?} does not say `{part}`: {error}");
    }
    assert!(output.stdout.is_empty() && !place.join("refused").exists(), "dau {args:?} wrote something");
}

fn bytes(path: PathBuf) -> Vec<u8> {
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn text(path: PathBuf) -> String {
    String::from_utf8(bytes(path)).expect("text")
}

/// The paths of a table's rows that end in `poisoned`.
fn poisoned(csv: &str) -> HashSet<String> {
    let said = |row: &&str| row.ends_with(",poisoned") || row.contains(",poisoned,");
    csv.lines().filter(said).filter_map(|row| Some(row.split_once(',')?.0.to_string())).collect()
}

/// Where, made once, lie `p`, poisoned digits, and `r`, what `defend` left of them; and what that said as JSON.
fn defended() -> &'static (PathBuf, Value) {
    static RUN: OnceLock<(PathBuf, Value)> = OnceLock::new();
    RUN.get_or_init(|| {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("own");
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(&place).expect("made");
        succeed(&place, &["poison", "--limit-per-class", "80", "--seed", "4", "--out", "p"]);
        let results = json(&place, &[&["defend", "--data", "p", "--out", "r"], &TINY[..]].concat());
        (place, results)
    })
}

#[test]
fn defend_finds_the_class_and_the_images_and_says_so_in_words() {
    let (place, results) = defended();
    let verdict = &results["verdict"];
    assert_eq!((&verdict["found"], &verdict["classes"][0]["name"]), (&true.into(), &"0".into()), "{verdict}");
    assert_eq!(verdict["classes"].as_array().map(Vec::len), Some(1));
    let (found, truth) = (poisoned(&text(place.join("r/suspects.csv"))), poisoned(&text(place.join("p/poison.csv"))));
    let right = found.intersection(&truth).count();
    assert!(right as f64 >= 0.9 * found.len().max(truth.len()) as f64, "{right} of {}, {} are poison", found.len(), truth.len());
    assert_eq!(verdict["flagged"], found.len());

    let csv = text(place.join("r/suspects.csv"));
    assert_eq!((csv.lines().count(), csv.lines().next()), (801, Some("path,label,score,verdict,suspicion")));
    let scores: Vec<f32> = csv.lines().skip(1).filter_map(|row| row.split(',').nth(2)?.parse().ok()).collect();
    assert!(scores.len() == 800 && scores.is_sorted_by(|a, b| a >= b), "the most suspicious first");
    let words = text(place.join("r/verdict.txt"));
    for part in ["A backdoor was found in class `0`:", "What it means:", "What to do:", "cannot see", "does not certify"] {
        assert!(words.contains(part), "`{part}` is not in {words}");
    }
    let sheet = image::open(place.join("r/suspects.png")).expect("a picture").to_rgb8();
    assert!(sheet.pixels().any(|p| p.0 == [220, 30, 30]), "flagged images are framed");
    assert!(text(place.join("r/scores.svg")).contains(&format!("{} of 800 training images flagged", found.len())));
    let page = text(place.join("r/report.html"));
    let first = words.lines().next().expect("a line").replace("`0`", "<code>0</code>");
    assert!(page.contains(&format!("<p class=\"verdict\">{first}</p>")), "{first}");
    assert!(page.contains(&format!("flagged ({})", found.len())) && page.contains("suspicious images"), "{}", found.len());
    assert_eq!(page.matches("http").count(), page.matches("http://www.w3.org/2000/svg").count(), "nothing is fetched");
    assert_ne!(bytes(place.join("r/undefended.safetensors")), bytes(place.join("r/defended.safetensors")));
    assert_eq!(results["undefended"]["counts"]["acc"][1], 500);
    // Nothing tells of a poisoning that did not take place.
    let run = text(place.join("r/run.toml"));
    assert!(!run.contains("attack") && !run.contains("poison_rate") && run.contains("border = "), "{run}");
}

#[test]
fn defend_leaves_the_network_of_clean_data_as_it_is() {
    let place = place();
    let args = [&["defend", "--limit-per-class", "80", "--seed", "4", "--out", "r"], &TINY[..]].concat();
    let results = json(place.path(), &args);
    // Of 800 images too little can be said, and the network stays as it is.
    assert_eq!((&results["verdict"]["found"], &results["verdict"]["flagged"]), (&Value::Null, &0.into()), "{results}");
    assert_eq!(results["verdict"]["answer"], "unclear");
    let r = |file: &str| bytes(place.path().join("r").join(file));
    assert_eq!(r("undefended.safetensors"), r("defended.safetensors"));
    assert_eq!(results["undefended"], results["defended"]);
    assert!(text(place.path().join("r/verdict.txt")).starts_with("There is too little to say whether there is a backdoor"));
}

#[test]
fn scan_says_of_a_network_that_is_there_what_defend_said() {
    let (at, _) = defended();
    let place = place();
    let (data, checkpoint) = (at.join("p"), at.join("r/undefended.safetensors"));
    let (data, checkpoint) = (data.to_str().expect("text"), checkpoint.to_str().expect("text"));
    let args = ["scan", "--checkpoint", checkpoint, "--data", data, "--dataset", "digits", "--out", "s"];
    let results = json(place.path(), &args);
    assert_eq!(results["verdict"]["classes"][0]["name"], "0");
    for file in ["suspects.csv", "verdict.txt", "suspects.png", "scores.svg"] {
        assert!(bytes(place.path().join("s").join(file)) == bytes(at.join("r").join(file)), "{file} differs");
    }
    assert!(!place.path().join("s/defended.safetensors").exists(), "nothing is trained");
    refused(place.path(), &[&args[..7], &["--image-size", "8"]].concat(), &["takes images of 16 pixels, not 8"]);
    fs::copy(checkpoint, place.path().join("s/mine.safetensors")).expect("copied");
    let inside = ["scan", "--checkpoint", "s/mine.safetensors", "--data", data, "--dataset", "digits", "--out", "s"];
    let output = dau(place.path(), &inside);
    assert!(
        output.status.code() == Some(2) && stderr(&output).contains("holds s/mine.safetensors, which is needed"),
        "{}",
        stderr(&output)
    );
    assert!(place.path().join("s/mine.safetensors").exists());
    refused(place.path(), &["scan", "--checkpoint", "none.safetensors", "--data", data], &["none.safetensors"]);
    // By the images alone: the same class, and no adapter is asked for.
    refused(place.path(), &["scan", "--border", "images", "--data", data], &["--border", "give --checkpoint too"]);
    let alone = ["scan", "--data", data, "--dataset", "digits", "--adapter", "none such", "--out", "a"];
    let results = json(place.path(), &alone);
    assert_eq!((&results["verdict"]["classes"][0]["name"], &results["adapter"]), (&"0".into(), &"none".into()));
    let (found, truth) = (poisoned(&text(place.path().join("a/suspects.csv"))), poisoned(&text(at.join("p/poison.csv"))));
    assert!(found.intersection(&truth).count() * 10 >= 9 * found.len().max(truth.len()), "{} {}", found.len(), truth.len());

    // A folder of classes is looked at whole, and so is one with a training part only.
    for flat in ["f", "f/train"] {
        let at = place.path().join(flat);
        for (class, i) in (0..3).flat_map(|c| (0..10).map(move |i| (c, i))) {
            fs::create_dir_all(at.join(format!("c{class}"))).expect("made");
            let pixels = [b"P6\n2 2\n255\n".as_slice(), &[(40 * class + 7 * i) as u8; 12]].concat();
            fs::write(at.join(format!("c{class}/{i}.ppm")), pixels).expect("written");
        }
        let results = json(place.path(), &["scan", "--data", "f", "--out", "f-scan", "--force"]);
        assert_eq!((&results["dataset"]["train"], &results["verdict"]["found"]), (&30.into(), &Value::Null));
        fs::remove_dir_all(place.path().join("f")).expect("removed");
    }

    fs::remove_dir_all(place.path().join("s")).expect("removed");
    let two = place.path().join("two");
    for class in ["cat", "dog"] {
        fs::create_dir_all(two.join(class)).expect("made");
        for i in 0..3 {
            fs::write(two.join(class).join(format!("{i}.ppm")), b"P6\n1 1\n255\n\x01\x02\x03").expect("written");
        }
    }
    refused(
        place.path(),
        &["scan", "--checkpoint", checkpoint, "--data", "two"],
        &["linear.weight has shape [10, 32]", "2 classes"],
    );
}

#[test]
fn unlearn_takes_a_list_or_a_folder_and_does_what_defend_did() {
    let (at, _) = defended();
    let place = place();
    let path = |p: &str| at.join(p).display().to_string();
    let (checkpoint, data, list) = (path("r/undefended.safetensors"), path("p"), path("r/suspects.csv"));
    let settings = ["--dataset", "digits", "--unlearn-steps", "4", "--checkpoint", &checkpoint];
    let of = |suspects: &[&str]| json(place.path(), &[&["unlearn"], &settings[..], suspects].concat());

    let results = of(&["--data", &data, "--suspects", &list, "--out", "list"]);
    let flagged = poisoned(&text(PathBuf::from(&list))).len();
    assert_eq!((&results["suspects"], &results["clean"]), (&flagged.into(), &(800 - flagged).into()));
    assert!(results["before"]["test"]["acc"].is_f64() && results["after"]["kept"].is_f64());
    assert!(
        bytes(place.path().join("list/defended.safetensors")) == bytes(at.join("r/defended.safetensors")),
        "the same samples, seed and steps"
    );

    // The suspects as a folder: their copies in the data are not taken for clean.
    for suspect in poisoned(&text(PathBuf::from(&list))) {
        let to = place.path().join("bad").join(suspect.strip_prefix("train/").expect("a training image"));
        fs::create_dir_all(to.parent().expect("a parent")).expect("made");
        fs::copy(at.join("p").join(&suspect), to).expect("copied");
    }
    let results = of(&["--data", &data, "--suspects", "bad", "--out", "folder"]);
    assert_eq!((&results["suspects"], &results["clean"]), (&flagged.into(), &(800 - flagged).into()));
    // And without anything clean.
    let alone = ["unlearn", "--unlearn-steps", "4", "--checkpoint", &checkpoint, "--suspects", "bad", "--out", "alone"];
    let results = json(place.path(), &alone);
    assert_eq!((&results["clean"], &results["after"]["test"]), (&0.into(), &Value::Null));
    assert!(succeed(place.path(), &alone).contains("accuracy is not known"));

    fs::remove_dir_all(place.path().join("list")).expect("removed");
    let refuse = |suspects: &[&str], parts: &[&str]| {
        refused(place.path(), &[&["unlearn", "--checkpoint", checkpoint.as_str()], suspects].concat(), parts);
    };
    refuse(&["--suspects", &list], &["is a list of images", "--data DIR"]);
    fs::write(place.path().join("l.txt"), "train/0/none.png\n").expect("written");
    let digits = ["--dataset", "digits", "--data", &data];
    refuse(&[&digits[..], &["--suspects", "l.txt"]].concat(), &["l.txt, line 1: `train/0/none.png` is no training image"]);
    refuse(&[&digits[..], &["--suspects", "nowhere"]].concat(), &["cannot read nowhere"]);
    fs::rename(place.path().join("bad/0"), place.path().join("bad/zero")).expect("renamed");
    refuse(&["--suspects", "bad"], &["`zero`", "are to be called as the classes are: 0, 1, 2"]);
}

#[test]
fn predict_names_the_classes_of_any_images() {
    let (at, _) = defended();
    let place = place();
    let path = |p: &str| at.join(p).display().to_string();
    let (checkpoint, images) = (path("r/defended.safetensors"), path("p/triggered"));
    let args = ["predict", "--checkpoint", &checkpoint, "--images"];
    let said = json(place.path(), &[&args[..], &[&images, "--out", "l.csv"]].concat());
    assert_eq!(said["images"], 450);
    let csv = text(place.path().join("l.csv"));
    assert_eq!((csv.lines().count(), csv.lines().next()), (451, Some("path,label,confidence")));
    let mut counted = 0;
    for row in csv.lines().skip(1) {
        let cells: Vec<&str> = row.split(',').collect();
        assert!(cells[0].starts_with(&images) && cells[1].parse::<u32>().is_ok_and(|label| label < 10), "{row}");
        assert!(cells[2].parse::<f32>().is_ok_and(|p| p > 0.0 && p <= 1.0), "{row}");
        counted += usize::from(cells[1] == "3");
    }
    assert_eq!(said["classes"]["3"], counted);

    // The names lie beside a checkpoint.
    fs::copy(&checkpoint, place.path().join("m.safetensors")).expect("copied");
    let named = ["predict", "--checkpoint", "m.safetensors", "--images", &images];
    let names: String = (0..10).map(|k| format!("digit {k}\n")).collect();
    fs::write(place.path().join("classes.txt"), &names).expect("written");
    succeed(place.path(), &[&named[..], &["--out", "n.csv"]].concat());
    assert_eq!(text(place.path().join("n.csv")), csv.lines().map(digit_names).collect::<String>());
    fs::write(place.path().join("classes.txt"), "a\nb\n").expect("written");
    refused(place.path(), &named, &["call it --out FILE.csv, not refused"]);
    let output = dau(place.path(), &[&named[..], &["--out", "o.csv"]].concat());
    assert!(stderr(&output).contains("classes.txt names 2 classes, the network has 10"), "{}", stderr(&output));
    fs::create_dir(place.path().join("empty")).expect("made");
    let output = dau(place.path(), &[&args[..], &["empty", "--out", "o.csv"]].concat());
    assert!(
        output.status.code() == Some(2) && stderr(&output).contains("empty holds no image that can be read"),
        "{}",
        stderr(&output)
    );
}

/// A row of the labels' table as the names' has it.
fn digit_names(row: &str) -> String {
    let cells: Vec<&str> = row.split(',').collect();
    let label = if cells[1] == "label" { "label".into() } else { format!("digit {}", cells[1]) };
    format!("{},{label},{}\n", cells[0], cells[2])
}

#[test]
fn defend_refuses_what_it_cannot_work_with() {
    let place = place();
    let here = place.path();
    refused(here, &["defend"], &["folder is read from disk", "--data DIR"]);
    refused(here, &["defend", "--data", "nowhere"], &["cannot read nowhere"]);
    fs::write(here.join("c.toml"), "attack = \"BadNets\"\n").expect("written");
    refused(here, &["defend", "--dataset", "digits", "--config", "c.toml"], &["nothing is poisoned here", "`attack`"]);
    fs::write(here.join("c.toml"), "defense = \"ABL\"\n").expect("written");
    let abl = ["defend", "--dataset", "digits", "--config", "c.toml"];
    refused(here, &abl, &["what DAU looks for, and ABL does not look for it: leave out `defense`"]);
    fs::create_dir(here.join("thesis")).expect("made");
    fs::write(here.join("thesis/t.tex"), "x").expect("written");
    let output = dau(here, &["defend", "--dataset", "digits", "--out", "thesis"]);
    assert!(output.status.code() == Some(2) && stderr(&output).contains("thesis is not a run folder"), "{}", stderr(&output));
}
