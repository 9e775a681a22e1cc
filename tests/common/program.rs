//! The program itself, started in a folder of the test's.

use std::path::Path;
use std::process::{Command, Output};

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
