//! Measured ways to run convolutions: kept, found again, obeyed, and never more than a hint.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use dau::gpu::{Candidate, Staging};
use dau::graph::{Graph, Lowering, Op, Shape};
use dau::kernel::{Kernels, Tuning};
use dau::ops::{Conv2d, Conv2dWeightGrad, check, tune};

const SMALL_TILES: Candidate = Candidate { staging: Staging::WorkgroupTile, rows: Some(4) };
const LARGE_TILES: Candidate = Candidate { staging: Staging::WorkgroupTile, rows: Some(8) };
const BLOCKS: Candidate = Candidate { staging: Staging::RegisterBlock, rows: None };

const PLENTY: Duration = Duration::from_secs(3600);

/// Two convolutions of one class and a batch that is in another.
fn graph() -> (Graph, String) {
    let mut g = Graph::new();
    let op = Conv2d { stride: 1, pad: 1 };
    let w = g.variable("w", Shape::f32(&[3, 3, 8, 8]));
    let x = g.input("x", Shape::f32(&[2, 6, 6, 8]));
    let y = g.apply(Conv2d { stride: 1, pad: 1 }, &[x, w]).unwrap()[0];
    g.apply(Conv2d { stride: 1, pad: 1 }, &[y, w]).unwrap();
    let large = g.input("large", Shape::f32(&[5, 6, 6, 8]));
    g.apply(Conv2d { stride: 1, pad: 1 }, &[large, w]).unwrap();
    let class = op.tuning_class(&[g.shape(x).clone(), g.shape(w).clone()]).unwrap();
    (g, class)
}

fn kernels(folder: &Path) -> Kernels {
    let gpu = common::kernels().gpu().clone();
    let tuning = Tuning::load(folder, &gpu);
    Kernels::with_tuning(gpu, tuning)
}

fn file(folder: &Path) -> PathBuf {
    kernels(folder).tuning().unwrap().file().to_path_buf()
}

#[test]
fn each_class_is_measured_once_and_found_again_by_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("not").join("there yet");
    let (g, class) = graph();
    let first = kernels(&below);
    assert_eq!(first.tuning().unwrap().chosen(&class), None);
    assert_eq!(tune(&first, &g, PLENTY).unwrap(), 2, "one class twice, another once");
    let chosen = first.tuning().unwrap().chosen(&class).expect("measured");
    assert_eq!(first.caps_for(Some(class.clone())).candidate(), chosen);
    assert_eq!(tune(&first, &g, PLENTY).unwrap(), 0, "nothing is left to measure");

    let second = kernels(&below);
    assert_eq!(second.tuning().unwrap().chosen(&class), Some(chosen));
    assert_eq!(tune(&second, &g, PLENTY).unwrap(), 0);
}

#[test]
fn without_time_the_rule_holds_and_without_a_tuning_nothing_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (g, class) = graph();
    let hurried = kernels(folder.path());
    assert_eq!(tune(&hurried, &g, Duration::ZERO).unwrap(), 0);
    assert_eq!(hurried.caps_for(Some(class.clone())).staging, hurried.gpu().caps().staging);
    assert!(!file(folder.path()).exists());
    assert_eq!(tune(&common::kernels(), &g, PLENTY).unwrap(), 0);
}

#[test]
fn a_kept_choice_decides_which_kernels_run_and_they_compute_what_the_oracle_does() {
    let folder = tempfile::tempdir().unwrap();
    for case in (dau::ops::OPS.iter().find(|op| op.name == "conv2d").unwrap().cases)().into_iter().take(3) {
        let inputs: Vec<Shape> = case.inputs.iter().map(|(shape, _)| shape.clone()).collect();
        let class = case.op.tuning_class(&inputs).unwrap();
        for way in [BLOCKS, SMALL_TILES, LARGE_TILES] {
            let text = serde_json::json!({"adapter": "any", "chosen": {&class: way.name()}}).to_string();
            fs::write(file(folder.path()), text).unwrap();
            let kernels = kernels(folder.path());
            assert_eq!(kernels.caps_for(Some(class.clone())).candidate(), way);
            let result = check(&kernels, &case, 7).unwrap();
            assert!(result.error <= result.allowed, "{}: {} of {}", case.name, result.error, result.allowed);
            let [used, other] = ["conv2d_register", "conv2d_tile"].map(|file| kernels.made(file));
            assert_eq!((used, other), (way == BLOCKS, way != BLOCKS));
        }
    }
}

