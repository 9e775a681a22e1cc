//! Tells the program which commit it is of, for the records that it writes.

use std::process::Command;

fn main() {
    let git = |args: &[&str]| {
        let out = Command::new("git").args(args).output().ok().filter(|out| out.status.success())?;
        Some(String::from_utf8_lossy(&out.stdout).trim().to_string())
    };
    let head = git(&["rev-parse", "--short=12", "HEAD"]);
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|out| !out.is_empty());
    let commit = head.map_or("unknown".into(), |head| if changed { head + "+" } else { head });
    println!("cargo:rustc-env=DAU_COMMIT={commit}");
    // The reference that HEAD names changes with every commit, HEAD itself with every branch.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    // Changes that are not committed count, too.
    for part in ["build.rs", "Cargo.toml", "src", "shaders", "datasets"] {
        println!("cargo:rerun-if-changed={part}");
    }
}
