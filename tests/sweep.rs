//! `dau sweep`: cells that share what is equal, a table from records alone, and a sweep that goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::program::{command, dau, place, refused, stderr, succeed};
use serde_json::Value;

const SWEEP: &str = "
out = \"OUT\"
[all]
epochs = 2
width = 4
batch = 16
limit-per-class = 20
reserve = 0.1
[vary]
attack = [\"Blended\", { name = \"patch\", attack = \"BadNets\", poison_rate = 0.2 }]
defense = [\"none\", \"clustering\"]
seed = [1, 2]
";

fn write(place: &Path, file: &str, text: &str) {
    fs::write(place.join(file), text).unwrap();
}

/// The rows but for the clock.
fn table(place: &Path, out: &str) -> Vec<Value> {
    let text = fs::read_to_string(place.join(out).join("table.json")).expect("table.json");
    let mut rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    rows.iter_mut().for_each(|row| row["figures"]["seconds"] = Value::Null);
    rows
}

fn files(folder: &Path, extension: &str) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(extension)).collect();
    names.sort();
    names
}

#[test]
fn a_sweep_that_is_killed_goes_on_and_ends_with_the_same_table() {
    let place = place();
    let place = place.path();
    write(place, "s.toml", &SWEEP.replace("OUT", "whole"));
    write(place, "k.toml", &SWEEP.replace("OUT", "killed"));
    let whole = succeed(place, &["sweep", "s.toml", "--no-tune"]);
    let rows = table(place, "whole");
    assert_eq!(rows.len(), 4, "two attacks by two defenses");
    for row in &rows {
        assert_eq!(row["seeds"], 2, "{row}");
        let figure = |name: &str| row["figures"][name]["mean"].as_f64().unwrap();
        assert!(figure("acc") > 5.0 && row["figures"]["acc"]["half"].is_null(), "of two seeds there is no interval: {row}");
        if row["axes"]["defense"] == "none" {
            assert_eq!(figure("acc"), figure("acc before"), "nothing is done: {row}");
        }
    }
    assert!(whole.starts_with("| attack | defense | seeds | implanted |"), "{whole}");
    // Two attacks by two seeds: a network each, whatever the defense.
    assert_eq!(files(&place.join("whole/victims"), ".safetensors").len(), 4);
    assert_eq!(fs::read_dir(place.join("whole/cells")).unwrap().count(), 8);

    // Killed again and again, each time a little later.
    for tenths in [4, 9, 15] {
        let mut child =
            command(place, &["sweep", "k.toml", "--no-tune"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(100 * tenths));
        let _ = child.kill();
        child.wait().unwrap();
    }
    succeed(place, &["sweep", "k.toml", "--no-tune"]);
    assert_eq!(table(place, "killed"), rows);

    // What has ended is not done again.
    let says = |args: &[&str]| stderr(&dau(place, args));
    assert!(says(&["sweep", "k.toml", "--no-tune"]).contains("0 of 8 cells are left"));
    assert!(says(&["sweep", "k.toml", "--cell", "3"]).contains("0 of 1 cells are left"));
    let tables = fs::read(place.join("killed/table.md")).unwrap();
    assert_eq!(succeed(place, &["sweep", "k.toml", "--list"]).matches(" ended ").count(), 8);
    refused(place, &["sweep", "k.toml", "--cell", "8"], &["--cell 8: there are 8 cells, from 0 on"]);
    refused(place, &["sweep", "k.toml", "--slurm"], &["all 8 cells have ended"]);
    // Another sweep in the same folder: what is left of it, and no word of the first one lost.
    write(place, "k.toml", &SWEEP.replace("OUT", "killed").replace("seed = [1, 2]", "seed = [2, 3]"));
    let array = succeed(place, &["sweep", "k.toml", "--slurm", "--no-tune"]);
    assert!(array.contains("#SBATCH --array=4,5,6,7\n"), "{array}");
    assert!(array.contains("'sweep' 'k.toml' '--no-tune' --cell \"$SLURM_ARRAY_TASK_ID\""), "{array}");
    let listed = succeed(place, &["sweep", "k.toml", "--list"]);
    assert_eq!((listed.matches(" ended ").count(), listed.matches(" - ").count()), (4, 4), "{listed}");
    refused(place, &["sweep", "k.toml"], &["killed holds another sweep", "--force to go on there"]);
    assert_eq!(fs::read(place.join("killed/table.md")).unwrap(), tables);
    let page = fs::read_to_string(place.join("killed/report.html")).unwrap();
    assert!(page.contains("DER, percent") && page.matches("<tr>").count() == 5, "{page}");
}

#[test]
fn a_cell_that_fails_is_listed_and_ends_nothing() {
    let place = place();
    let place = place.path();
    let text = SWEEP.replace("OUT", "o").replace("seed = [1, 2]", "seed = [1]");
    write(
        place,
        "s.toml",
        &text
            .replace("[\"none\", \"clustering\"]", "[\"none\"]")
            .replace("attack = [", "attack = [{ name = \"no\", attack = \"SIG\", poison_rate = 0.9 }, "),
    );
    let done = dau(place, &["sweep", "s.toml", "--no-tune"]);
    assert_eq!(done.status.code(), Some(1), "{}", stderr(&done));
    assert!(stderr(&done).contains("failed: attack no, defense none, seed 1: "), "{}", stderr(&done));
    assert!(stderr(&done).contains("2 of 3 cells have ended"), "{}", stderr(&done));
    assert_eq!(table(place, "o").len(), 2);
}

#[test]
fn refuses_a_sweep_that_cannot_be_before_it_begins() {
    let place = place();
    let place = place.path();
    for (wrong, right, expected) in [
        ("\"clustering\"", "\"magic\"", "unknown defense `magic`"),
        ("epochs = 2", "epoch = 2", "unknown key `epoch`; the nearest known one is `epochs`"),
        ("epochs = 2", "json = true", "unknown key `json`; keys are the flags of `dau run --help`"),
        ("epochs = 2", "epochs = 0", "training: epochs `0` does not do"),
        ("\"Blended\"", "\"Bended\"", "unknown attack `Bended`"),
        ("seed = [1, 2]", "seed = 1", "vary.seed is 1: give a list"),
    ] {
        write(place, "s.toml", &SWEEP.replace("OUT", "o").replace(wrong, right));
        refused(place, &["sweep", "s.toml"], &[expected]);
        assert!(!place.join("o").exists());
    }
}
