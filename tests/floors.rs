//! The floors of `ARCHITECTURE.md`: who may use whom, who may say `wgpu`, how long a file may be. Reads the sources as text.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each floor and those it may use. `lib.rs` and `main.rs` stand above all.
const FLOORS: [(&str, &[&str]); 17] = [
    ("rng", &[]),
    ("files", &[]),
    ("options", &[]),
    ("torch", &[]),
    ("gpu", &["rng"]),
    ("kernel", &["rng", "files", "gpu"]),
    ("graph", &["rng", "gpu", "kernel"]),
    ("ops", &["rng", "gpu", "kernel", "graph"]),
    ("nn", &["rng", "gpu", "kernel", "graph", "ops"]),
    ("data", &["rng", "files", "options"]),
    ("attacks", &["rng", "options", "data"]),
    ("train", &["rng", "files", "torch", "gpu", "kernel", "graph", "ops", "nn", "data"]),
    // Neither the attacks nor what they poisoned: see `defenses_never_mention_the_attacks`.
    ("defenses", &["rng", "files", "options", "gpu", "kernel", "graph", "ops", "nn", "data", "train"]),
    ("experiment", &["rng", "files", "options", "gpu", "kernel", "graph", "ops", "nn", "data", "attacks", "train", "defenses"]),
    ("report", &["data", "attacks", "defenses", "experiment"]),
    ("bench", &["rng", "gpu", "kernel", "graph", "ops", "nn", "data", "train", "report"]),
    (
        "cli",
        &[
            "rng",
            "files",
            "options",
            "gpu",
            "kernel",
            "graph",
            "ops",
            "nn",
            "data",
            "attacks",
            "train",
            "defenses",
            "experiment",
            "report",
            "bench",
        ],
    ),
];

/// (file, path, why) of the uses that go upwards all the same.
const EXCEPTIONS: [(&str, &str, &str); 1] =
    [("src/graph/autograd.rs", "ops::Add", "where gradients of one value meet, the graph itself adds a node: their sum")];

/// What the defenses must not know: the attacks, the poison's truth, triggered and test images.
const UNSEEN: [&str; 6] = ["attacks", "Poisoned", "is_poison", "TriggeredTest", "Splits", "original_labels"];

const MOST_LINES: usize = 500;

struct File {
    /// From the repository's root, with slashes.
    path: String,
    text: String,
}

impl File {
    /// `ops` of `src/ops/add.rs`, `rng` of `src/rng.rs`.
    fn floor(&self) -> &str {
        let rest = self.path.strip_prefix("src/").expect("a source");
        rest.split('/').next().map_or(rest, |first| first.trim_end_matches(".rs"))
    }

    /// How many `super` lead to the crate's root.
    fn depth(&self) -> usize {
        let modules = self.path.matches('/').count();
        if self.path.ends_with("/mod.rs") { modules - 1 } else { modules }
    }

    /// The text without line comments, doc comments included.
    fn code(&self) -> String {
        self.text.lines().map(|line| line.find("//").map_or(line, |at| &line[..at])).collect::<Vec<_>>().join("\n")
    }
}

fn collect(folder: &Path, ending: &str, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the repository").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, ending, out);
        } else if path.to_string_lossy().ends_with(ending) {
            out.push(path);
        }
    }
}

/// The files under `folder` whose names end in `ending`.
fn files(folder: &str, ending: &str) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    collect(&root.join(folder), ending, &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "no {ending} in {folder}");
    let read = |path: PathBuf| File {
        path: path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/"),
        text: std::fs::read_to_string(&path).expect("a text file"),
    };
    paths.into_iter().map(read).collect()
}

/// The sources that stand on a floor.
fn on_floors() -> Vec<File> {
    files("src", ".rs").into_iter().filter(|f| !["src/lib.rs", "src/main.rs"].contains(&f.path.as_str())).collect()
}

/// The items of a path's tail: `a::b` itself, or each of `{a::b, c}`; spaces are gone.
fn items(tail: &str) -> Vec<String> {
    let Some(group) = tail.strip_prefix('{') else {
        let end = tail.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(tail.len());
        // `a::{b, c}` stays as it is.
        let braces = if tail[end..].starts_with('{') { tail[end..].find('}').map_or(0, |at| at + 1) } else { 0 };
        return vec![tail[..end + braces].to_string()];
    };
    let (mut depth, mut item, mut out) = (0, String::new(), Vec::new());
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => out.push(std::mem::take(&mut item)),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                item.push(c);
            }
        }
    }
    out.push(item);
    out.into_iter().filter(|item| !item.is_empty()).collect()
}

/// Every path from the crate's root that the code names, without `crate::`.
fn used(file: &File) -> Vec<String> {
    let code: String = file.code().split_whitespace().collect::<Vec<_>>().join(" ").replace(" ::", "::").replace(":: ", "::");
    let compact = |tail: &str| -> String {
        // Spaces matter outside of braces only.
        if tail.starts_with('{') || tail.split([' ', ';', ')']).next().is_some_and(|word| word.contains('{')) {
            tail.chars().filter(|c| *c != ' ').collect()
        } else {
            tail.to_string()
        }
    };
    let up = "super::".repeat(file.depth());
    let mut out = Vec::new();
    for root in ["crate::", "dau::", up.as_str()] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_none_or(|c| !(c.is_alphanumeric() || c == '_')) {
                let tail = &code[at + root.len()..];
                out.extend(items(&compact(&tail[..tail.find(';').unwrap_or(tail.len())])));
            }
        }
    }
    out
}

