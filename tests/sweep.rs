//! `dau sweep`: cells that share what is equal, a table from records alone, and a sweep that goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::program::{command, dau, files as every_file, place, refused, stderr, succeed};
use rand::RngExt;
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
    let mut table: Value = serde_json::from_str(&text).unwrap();
    let mut rows: Vec<Value> = serde_json::from_value(table["rows"].take()).unwrap();
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
    let whole = succeed(place, &["sweep", "s.toml"]);
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
    assert!(
        whole.starts_with("## Which defense holds\n") && whole.contains("| attack | defense | seeds | implanted |"),
        "{whole}"
    );
    // Two attacks by two seeds: a network each, trained and tested once, whatever the defense.
    assert_eq!(files(&place.join("whole/victims"), ".safetensors").len(), 4);
    let cells = fs::read_dir(place.join("whole/cells")).unwrap().map(|cell| cell.unwrap().path().join("run.toml"));
    assert_eq!(cells.filter(|run| fs::read_to_string(run).unwrap().contains("test undefended")).count(), 4);
    let cells = fs::read_dir(place.join("whole/cells")).unwrap().map(|cell| cell.unwrap().path().join("run.toml"));
    let again = cells.filter(|run| fs::read_to_string(run).unwrap().contains("test defended"));
    let again: Vec<_> = again.map(|run| run.display().to_string()).collect();
    assert!(!again.is_empty() && again.iter().all(|run| run.contains("clustering")), "what is left as it was: {again:?}");
    // A defense that flags no images leaves no verdict on any.
    for cell in fs::read_dir(place.join("whole/cells")).unwrap().map(|cell| cell.unwrap().path()) {
        let record: Value = serde_json::from_str(&fs::read_to_string(cell.join("results.json")).unwrap()).unwrap();
        let flags = record["defense"] == "clustering";
        assert_eq!((record["split"].is_object(), cell.join("split.csv").is_file()), (flags, flags), "{record}");
    }
    assert_eq!(fs::read_dir(place.join("whole/cells")).unwrap().count(), 8);

    // What is kept of a test counts for its own network and images alone, and what is damaged does not.
    let kept = files(&place.join("whole/victims"), ".json").into_iter().map(|name| place.join("whole/victims").join(name));
    let kept: Vec<_> = kept.collect();
    assert_eq!(kept.len(), 4);
    let said = fs::read(&kept[0]).unwrap();
    kept.iter().for_each(|file| fs::write(file, &said).unwrap());
    fs::write(&kept[0], "{}").unwrap();
    for cell in fs::read_dir(place.join("whole/cells")).unwrap().map(|cell| cell.unwrap().path()) {
        ["results.json", "undefended-test.json"].iter().for_each(|file| fs::remove_file(cell.join(file)).unwrap());
    }
    succeed(place, &["sweep", "s.toml"]);
    assert_eq!(table(place, "whole"), rows);
    assert_eq!(fs::read(&kept[0]).unwrap(), said);

    // Killed five times, now one after the other and now two at once, when it has made some files more and at any moment after that.
    let mut rng = dau::rng::stream(u64::from(std::process::id()), "kill");
    let ways: [&[&str]; 2] = [&["sweep", "k.toml"], &["sweep", "k.toml", "--jobs", "2"]];
    fs::create_dir(place.join("killed")).unwrap();
    for kill in 0..5 {
        let enough = every_file(&place.join("killed")).len() + rng.random_range(3..14);
        let mut child = command(place, ways[kill % 2]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while every_file(&place.join("killed")).len() < enough {
            assert!(child.try_wait().unwrap().is_none(), "it ended before kill {kill}");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(0..500)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let ended = succeed(place, &["sweep", "k.toml", "--list"]).matches(" ended ").count();
    println!("killed five times, and {ended} cells had ended");
    succeed(place, ways[1]);
    assert_eq!(table(place, "killed"), rows);
    assert_eq!(files(&place.join("killed/victims"), ".safetensors").len(), 4);

    // What has ended is not done again.
    let says = |args: &[&str]| stderr(&dau(place, args));
    assert!(says(&["sweep", "k.toml"]).contains("0 of 8 cells are left"));
    assert!(says(&["sweep", "k.toml", "--cell", "3"]).contains("0 of 1 cells are left"));
    let tables = fs::read(place.join("killed/table.md")).unwrap();
    assert_eq!(succeed(place, &["sweep", "k.toml", "--list"]).matches(" ended ").count(), 8);
    refused(place, &["sweep", "k.toml", "--cell", "8"], &["--cell 8: there are 8 cells, from 0 on"]);
    refused(place, &["sweep", "k.toml", "--slurm"], &["all 8 cells have ended"]);
    // The file has changed: what has ended of it stays ended, and only a cell that is named by its number is refused.
    write(place, "k.toml", &SWEEP.replace("OUT", "killed").replace("seed = [1, 2]", "seed = [2, 3]"));
    let listed = succeed(place, &["sweep", "k.toml", "--list"]);
    assert_eq!((listed.matches(" ended ").count(), listed.matches(" - ").count()), (4, 4), "{listed}");
    refused(
        place,
        &["sweep", "k.toml", "--cell", "0"],
        &["k.toml has other cells than killed/sweep.toml", "may be another cell now"],
    );
    let changed = dau(place, &["sweep", "k.toml", "--table"]);
    let expected = "killed was last used: 4 of the cells there are its own; 4 are not";
    assert!(changed.status.success() && stderr(&changed).contains(expected), "{}", stderr(&changed));
    assert!(stderr(&changed).contains("4 of 8 cells have ended"), "{}", stderr(&changed));
    assert!(!says(&["sweep", "k.toml", "--table"]).contains("has changed"));
    // A comment is no change, and an axis in another order is one.
    let other = SWEEP.replace("OUT", "killed").replace("seed = [1, 2]", "seed = [3, 2] # both");
    write(place, "k.toml", &other.replace("[3, 2]", "[2, 3]"));
    assert!(!says(&["sweep", "k.toml", "--slurm", "--dry-run"]).contains("has changed"));
    write(place, "k.toml", &other);
    refused(place, &["sweep", "k.toml", "--cell", "0"], &["may be another cell now"]);
    // The tables can be made anew from what is there.
    write(place, "k.toml", &SWEEP.replace("OUT", "killed"));
    fs::remove_file(place.join("killed/table.md")).unwrap();
    succeed(place, &["sweep", "k.toml", "--table"]);
    assert_eq!(fs::read(place.join("killed/table.md")).unwrap(), tables);
    let page = fs::read_to_string(place.join("killed/report.html")).unwrap();
    let lines = "a heading and two defenses, a heading and four combinations";
    assert!(page.contains("DER, percent") && page.matches("<tr>").count() == 8, "{lines}: {page}");
    // The records alone, as they are brought from another machine, are enough.
    for file in
        every_file(&place.join("killed")).iter().filter(|file| Path::new(file).is_file() && !file.ends_with("results.json"))
    {
        fs::remove_file(file).unwrap();
    }
    assert!(says(&["sweep", "k.toml"]).contains("0 of 8 cells are left"));
    assert_eq!(fs::read(place.join("killed/table.md")).unwrap(), tables);
    // A record that is cut off is made again, where the networks are there.
    let cell = fs::read_dir(place.join("whole/cells")).unwrap().next().unwrap().unwrap().path();
    fs::write(cell.join("results.json"), "{ \"schema\": 2, ").unwrap();
    assert_eq!(succeed(place, &["sweep", "s.toml", "--list"]).matches(" damaged ").count(), 1);
    succeed(place, &["sweep", "s.toml"]);
    assert_eq!(table(place, "whole"), rows);
    // A folder that has lost more than that is to be removed.
    let cell = fs::read_dir(place.join("killed/cells")).unwrap().next().unwrap().unwrap().path();
    fs::rename(cell.join("results.json"), cell.join("lost.json")).unwrap();
    let lost = dau(place, &["sweep", "k.toml"]);
    assert!(
        stderr(&lost).contains("holds files but no run.toml: remove this folder, and the cell begins anew"),
        "{}",
        stderr(&lost)
    );
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
    let done = dau(place, &["sweep", "s.toml"]);
    assert_eq!(done.status.code(), Some(1), "{}", stderr(&done));
    assert!(stderr(&done).contains("failed: attack no, defense none, seed 1: "), "{}", stderr(&done));
    assert!(stderr(&done).contains("2 of 3 cells have ended"), "{}", stderr(&done));
    assert_eq!(table(place, "o").len(), 2);
    let listed = succeed(place, &["sweep", "s.toml", "--list"]);
    assert!(listed.starts_with("    0 failed   attack no, defense none, seed 1: poison rate 0.9 asks for"), "{listed}");
    assert_eq!(listed.matches(" ended ").count(), 2);
    let rows = table(place, "o");

    // The same in processes of their own: what has ended stays, what failed is tried again.
    let done = dau(place, &["sweep", "s.toml", "--jobs", "2", "--json"]);
    assert_eq!(done.status.code(), Some(1), "{}", stderr(&done));
    assert!(stderr(&done).contains("1 of 3 cells are left, 2 at once"), "{}", stderr(&done));
    let found: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert!(found["failed"]["attack no, defense none, seed 1"].as_str().unwrap().starts_with("poison rate 0.9"), "{found}");
    assert_eq!((&found["cells"], &found["ended"]), (&Value::from(3), &Value::from(2)));
    assert_eq!(table(place, "o"), rows);

    // Between two cells nobody else is at work.
    for cell in fs::read_dir(place.join("o/cells")).unwrap().map(|cell| cell.unwrap().path()) {
        let _ = fs::remove_file(cell.join("results.json"));
    }
    let one = dau(place, &["sweep", "s.toml", "--jobs", "1"]);
    assert!(stderr(&one).contains("3 of 3 cells are left, 1 at once"), "{}", stderr(&one));
    assert!(!stderr(&one).contains("other processes"), "{}", stderr(&one));
    assert_eq!(table(place, "o"), rows);
}

/// Processes and their signals.
#[cfg(target_os = "linux")]
mod processes {
    use std::time::Instant;

    use super::*;

    /// Trainings so long that they are met at work.
    fn long(place: &Path) {
        write(place, "s.toml", &SWEEP.replace("OUT", "o").replace("epochs = 2", "epochs = 2000"));
    }

    /// The children of a process, at least `n` of which are at work in the sweep `o`.
    fn children(of: u32, n: usize, place: &Path) -> Vec<u32> {
        let parent = |pid: u32| -> Option<u32> {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
        };
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
            let found: Vec<u32> = all.filter(|pid| parent(*pid) == Some(of)).collect();
            let runs = fs::read_dir(place.join("o/cells")).map_or_else(|_| Vec::new(), |runs| runs.flatten().collect());
            if found.len() >= n && runs.iter().filter(|run| run.path().join("metrics.jsonl").is_file()).count() >= n {
                return found;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{n} cells were never at work");
    }

    fn signal(pid: u32, signal: &str) {
        assert!(std::process::Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
    }

    /// A process that has ended and is not waited for is none.
    fn at_work(pid: u32) -> bool {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    fn start(place: &Path) -> std::process::Child {
        let log = fs::File::create(place.join("stderr")).unwrap();
        command(place, &["sweep", "s.toml", "--jobs", "2"]).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// The same as under `nohup`.
    fn start_without_hang_ups(place: &Path) -> std::process::Child {
        let log = fs::File::create(place.join("stderr")).unwrap();
        let dau = command(place, &["sweep", "s.toml", "--jobs", "2"]);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(dau.get_program()).args(dau.get_args()).current_dir(place);
        shell.envs(dau.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    #[test]
    fn a_cell_that_is_killed_is_listed_and_the_others_stop_with_the_sweep() {
        let place = place();
        let place = place.path();
        long(place);
        let mut sweep = start(place);
        let first = children(sweep.id(), 2, place);
        assert_eq!(first.len(), 2);
        signal(first[0], "-KILL");
        // Another cell takes its place.
        let (listed, both) = loop {
            let listed = succeed(place, &["sweep", "s.toml", "--list"]);
            let now = children(sweep.id(), 2, place);
            if listed.matches(" running ").count() == 2 && listed.contains(" failed ") && now.len() == 2 {
                break (listed, now);
            }
        };
        let why = listed.lines().find(|line| line.contains(" failed ")).expect("a failed cell");
        assert!(why.contains("signal: 9 (SIGKILL); what it said: o/logs/"), "{why}");

        signal(sweep.id(), "-TERM");
        assert_eq!(sweep.wait().unwrap().code(), Some(130));
        assert!(!both.iter().any(|pid| at_work(*pid)), "they were waited for");
        let said = fs::read_to_string(place.join("stderr")).unwrap();
        assert!(said.contains("1 of 8: attack ") && said.contains(": failed: signal: 9"), "{said}");
        let listed = succeed(place, &["sweep", "s.toml", "--list"]);
        assert!(!listed.contains(" running ") && listed.matches(" stopped ").count() == 2, "{listed}");

        // A sweep that is killed itself can tell them nothing.
        let mut sweep = start_without_hang_ups(place);
        let both = children(sweep.id(), 2, place);
        for pid in [sweep.id(), both[0], both[1]] {
            signal(pid, "-HUP");
        }
        std::thread::sleep(Duration::from_secs(2));
        assert!([sweep.id(), both[0], both[1]].iter().all(|pid| at_work(*pid)), "nohup is heeded");
        sweep.kill().unwrap();
        sweep.wait().unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while both.iter().any(|pid| at_work(*pid)) {
            assert!(Instant::now() < until, "they are still at work");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stands in for `sbatch` and `scontrol`; scripts/try_slurm.sh has the real ones.
    fn slurm(place: &Path) -> std::ffi::OsString {
        use std::os::unix::fs::PermissionsExt;
        let bin = place.join("bin");
        fs::create_dir(&bin).unwrap();
        for (name, does) in [
            (
                "sbatch",
                "[ \"$1\" = --version ] && exit\nn=$(ls job* 2>/dev/null | wc -l)\ncat >job$n\ngrep -q refuse job$n && { rm job$n; echo 'sbatch: error: no such partition' >&2; exit 1; }\necho \"7$n;cluster\"",
            ),
            ("scontrol", "[ \"$1\" = requeue ] && echo $2 >>requeued || echo 'MaxArraySize            = 5'"),
        ] {
            fs::write(bin.join(name), format!("#!/bin/sh\n{does}\n")).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap()))).unwrap()
    }

    #[test]
    fn a_job_array_has_a_task_for_each_cell_and_goes_back_into_the_queue_when_its_time_is_up() {
        let place = place();
        let place = place.path();
        long(place);
        let path = slurm(place);
        let submit = |args: &[&str]| command(place, &[&["sweep", "s.toml"], args].concat()).env("PATH", &path).output().unwrap();
        let none = command(place, &["sweep", "s.toml", "--slurm"]).env("PATH", place).output().unwrap();
        assert_eq!(none.status.code(), Some(2));
        assert!(stderr(&none).contains("cannot start sbatch") && stderr(&none).contains("--dry-run"), "{}", stderr(&none));
        assert!(!place.join("o").exists());
        let refused = submit(&["--slurm", "--", "--partition=refuse"]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            stderr(&refused).contains("sbatch refuses the job: no such partition. Arguments for sbatch go behind --"),
            "{}",
            stderr(&refused)
        );

        let there = fs::read_to_string(place.join("s.toml")).unwrap();
        write(place, "percent.toml", &there.replacen("out = \"", "out = \"50%", 1));
        let percent = succeed(place, &["sweep", "percent.toml", "--slurm", "--dry-run"]);
        assert!(percent.contains("#SBATCH --output='") && percent.contains("50%%o/logs/slurm-%A_%a.log'\n"), "{percent}");
        let printed = submit(&["--slurm", "--dry-run", "--", "--gpus=2", "--comment=it's"]);
        let printed = String::from_utf8(printed.stdout).unwrap();
        assert!(!place.join("job0").exists());
        assert!(printed.contains("#SBATCH '--gpus=2' '--comment=it'\\''s'\n") && !printed.contains("gres"), "{printed}");

        // Eight cells are more than an array of five holds.
        let done = submit(&["--slurm", "--", "--time=9"]);
        assert!(stderr(&done).contains("submitted as job 70, 71: 8 of 8 cells"), "{}", stderr(&done));
        let scripts = ["job0", "job1"].map(|job| fs::read_to_string(place.join(job)).unwrap());
        assert!(scripts[0].contains("#SBATCH --array=0-4\n") && scripts[0].contains("#SBATCH '--time=9'\n"), "{}", scripts[0]);
        assert!(scripts[0].contains("#SBATCH --gres=gpu:1\n") && scripts[0].contains("#SBATCH --requeue\n"), "{}", scripts[0]);
        assert!(scripts[1].contains("#SBATCH --array=0-2\n"), "{}", scripts[1]);

        let task = |job: &str, n: &str| {
            let mut task = std::process::Command::new("sh");
            task.arg(job).current_dir(place).env("PATH", &path).env("XDG_RUNTIME_DIR", std::env::temp_dir());
            task.env("SLURM_ARRAY_TASK_ID", n).env("SLURM_JOB_ID", format!("7{n}")).env("SLURM_CPUS_ON_NODE", "1");
            task.stdout(Stdio::null()).stderr(fs::File::create(place.join("stderr")).unwrap());
            task
        };
        // The sixth cell is the first of the second array. Told that its time is up it saves, and its task is queued again.
        let mut shell = task("job1", "1").spawn().unwrap();
        let process = children(shell.id(), 1, place);
        let listed = succeed(place, &["sweep", "s.toml", "--list"]);
        assert!(listed.lines().nth(6).unwrap().contains(" running "), "{listed}");
        signal(shell.id(), "-USR1");
        assert_eq!(shell.wait().unwrap().code(), Some(0));
        assert!(!at_work(process[0]));
        assert_eq!(fs::read_to_string(place.join("requeued")).unwrap(), "71\n");
        // Told to end, as by scancel, it saves and is not.
        let mut shell = task("job1", "1").spawn().unwrap();
        let process = children(shell.id(), 1, place);
        while !fs::read_to_string(place.join("stderr")).unwrap().contains("it goes on") {
            std::thread::sleep(Duration::from_millis(50));
        }
        signal(shell.id(), "-TERM");
        signal(process[0], "-TERM");
        assert_eq!(shell.wait().unwrap().code(), Some(130));
        assert_eq!(fs::read_to_string(place.join("requeued")).unwrap(), "71\n");

        // One that ends leaves the tables.
        write(place, "s.toml", &SWEEP.replace("OUT", "short"));
        assert!(submit(&["--slurm"]).status.success());
        assert!(task("job2", "0").status().unwrap().success(), "{}", fs::read_to_string(place.join("stderr")).unwrap());
        assert_eq!(table(place, "short").len(), 1);
    }
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
        ("epochs = 2", "target = 1.5", "s.toml: attack Blended, defense none, seed 1: its settings: `target` is 1.5"),
        ("limit-per-class = 20", "limit-per-class = 0", "--limit-per-class 0 leaves no training image"),
        ("\"Blended\"", "\"Bended\"", "unknown attack `Bended`"),
        ("width = 4", "width = 6", "the width must be a multiple of 4, got 6; try 8"),
        ("seed = [1, 2]", "seed = 1", "vary.seed is 1: give a list"),
    ] {
        write(place, "s.toml", &SWEEP.replace("OUT", "o").replace(wrong, right));
        refused(place, &["sweep", "s.toml"], &[expected]);
        assert!(!place.join("o").exists());
    }
    // An option of one defense under [all] is for that defense's cells; of a defense that is not there it is refused.
    let pruning = SWEEP.replace("OUT", "o").replace("epochs = 2", "pruning_lost = 8");
    write(place, "s.toml", &pruning);
    refused(place, &["sweep", "s.toml"], &["none has no option `pruning-lost`; it has none"]);
    write(place, "s.toml", &pruning.replace("clustering", "fine-pruning"));
    assert_eq!(succeed(place, &["sweep", "s.toml", "--list"]).lines().count(), 8);
}

/// The committed sweeps can be given as they are, and the records that were kept of one are still those of its cells: a setting that is
/// declared otherwise would have made them strangers.
#[test]
fn the_sweeps_that_are_kept_can_be_gone_on_with() {
    let sweeps = Path::new(env!("CARGO_MANIFEST_DIR")).join("sweeps");
    let place = place();
    let place = place.path();
    for (file, cells) in [
        ("cifar_full.toml", 450),
        ("cifar_small.toml", 300),
        ("poor_filtering.toml", 72),
        ("poor_filtering_photographs.toml", 72),
        ("quick.toml", 225),
    ] {
        let listed = succeed(place, &["sweep", sweeps.join(file).to_str().unwrap(), "--list"]);
        assert_eq!(listed.lines().count(), cells, "{file}: {listed}");
    }
    assert_eq!(files(&sweeps, ".toml").len(), 5);
    let kept = sweeps.join("records/cifar_small");
    let mut ended = 0;
    for cell in fs::read_dir(&kept).unwrap().flatten() {
        let to = place.join("runs/sweep-cifar-small/cells").join(cell.file_name());
        fs::create_dir_all(&to).unwrap();
        fs::copy(cell.path().join("results.json"), to.join("results.json")).unwrap();
        ended += 1;
    }
    let listed = succeed(place, &["sweep", sweeps.join("cifar_small.toml").to_str().unwrap(), "--list"]);
    let known = listed.lines().filter(|line| line.contains(" ended ")).count();
    assert!(known == ended && ended > 50, "{known} of {ended}: {listed}");
}
