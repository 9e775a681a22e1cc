//! No room on the disk or in memory ends a command with an error that says what to do. A run loses nothing and goes on once there is room.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::program::{command, dau, place, stderr, succeed, timeless};
use common::skipped;

/// About 1 MiB of files.
const RUN: &str = "run --json --seed 3 --width 4 --epochs 3 --limit-per-class 20 --batch 16 --unlearn-steps 30 --out small/r";

fn run(place: &Path) -> Output {
    dau(place, &RUN.split(' ').collect::<Vec<_>>())
}

/// An undisturbed run; its folder.
fn undisturbed(place: &Path) -> PathBuf {
    succeed(place, &RUN.split(' ').collect::<Vec<_>>());
    place.join("small/r")
}

/// Failed for want of room, and says what to do.
fn no_room(output: &Output) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let error = said.lines().last().unwrap_or_default();
    assert!(error.starts_with("error: ") && error.contains("make room and give the same command again"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// Goes on and ends with the bits of `whole`.
fn goes_on(place: &Path, whole: &Path) {
    let output = run(place);
    assert!(output.status.success(), "{}", stderr(&output));
    let folder = place.join("small/r");
    for file in ["backdoored.safetensors", "defended.safetensors", "findings.json", "split.csv", "poison.csv"] {
        assert!(fs::read(folder.join(file)).expect(file) == fs::read(whole.join(file)).expect(file), "{file} differs");
    }
    let [found, expected] = [&folder, whole].map(|folder| timeless(&fs::read_to_string(folder.join("results.json")).unwrap()));
    assert_eq!(found, expected);
    let epochs = |folder: &Path| fs::read_to_string(folder.join("metrics.jsonl")).unwrap().lines().count();
    assert_eq!(epochs(&folder), epochs(whole));
    let left = fs::read_dir(&folder).unwrap().flatten().filter(|file| file.file_name().to_string_lossy().ends_with(".tmp"));
    assert_eq!(left.count(), 0, "half a file stays");
}

/// A file system in memory, for as long as it lives.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// None where this user may mount nothing.
    fn mount(at: PathBuf, kib: u64) -> Option<Tmpfs> {
        fs::create_dir(&at).unwrap();
        mount(&at, &format!("size={kib}k")).then_some(Tmpfs(at))
    }

    fn grow(&self) {
        assert!(mount(&self.0, "remount,size=64m"));
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn mount(at: &Path, options: &str) -> bool {
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
    mounted.is_ok_and(|output| output.status.success())
}

#[test]
fn a_run_on_a_full_disk_goes_on_once_there_is_room() {
    let undisturbed_place = place();
    let whole = undisturbed(undisturbed_place.path());
    let bytes: u64 = fs::read_dir(&whole).unwrap().flatten().map(|file| file.metadata().unwrap().len()).sum();
    for percent in [10, 60] {
        let place = place();
        let Some(disk) = Tmpfs::mount(place.path().join("small"), bytes * percent / 100 / 1024) else {
            return skipped("a small file system cannot be mounted here");
        };
        let output = run(place.path());
        no_room(&output);
        assert!(stderr(&output).contains("No space left"), "{}", stderr(&output));
        println!("{percent} %: {}", stderr(&output).lines().last().unwrap_or_default());
        // Without room the same command fails in the same way.
        no_room(&run(place.path()));
        disk.grow();
        goes_on(place.path(), &whole);
    }
}

/// The same with a limit to the size of a file, which any user may set.
#[test]
fn a_state_that_is_too_large_to_write_loses_nothing() {
    let [whole, place] = [place(), place()];
    let folder = undisturbed(whole.path());
    // At most 100 KiB. The signal that comes with it would end the program as a kill does.
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$@\"";
    let program = command(place.path(), &RUN.split(' ').collect::<Vec<_>>());
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(program.get_program()).args(program.get_args()).current_dir(place.path());
    shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    no_room(&shell.output().expect("sh starts"));
    goes_on(place.path(), &folder);
}

#[test]
fn memory_that_runs_out_names_the_buffer_and_what_to_try() {
    let place = place();
    // More than any of the limits allows.
    let program = command(place.path(), &["bench", "--step", "--width", "64", "--batch", "512"]);
    for kib in (1_500_000..=4_000_000).step_by(500_000) {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -v {kib}; exec \"$@\""), "sh"]).arg(program.get_program()).args(program.get_args());
        shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = shell.output().expect("sh starts");
        let said = stderr(&output);
        assert!(!output.status.success(), "{kib} KiB suffice");
        let error = said.lines().last().unwrap_or_default();
        if error.contains("has no memory left for the buffer `") {
            assert!(error.contains("MiB: try a smaller --batch or --width") && !said.contains("panicked"), "{said}");
            assert_eq!(output.status.code(), Some(1));
            return println!("{kib} KiB: {error}");
        }
    }
    skipped("it is not the device's memory that a limit to the program's exhausts here");
}

#[test]
fn a_stream_that_takes_nothing_is_no_panic() {
    let full = || File::options().write(true).open("/dev/full");
    if full().is_err() {
        return skipped("there is no /dev/full");
    }
    let place = place();
    for args in [&["data", "list"][..], &["devices"], &["devices", "--json"]] {
        let output = command(place.path(), args).stdout(full().unwrap()).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "dau {args:?}: {said}");
        assert!(said.contains("error: cannot write to stdout") && !said.contains("panicked"), "dau {args:?}: {said}");
    }
    for args in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let output = command(place.path(), args).stdout(full().unwrap()).output().unwrap();
        assert!(output.status.code().is_some_and(|code| code != 101), "dau {args:?}: {}", stderr(&output));
    }
    // What goes wrong can still be told by the exit code.
    let output = command(place.path(), &["run", "--epochs", "none"]).stderr(full().unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let mut args = RUN.split(' ').collect::<Vec<_>>();
    args.push("-vv");
    let output = command(place.path(), &args).stderr(full().unwrap()).output().unwrap();
    assert!(output.status.success() && place.path().join("small/r/results.json").is_file(), "{:?}", output.status);
}