#[test]
fn every_module_stands_on_a_floor() {
    let found: BTreeSet<String> = on_floors().iter().map(|f| f.floor().to_string()).collect();
    assert_eq!(found, FLOORS.iter().map(|(floor, _)| floor.to_string()).collect(), "a new floor needs a line in FLOORS");
}

#[test]
fn each_floor_uses_only_lower_ones() {
    let mut wrong = Vec::new();
    let mut excused = BTreeSet::new();
    let mut uses = 0;
    for file in on_floors() {
        let floor = file.floor();
        let allowed = FLOORS.iter().find(|(name, _)| *name == floor).map_or(&[][..], |(_, allowed)| allowed);
        for path in used(&file) {
            let target = path.split("::").next().unwrap_or_default();
            // What is no floor is reached with `super` inside one.
            if target == floor || !FLOORS.iter().any(|(name, _)| *name == target) {
                continue;
            }
            uses += 1;
            if let Some(exception) = EXCEPTIONS.iter().find(|(in_file, what, _)| *in_file == file.path && *what == path) {
                excused.insert(exception.1);
            } else if !allowed.contains(&target) {
                wrong.push(format!("{} uses {path}", file.path));
            }
        }
    }
    println!("{uses} uses");
    assert!(uses > 80, "only {uses} uses were found: does the reader still work?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(excused, EXCEPTIONS.iter().map(|(_, what, _)| *what).collect(), "an exception is no longer needed");
}

#[test]
fn the_reader_sees_every_way_to_write_a_path() {
    let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
    let of = |path: &str, text: &str| used(&file(path, text));
    assert_eq!(
        of("src/ops/add.rs", "use crate::graph::{Graph,\n    Op};\nlet x = crate::rng::stream(1);"),
        ["graph::{Graph,Op}", "rng::stream"]
    );
    assert_eq!(
        of("src/ops/mod.rs", "use crate::{data::{Spec, load}, nn, attacks::find};"),
        ["data::{Spec,load}", "nn", "attacks::find"]
    );
    assert_eq!(of("src/ops/add.rs", "use super::super::attacks::poison;"), ["attacks::poison"]);
    assert_eq!(of("src/ops/mod.rs", "use super::attacks;"), ["attacks"]);
    assert_eq!(of("src/ops/add.rs", "use super::Case; // crate::attacks"), [""; 0]);
    assert_eq!(of("src/rng.rs", "fn f(x: &crate::data::Dataset) {}"), ["data::Dataset"]);
    assert_eq!(of("src/data/layouts/mod.rs", "pub(in crate::data) fn f() {}"), ["data"]);
}

#[test]
fn defenses_never_mention_the_attacks() {
    let files = on_floors();
    let defenses: Vec<&File> = files.iter().filter(|f| f.floor() == "defenses").collect();
    assert!(defenses.len() > 3);
    for file in defenses {
        for word in UNSEEN {
            assert!(!file.code().contains(word), "{} mentions {word}", file.path);
        }
    }
    // Nor does what they are given hold any of it.
    for file in files.iter().filter(|f| ["train", "data"].contains(&f.floor())) {
        for word in UNSEEN.iter().filter(|w| **w != "Splits") {
            let truth = file.code();
            assert!(!truth.contains(word), "{} mentions {word}", file.path);
        }
    }
}

#[test]
fn only_the_gpus_floor_says_wgpu() {
    let mut wrong = Vec::new();
    for file in files("src", ".rs") {
        let code = file.code();
        let free =
            file.path.starts_with("src/gpu/") || ["src/kernel/cache.rs", "src/graph/plan.rs"].contains(&file.path.as_str());
        // The command line turns `--backend` into wgpu's own enum.
        let backend = file.path.starts_with("src/cli/");
        for (at, _) in code.match_indices("wgpu::") {
            if !(free || backend && code[at..].starts_with("wgpu::Backend::")) {
                let end = code[at..].find('\n').map_or(code.len(), |n| at + n);
                wrong.push(format!("{}: {}", file.path, &code[at..end]));
            }
        }
        let imported = code.lines().any(|line| line.trim().starts_with("use wgpu"));
        assert!(free || !imported, "{} imports wgpu", file.path);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_wgpus_token_for_experimental_features_and_the_environment() {
    let sources = files("src", ".rs");
    for file in &sources {
        let mut code = file.code().replace("deny(unsafe_code)", "");
        if file.path == "src/gpu/adapter.rs" {
            code = code.replacen("allow(unsafe_code)", "", 2).replacen("unsafe { wgpu::ExperimentalFeatures::enabled() }", "", 1);
            code = code.replacen("unsafe { std::env::set_var(name, value) }", "", 1);
        }
        assert!(!code.contains("unsafe"), "{} says unsafe", file.path);
    }
    let lib = sources.iter().find(|f| f.path == "src/lib.rs").expect("the library");
    assert!(lib.code().contains("#![deny(unsafe_code)]"));
}

#[test]
fn no_file_is_too_long_to_read() {
    for file in files("src", ".rs").into_iter().chain(files("shaders", ".wgsl")) {
        let lines = file.text.lines().count();
        assert!(lines < MOST_LINES, "{} has {lines} lines: split it", file.path);
    }
}
