//! Tests of [`super`].

use super::*;
use crate::files::write_atomic;

fn asked(settings: &str) -> Asked {
    Asked { settings: toml::from_str(settings).expect("toml"), ..Asked::default() }
}

fn store() -> (tempfile::TempDir, Store) {
    let place = tempfile::tempdir().expect("a folder");
    let store = Store::begin(&place.path().join("a/b"), &asked("lr = 0.1\nname = \"x\""), "none", None).expect("begun");
    (place, store)
}

fn epoch(stage: &str, epoch: usize, loss: f64) -> EpochRecord {
    let (epochs, accuracy, lr, seconds, images_per_second) = (3, 50.0, 0.1, 1.0, 1.0);
    EpochRecord { stage: stage.into(), epoch, epochs, loss, accuracy, lr, seconds, images_per_second }
}

#[test]
fn run_toml_gives_settings_and_provenance_back() {
    let (_place, store) = store();
    store.add_seconds(Subtask::AntiLearning, "train", 1.5).expect("written");
    store.add_seconds(Subtask::AntiLearning, "train", 1.0).expect("written");
    let (settings, run) = store.read_run().expect("read");
    assert_eq!(settings, asked("lr = 0.1\nname = \"x\"").settings);
    assert_eq!(run.stages, [StageTime { name: "train".into(), seconds: 2.5, part: Subtask::AntiLearning }]);
    assert_eq!((run.version.as_str(), run.adapter.as_str()), (VERSION, "none"));
}

#[test]
fn what_was_asked_the_same_goes_on_and_all_else_is_refused_with_the_difference() {
    let (_place, store) = store();
    let root = store.root().to_path_buf();
    store.write(BACKDOORED, b"x").expect("written");
    let same = asked("lr = 0.1\nname = \"x\"\nout = \"b\"");
    assert!(matches!(Store::earlier(&root, &same), Err(StoreError::Busy { .. })), "this process works there");
    drop(store);
    let earlier = Store::earlier(&root, &same).expect("the same").expect("goes on");
    assert!(Store::begin(&root, &same, "none", Some(earlier)).expect("goes on").has(BACKDOORED));
    let refused = |asked: &Asked| Store::earlier(&root, asked).expect_err("another run").to_string();
    let message = refused(&asked("lr = 0.2\nname = \"x\""));
    assert!(message.contains("a run with lr = 0.1, and this one has lr = 0.2"), "{message}");
    assert!(refused(&asked("lr = 0.1")).contains("name = \"x\", and this one has name = nothing"));
    let images = |print: &str| Asked { given: BTreeMap::from([("images".into(), print.into())]), ..same.clone() };
    assert!(Store::earlier(&root, &images("1")).is_ok(), "it does not say what images it had");

    let anew = Asked { force: true, ..images("1") };
    assert!(Store::earlier(&root, &anew).expect("forced").is_none());
    assert!(!Store::begin(&root, &anew, "none", None).expect("begun anew").has(BACKDOORED));
    assert!(root.with_file_name("b.1").join(BACKDOORED).is_file(), "the old folder is kept");
    assert!(refused(&images("2")).contains("images = 1, and this one has images = 2"));
    let earlier = Store::earlier(&root, &same).expect("what is given is not known yet");
    let late = Store::begin(&root, &images("2"), "none", earlier).expect_err("other images").to_string();
    assert!(late.contains("images = 1, and this one has images = 2"), "{late}");
}

#[test]
fn what_is_undone_goes_and_all_else_stays() {
    let (_place, store) = store();
    for file in [BACKDOORED, DEFENDED] {
        store.write(file, b"x").expect("written");
    }
    store.append_metrics(&epoch("train", 1, 0.5)).expect("appended");
    store.append_metrics(&epoch("unlearn", 1, 0.5)).expect("appended");
    store.add_seconds(Subtask::Unlearning, "unlearn", 1.0).expect("written");
    store.undo(&[DEFENDED, RESULTS], Subtask::Unlearning).expect("undone");
    assert!(store.has(RUN) && store.has(BACKDOORED) && !store.has(DEFENDED));
    let metrics = store.read(METRICS).expect("metrics");
    assert!(metrics.lines().count() == 1 && metrics.contains("\"train\""), "{metrics}");
    assert!(store.read_run().expect("read").1.stages.is_empty());
}

#[test]
fn a_stage_counts_once_whichever_part_runs_it_again_and_all_of_an_undone_part_go() {
    let (_place, store) = store();
    let stages = || -> Vec<(String, f64)> {
        store.read_run().expect("read").1.stages.into_iter().map(|stage| (stage.name, stage.seconds)).collect()
    };
    let add = |part, stage, seconds| store.add_seconds(part, stage, seconds).expect("written");
    add(Subtask::AntiLearning, "train", 1.0);
    add(Subtask::AntiLearning, "isolate", 2.0);
    add(Subtask::Unlearning, "learn the rest", 4.0);
    add(Subtask::Test, "test", 8.0);
    store.undo(&[], Subtask::Unlearning).expect("undone");
    assert_eq!(stages(), [("train".into(), 1.0), ("isolate".into(), 2.0)]);
    for _ in 0..2 {
        add(Subtask::Unlearning, "isolate", 16.0);
    }
    add(Subtask::Unlearning, "learn the rest", 32.0);
    assert_eq!(stages(), [("train".into(), 1.0), ("isolate".into(), 32.0), ("learn the rest".into(), 32.0)]);
}