/// Rows that an invocation of the launched tile owns; `None` where there is no tile.
fn rows(op: &dyn Op, inputs: &[Shape], way: Candidate) -> Option<u32> {
    let outputs = op.outputs(inputs).unwrap();
    let caps = common::kernels().gpu().caps().with(way);
    let launches = op.lower(&Lowering { inputs, outputs: &outputs, caps }).launches;
    let consts = launches.into_iter().find(|l| l.kernel.file == "conv2d_tile")?.kernel.consts;
    consts.into_iter().find(|(name, _)| *name == "TM").map(|(_, rows)| rows)
}

#[test]
fn what_is_timed_are_different_kernels_under_different_names() {
    let kernels = common::kernels();
    let ways = kernels.gpu().caps().candidates();
    assert!(ways.contains(&SMALL_TILES) && ways.contains(&LARGE_TILES) && ways.contains(&BLOCKS), "{ways:?}");
    let names: std::collections::BTreeSet<String> = ways.iter().map(|way| way.name()).collect();
    assert_eq!(names.len(), ways.len(), "{names:?}");
    // The rule would take the small tile for the first image, the large one for many.
    for images in [1, 64] {
        let (x, w) = (Shape::f32(&[images, 32, 32, 64]), Shape::f32(&[3, 3, 64, 64]));
        let forward: &dyn Op = &Conv2d { stride: 1, pad: 1 };
        let weights: &dyn Op = &Conv2dWeightGrad { stride: 1, pad: 1, kernel: 3 };
        for (op, inputs) in [(forward, [x.clone(), w]), (weights, [x.clone(), x.clone()])] {
            assert_eq!([SMALL_TILES, LARGE_TILES, BLOCKS].map(|way| rows(op, &inputs, way)), [Some(4), Some(8), None]);
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_or_names_what_is_not_offered_counts_as_none() {
    let folder = tempfile::tempdir().unwrap();
    let (_, class) = graph();
    for text in ["", "{", "[]", r#"{"adapter": 1}"#, &format!(r#"{{"adapter": "", "chosen": {{"{class}": "magic"}}}}"#)] {
        fs::write(file(folder.path()), text).unwrap();
        assert_eq!(kernels(folder.path()).tuning().unwrap().chosen(&class), None, "{text}");
    }
}

/// Tells this program, started anew by a test, to write as this one of [`WRITERS`], and in which folder.
const WRITER: &str = "DAU_TEST_TUNING_WRITER";
const PLACE: &str = "DAU_TEST_TUNING_PLACE";
const WRITERS: [&str; 2] = ["a", "b"];
/// A writer adds so many classes so often.
const TIMES: usize = 60;
const EACH: usize = 20;

/// What a writer adds: its classes, and for each the way that is held to be fastest.
fn entry(writer: &str, i: usize) -> (String, Candidate) {
    (format!("{writer} {i}"), [BLOCKS, SMALL_TILES, LARGE_TILES][(i + usize::from(writer == "b")) % 3])
}

/// Processes that end with the test, however that ends.
struct Writers([Child; 2]);

impl Drop for Writers {
    fn drop(&mut self) {
        for writer in &mut self.0 {
            // One that has ended is gone already.
            let _ = writer.kill();
            let _ = writer.wait();
        }
    }
}

/// Adds its classes once it is told to.
fn write(writer: &str, place: &Path) {
    let tuning = Tuning::load(&place.join("kept"), common::kernels().gpu());
    fs::write(place.join(writer), "ready").unwrap();
    while !place.join("go").exists() {
        thread::sleep(Duration::from_millis(1));
    }
    for first in (0..TIMES * EACH).step_by(EACH) {
        tuning.add((first..first + EACH).map(|i| entry(writer, i)).collect());
    }
}

/// The entries in the file's text, which must be whole, by their writer: the first of what it adds, however many.
fn added(text: &str) -> [usize; 2] {
    let kept: serde_json::Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {} bytes: {text}", text.len()));
    assert!(kept["adapter"].is_string(), "{text}");
    let chosen: BTreeMap<String, String> = serde_json::from_value(kept["chosen"].clone()).expect("classes and names");
    let of = |writer: &str| {
        let whole = |i: &usize| {
            let (class, way) = entry(writer, *i);
            chosen.get(&class).is_some_and(|name| *name == way.name())
        };
        (0..TIMES * EACH).take_while(whole).count()
    };
    let found = WRITERS.map(of);
    assert_eq!(found.iter().sum::<usize>(), chosen.len(), "an entry is missing, wrong or of nobody: {text}");
    assert!(found.iter().all(|count| count.is_multiple_of(EACH)), "some of what was added at once is missing: {found:?}");
    found
}

/// Each writes all that it knows: the last one's file stays, and at no time is there half a file.
#[test]
fn two_processes_that_write_one_file_at_the_same_time_leave_a_whole_one() {
    if let (Ok(writer), Ok(place)) = (std::env::var(WRITER), std::env::var(PLACE)) {
        return write(&writer, Path::new(&place));
    }
    let place = tempfile::tempdir().unwrap();
    let (folder, test) = (place.path().join("kept"), "two_processes_that_write_one_file_at_the_same_time_leave_a_whole_one");
    let start = |writer: &str| -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", test, "--nocapture"])
            .stdout(Stdio::null())
            .env(WRITER, writer)
            .env(PLACE, place.path())
            .spawn()
            .unwrap()
    };
    let mut writers = Writers(WRITERS.map(start));
    while !WRITERS.iter().all(|writer| place.path().join(writer).exists()) {
        assert!(writers.0.iter_mut().all(|writer| writer.try_wait().unwrap().is_none()), "a writer ended early");
        thread::sleep(Duration::from_millis(1));
    }
    let file = file(&folder);
    fs::write(place.path().join("go"), "").unwrap();
    let (mut last, mut seen) = (String::new(), 0);
    loop {
        let ended = writers.0.each_mut().map(|writer| writer.try_wait().unwrap());
        if let Ok(text) = fs::read_to_string(&file)
            && text != last
        {
            added(&text);
            (last, seen) = (text, seen + 1);
        }
        if let [Some(a), Some(b)] = ended {
            assert!(a.success() && b.success(), "{a} {b}");
            break;
        }
    }
    println!("{seen} files seen");
    let found = added(&fs::read_to_string(&file).unwrap());
    assert!(found.contains(&(TIMES * EACH)), "what the last writer knew is not all there: {found:?}");
    // The next start reads it.
    let next = kernels(&folder);
    for (writer, count) in WRITERS.iter().zip(found) {
        for (class, way) in (0..count).map(|i| entry(writer, i)) {
            assert_eq!(next.tuning().unwrap().chosen(&class), Some(way), "{class}");
        }
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "a temporary file is left");

    // Who has the file open when it is written anew reads the old one to its end; Windows does not let it be written anew then.
    if cfg!(windows) {
        return;
    }
    let before = fs::read_to_string(&file).unwrap();
    let mut open = fs::File::open(&file).unwrap();
    next.tuning().unwrap().add(BTreeMap::from([("one more".to_string(), BLOCKS)]));
    let mut read = String::new();
    open.read_to_string(&mut read).unwrap();
    assert!(read == before && fs::read_to_string(&file).unwrap().contains("one more"));
}
