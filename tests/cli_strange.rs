//! `dau` on what strangers made: names that steer terminals and spreadsheets, settings that are none of theirs, dau's own folders.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::fs;
use std::path::Path;

use common::program::{dau, place, refused, stderr, succeed};

/// `<class>/<n>.ppm`, ten a class, all different.
fn images(dir: &Path, classes: &[&str], name: impl Fn(usize) -> String) {
    for (class, n) in classes.iter().flat_map(|class| (0..10).map(move |n| (class, n))) {
        fs::create_dir_all(dir.join(class)).expect("made");
        let pixels = [b"P6\n2 2\n255\n".as_slice(), &[(40 * class.len() + 7 * n) as u8; 12]].concat();
        fs::write(dir.join(class).join(name(n)), pixels).expect("written");
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn a_target_is_given_by_number_or_name_and_told() {
    let place = place();
    images(&place.path().join("d"), &["cat", "dog", "horse"], |n| format!("{n}.ppm"));
    let poison = |target: &str, out: &str| {
        dau(place.path(), &["poison", "--dataset", "folder", "--data", "d", "--patch", "1", "--target", target, "--out", out])
    };
    for (target, out) in [("horse", "by_name"), ("2", "by_number")] {
        let output = poison(target, out);
        assert!(output.status.success() && stderr(&output).contains("target: class 2, `horse`"), "{}", stderr(&output));
        assert!(text(&place.path().join(out).join("poison.toml")).contains("target = 2\n"));
    }
    assert_eq!(text(&place.path().join("by_name/poison.csv")), text(&place.path().join("by_number/poison.csv")));
    let args = ["poison", "--dataset", "folder", "--data", "d", "--patch", "1", "--out", "p", "--target"];
    let wrong = |target: &'static str| [&args[..], &[target]].concat();
    refused(place.path(), &wrong("hrose"), &["no class is called `hrose`; the nearest is `horse`"]);
    refused(place.path(), &wrong("3"), &["target class 3 does not exist"]);
}

#[test]
fn a_strangers_poison_toml_sets_only_what_describes_the_poisoning() {
    let place = place();
    succeed(place.path(), &["poison", "--limit-per-class", "3", "--out", "p"]);
    let settings = place.path().join("p/poison.toml");
    let ours = text(&settings);
    for (line, key) in [("out = \"elsewhere\"", "out"), ("epochs = 100000", "epochs"), ("data = \"/\"", "data"), ("lr = 1", "lr")]
    {
        fs::write(&settings, format!("{line}\n{ours}")).expect("written");
        let why = format!("`{key}` says nothing of how the images were poisoned");
        refused(place.path(), &["run", "--poisoned", "p"], &["poison.toml", &why]);
    }
    // Nor does what it says steer the terminal.
    fs::write(&settings, format!("\"\\u001b[2J\" = 1\n{ours}")).expect("written");
    refused(place.path(), &["run", "--poisoned", "p"], &["poison.toml: unknown key `\\u{1b}[2J`"]);
}

#[cfg(unix)]
#[test]
fn names_reach_neither_terminal_nor_tables_as_they_are() {
    let place = place();
    images(&place.path().join("d"), &["=1+1", "@sum", "cat, big"], |n| format!("\u{1b}[31m{n}\n.ppm"));
    fs::write(place.path().join("d/cat, big/\u{1b}[2J.txt"), "x").expect("written");
    let output = dau(place.path(), &["scan", "--data", "d", "--out", "s"]);
    let said = stderr(&output);
    assert!(output.status.success() && said.contains("(cat, big/\\u{1b}[2J.txt)"), "{said}");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &said;
    assert!(!printed.contains('\u{1b}'), "{printed}");
    let csv = text(&place.path().join("s/suspects.csv"));
    assert_eq!(csv.lines().count(), 31, "{csv}");
    assert!(csv.contains("\n'=1+1/\\u{1b}[31m0\\u{a}.ppm,'=1+1,"), "{csv}");
    assert!(!csv.contains('\u{1b}') && csv.lines().all(|line| !line.starts_with(['=', '@'])), "{csv}");
    // An error, too.
    fs::write(place.path().join("d/@sum/\u{1b}[2J.png"), "no picture").expect("written");
    refused(place.path(), &["scan", "--data", "d", "--out", "t"], &["cannot read the image d/@sum/\\u{1b}[2J.png"]);
}

#[test]
fn runs_among_the_images_are_no_class() {
    let place = place();
    images(place.path(), &["cat", "dog"], |n| format!("{n}.ppm"));
    for found in ["", "left out: 1 folder(s) that dau wrote (runs/scan-"] {
        let output = dau(place.path(), &["scan", "--data", ".", "--json"]);
        assert!(output.status.success() && stderr(&output).contains(found), "{}", stderr(&output));
        let made: Vec<_> = fs::read_dir(place.path().join("runs")).expect("made").flatten().collect();
        assert_eq!(made.len(), 1, "asked the same, the second shows what the first found");
        assert_eq!(text(&made[0].path().join("classes.txt")), "cat\ndog\n");
    }
}
