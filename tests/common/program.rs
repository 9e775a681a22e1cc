//! The program itself, started in a folder of the test's.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A small network on few images: seconds on a CPU.
pub const TINY: [&str; 10] =
    ["--width", "4", "--epochs", "2", "--limit-per-class", "20", "--batch", "32", "--unlearn-steps", "4"];

pub fn command(place: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dau"));
    // Without XDG_RUNTIME_DIR Mesa's OpenGL complains on stderr.
    command.args(args).current_dir(place).env("XDG_RUNTIME_DIR", std::env::temp_dir()).env_remove("RUST_LOG");
    // Decoded images are not to be kept among the user's.
    command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    command
}

pub fn dau(place: &Path, args: &[&str]) -> Output {
    command(place, args).output().expect("dau starts")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What it wrote on stdout, ending well.
pub fn succeed(place: &Path, args: &[&str]) -> String {
    let output = dau(place, args);
    assert!(output.status.success(), "dau {args:?}: {:?}\n{}", output.status, stderr(&output));
    String::from_utf8(output.stdout).expect("text")
}

/// Every file below `place`.
pub fn files(place: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(place).expect("readable").flatten() {
        let path = entry.path();
        found.insert(path.display().to_string());
        if path.is_dir() {
            found.extend(files(&path));
        }
    }
    found
}

/// Refused with exit code 2, one line that begins with `error: ` and holds all of `parts`, and nothing written.
pub fn refused(place: &Path, args: &[&str], parts: &[&str]) {
    let before = files(place);
    let output = dau(place, args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "dau {args:?}: {said}");
    let (error, lines) = (said.lines().last().unwrap_or_default(), said.lines().count());
    assert!(error.starts_with("error: ") && lines == 1, "dau {args:?} says {lines} lines: {said}");
    for part in parts {
        assert!(error.contains(part), "dau {args:?} does not say `{part}`: {error}");
    }
    assert!(output.stdout.is_empty(), "dau {args:?} prints {}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(files(place), before, "dau {args:?} wrote something");
}

pub fn place() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The figures less what differs from run to run.
pub fn timeless(json: &str) -> Value {
    let mut results: Value = serde_json::from_str(json).expect("json");
    results["seconds"] = Value::Null;
    results["config"]["out"] = Value::Null;
    results
}