#[cfg(unix)]
#[test]
fn a_link_to_a_folder_stays_where_what_it_leads_to_is_set_aside() {
    let (place, store) = store();
    let (root, link) = (store.root().to_path_buf(), place.path().join("link"));
    store.write(BACKDOORED, b"x").expect("written");
    drop(store);
    std::os::unix::fs::symlink(&root, &link).expect("linked");
    let anew = Asked { force: true, ..asked("lr = 0.2") };
    for (given, aside) in [(link.clone(), "b.1"), (link.join(""), "b.2")] {
        assert!(Store::earlier(&given, &anew).expect("forced").is_none());
        let store = Store::begin(&given, &anew, "none", None).expect("begun anew");
        assert!(link.is_symlink() && link.join(RUN).is_file() && !link.join(BACKDOORED).exists(), "{}", given.display());
        assert!(
            root.with_file_name(aside).join(RUN).is_file(),
            "the old folder is kept beside the folder that the link leads to"
        );
        assert!(store.root().ends_with("a/b") && !place.path().join("link.1").exists());
    }
    assert!(root.with_file_name("b.1").join(BACKDOORED).is_file());
}

#[test]
fn a_run_that_has_ended_is_shown_without_a_lock_and_one_that_has_not_is_refused() {
    let (_place, store) = store();
    let root = store.root().to_path_buf();
    drop(store);
    // As little can a file be opened there as on a disk that is read only.
    fs::remove_file(root.join(LOCK)).expect("removed");
    fs::create_dir(root.join(LOCK)).expect("made");
    let same = asked("lr = 0.1\nname = \"x\"");
    let message = Store::earlier(&root, &same).expect_err("it cannot go on").to_string();
    assert!(message.contains("lock"), "{message}");
    fs::write(root.join(RESULTS), "{}").expect("written");
    let earlier = Store::earlier(&root, &same).expect("the same").expect("shown");
    let store = Store::begin(&root, &same, "none", Some(earlier)).expect("shown");
    assert_eq!(store.read(RESULTS).expect("read"), "{}");
    assert!(store.remove(TRAINING).is_ok(), "it is not there");
}

#[test]
fn an_epoch_said_again_and_half_a_line_leave_one_line_an_epoch() {
    let (_place, store) = store();
    for (number, loss) in [(1, 0.9), (2, 0.8)] {
        store.append_metrics(&epoch("train", number, loss)).expect("appended");
    }
    let half = store.read(METRICS).expect("metrics") + "{\"part\":\"anti_lear";
    store.write(METRICS, half.as_bytes()).expect("written");
    store.append_metrics(&epoch("train", 2, 0.7)).expect("appended");
    let text = store.read(METRICS).expect("metrics");
    let losses: Vec<f64> = text
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).expect("json")["loss"].as_f64().expect("a loss"))
        .collect();
    assert_eq!(losses, [0.9, 0.7]);
}

#[test]
fn refuses_a_folder_of_something_else_and_a_file() {
    let place = tempfile::tempdir().expect("a folder");
    let asked = Asked::default();
    assert!(Store::earlier(place.path(), &asked).expect("an empty folder will do").is_none());
    fs::write(place.path().join("thesis.tex"), "x").expect("written");
    assert!(matches!(Store::earlier(place.path(), &asked), Err(StoreError::NotOurs { .. })));
    let forced = Asked { force: true, ..Asked::default() };
    assert!(matches!(Store::earlier(place.path(), &forced), Err(StoreError::NotOurs { .. })), "not by force either");
    assert!(matches!(Store::earlier(&place.path().join("thesis.tex"), &asked), Err(StoreError::Read { .. })));
}

#[test]
fn an_atomic_write_replaces_and_what_killed_writers_left_is_swept() {
    let (place, store) = store();
    store.write(RESULTS, b"old").expect("written");
    store.write(RESULTS, b"new").expect("written");
    assert_eq!(store.read(RESULTS).expect("read"), "new");
    assert!(write_atomic(&store.path("missing/file"), b"x").is_err());
    let left = store.path(".dau-x1y2z3.tmp");
    fs::write(&left, b"half").expect("written");
    drop(store);
    let (root, asked) = (place.path().join("a/b"), asked("lr = 0.1\nname = \"x\""));
    let earlier = Store::earlier(&root, &asked).expect("the same");
    Store::begin(&root, &asked, "none", earlier).expect("goes on");
    assert!(!left.exists());
}
