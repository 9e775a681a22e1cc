//! Measured ways to run convolutions: kept, found again, obeyed, and compared before they are timed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::program::{TINY, dau, place, refused, stderr, succeed};
use dau::bench::{Tried, Ways};
use dau::gpu::{Candidate, Staging};
use dau::graph::{Left, Lowering, Op, Shape};
use dau::kernel::{KernelId, Kernels, Tuning};
use dau::nn::ModelSpec;
use dau::ops::{Conv2d, Conv2dWeightGrad, OPS, beside, check};
use serde_json::{Value, json};

const SMALL_TILES: Candidate = Candidate { staging: Staging::WorkgroupTile, own: Some([4, 4]) };
const LARGE_TILES: Candidate = Candidate { staging: Staging::WorkgroupTile, own: Some([8, 4]) };
const WIDE_TILES: Candidate = Candidate { staging: Staging::WorkgroupTile, own: Some([8, 8]) };
const BLOCKS: Candidate = Candidate { staging: Staging::RegisterBlock, own: None };

fn read(file: &Path) -> Result<Tuning, String> {
    Tuning::read(file, common::kernels().gpu()).map_err(|e| e.to_string())
}

fn file(folder: &Path) -> PathBuf {
    Tuning::place(folder, common::kernels().gpu())
}

#[test]
fn what_was_measured_is_kept_added_to_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(&folder.path().join("not").join("there yet"));
    let tuning = Tuning::none(&file, common::kernels().gpu());
    tuning.add(BTreeMap::from([("one".to_string(), BLOCKS)])).unwrap();
    read(&file).unwrap().add(BTreeMap::from([("two".to_string(), SMALL_TILES)])).unwrap();
    let all = BTreeMap::from([("one".to_string(), BLOCKS), ("two".to_string(), SMALL_TILES)]);
    assert_eq!(read(&file).unwrap().all(), all);
    // What another process adds in the meantime stays, and so does what this start does not offer.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(&SMALL_TILES.name(), "magic")).unwrap();
    tuning.add(BTreeMap::from([("three".to_string(), WIDE_TILES)])).unwrap();
    let kept: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(kept["chosen"], json!({"one": BLOCKS.name(), "three": WIDE_TILES.name(), "two": "magic"}));
}

#[test]
fn a_file_that_is_damaged_or_of_something_else_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path());
    assert!(read(&file).err().unwrap().contains("`dau tune` measures and writes such a file"));
    let tuning = Tuning::none(&file, common::kernels().gpu());
    tuning.add(BTreeMap::from([("one".to_string(), BLOCKS)])).unwrap();
    let good: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let with = |key: &str, value: Value| {
        let mut changed = good.clone();
        changed[key] = value;
        fs::write(&file, changed.to_string()).unwrap();
        read(&file)
    };
    assert!(with("adapter", json!("Voodoo 2")).err().unwrap().contains("was measured on Voodoo 2, and this is "));
    assert!(with("kernels", json!("0")).err().unwrap().contains("another version of the kernels, driver or precision"));
    assert!(with("adapter", json!(1)).err().unwrap().contains("is no file of `dau tune`"));
    // A way that is not offered here: the rule holds.
    assert_eq!(
        with("chosen", json!({"one": "magic", "two": BLOCKS.name()})).ok().unwrap().all().keys().collect::<Vec<_>>(),
        ["two"]
    );
    for nothing in [json!({}), json!({"one": "magic"})] {
        assert!(with("chosen", nothing).err().unwrap().contains("holds no measured way"));
    }
}

#[test]
fn a_kept_choice_decides_which_kernels_run_and_they_compute_what_the_oracle_does() {
    let folder = tempfile::tempdir().unwrap();
    for case in (OPS.iter().find(|op| op.name == "conv2d").unwrap().cases)().into_iter().take(3) {
        let inputs: Vec<Shape> = case.inputs.iter().map(|(shape, _)| shape.clone()).collect();
        let class = case.op.tuning_class(&inputs).unwrap();
        for way in [BLOCKS, SMALL_TILES, LARGE_TILES, WIDE_TILES] {
            let gpu = common::kernels().gpu().clone();
            let tuning = Tuning::none(&file(folder.path()), &gpu);
            tuning.add(BTreeMap::from([(class.clone(), way)])).unwrap();
            let kernels = Kernels::with_tuning(gpu, tuning);
            assert_eq!(kernels.caps_for(Some(class.clone())).candidate(), way);
            assert_eq!(kernels.choices()[&class], way.name(), "a record says it");
            let result = check(&kernels, &case, 7).unwrap();
            assert!(result.error <= result.allowed, "{}: {} of {}", case.name, result.error, result.allowed);
            let [used, other] = ["conv2d_register", "conv2d_tile"].map(|file| kernels.made(file));
            assert_eq!((used, other), (way == BLOCKS, way != BLOCKS));
        }
    }
}

/// Two ways of one convolution agree within what rounding explains; two convolutions that differ in one tap's place do not.
#[test]
fn ways_are_compared_with_each_other() {
    let kernels = common::kernels();
    let inputs = [Shape::f32(&[3, 9, 9, 8]), Shape::f32(&[3, 3, 8, 12])];
    let op = |pad| -> Arc<dyn Op> { Arc::new(Conv2d { stride: 1, pad }) };
    for way in kernels.gpu().caps().candidates() {
        let result = beside(&kernels.with(way), &kernels.with(BLOCKS), &op(1), &inputs).unwrap();
        assert!(result.error <= result.allowed, "{}: {} of {}", way.name(), result.error, result.allowed);
    }
    // The same inputs under another op are what a wrong kernel would give.
    let wrong = dau::ops::Alone::new(&kernels, op(1), &inputs).unwrap().compare(&mut wrong_taps(&kernels, &inputs)).unwrap();
    assert!(wrong > 0.1, "{wrong}");
}

/// A convolution of the same inputs and output shape that takes every second pixel of an image twice as wide.
fn wrong_taps(kernels: &Kernels, inputs: &[Shape]) -> dau::ops::Alone {
    let wide = [Shape::f32(&[3, 17, 17, 8]), inputs[1].clone()];
    dau::ops::Alone::new(kernels, Arc::new(Conv2d { stride: 2, pad: 1 }), &wide).unwrap()
}

#[test]
fn every_class_of_a_step_is_tried_every_way() {
    let kernels = common::kernels();
    let spec = ModelSpec::new("resnet18", 4, 10, 8);
    let ways = Ways::new(&kernels, &spec, &[2, 3], "").unwrap();
    ways.verify().unwrap();
    let classes = ways.classes();
    for op in ["conv2d 3x3 stride 1", "conv2d 1x1 stride 2", "conv2d_input_grad 3x3 stride 2", "conv2d_weight_grad 3x3 stride 1"]
    {
        assert!(classes.iter().any(|class| class.starts_with(op)), "{op} is not in {classes:?}");
    }
    assert!(["batch 2", "batch 4"].iter().all(|batch| classes.iter().any(|class| class.ends_with(batch))), "{classes:?}");
    for k in 0..ways.candidates().len() {
        assert!(matches!(ways.time(0, k).unwrap(), Tried::Us(us) if us > 0.0), "{}", ways.candidates()[k].name());
    }
    assert!(ways.time(classes.len(), 0).is_err());
}

#[test]
fn a_plan_compiles_each_kernel_once_and_says_how_far_it_is() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let hear = told.clone();
    let kernels =
        Kernels::new(common::kernels().gpu().clone()).watched(Arc::new(move |done, of| hear.lock().unwrap().push((done, of))));
    let id = |entry: &'static str| KernelId::new("conv2d_register", entry);
    let ids = [id("gather"), id("weight_gradient"), id("gather")];
    kernels.prepare(ids.iter()).unwrap();
    kernels.prepare(ids.iter()).unwrap();
    let mut told = told.lock().unwrap().clone();
    told.sort_unstable();
    assert_eq!(told, [(0, 2), (1, 2), (2, 2)], "what is there is not compiled again");
    assert!(Arc::ptr_eq(&kernels.get(&ids[0]).unwrap(), &kernels.get(&ids[2]).unwrap()));
    kernels.prepare([KernelId::new("conv2d_register", "no such entry")].iter()).expect_err("refused");
}

#[test]
fn a_run_obeys_what_dau_tune_kept_and_says_so() {
    let place = place();
    let size = ["--width", "4", "--batch", "32", "--image-size", "16", "--op", "weight_grad"];
    let found = succeed(place.path(), &[&["tune", "--json", "--out", "t.json"][..], &size].concat());
    let found: Value = serde_json::from_str(&found).expect("json");
    let classes = found["classes"].as_array().unwrap();
    assert!((5..12).contains(&classes.len()) && classes.iter().all(|class| class["fastest"].is_string()), "{found}");
    let kept: Value = serde_json::from_str(&fs::read_to_string(place.path().join("t.json")).unwrap()).unwrap();
    assert_eq!(kept["chosen"].as_object().unwrap().len(), classes.len());

    let run = dau(place.path(), &[&["run", "--json", "--tuned", "t.json", "--out", "r"][..], &TINY].concat());
    assert!(run.status.success() && stderr(&run).contains(", tuned by t.json"), "{}", stderr(&run));
    let record: Value = serde_json::from_slice(&run.stdout).expect("json");
    let kernels = record["kernels"].as_object().unwrap().clone();
    assert_eq!(kernels.len(), classes.len() + 1, "each class, and otherwise");
    refused(place.path(), &["bench", "--tuned", "missing.json"], &["cannot read missing.json", "`dau tune` measures"]);

    assert!(fs::read_to_string(place.path().join("r/run.toml")).unwrap().contains(", tuned by t.json"));
    // Shown again it says where that was; a network of other sizes is told that nothing was measured of it.
    let first = record;
    let again = dau(place.path(), &[&["run", "--out", "r"][..], &TINY].concat());
    assert!(
        stderr(&again).contains("what follows was found then on ") && stderr(&again).contains(", tuned by t.json. --force"),
        "{}",
        stderr(&again)
    );
    let wider = TINY.map(|word| if word == "4" { "8" } else { word });
    let larger = dau(place.path(), &[&["run", "--json", "--tuned", "t.json", "--out", "l"][..], &wider].concat());
    let record: Value = serde_json::from_slice(&larger.stdout).expect("json");
    assert_eq!(record["kernels"], first["kernels"]);
    assert!(stderr(&larger).contains("t.json has no measurement of this network's convolutions"), "{}", stderr(&larger));
    assert!(!stderr(&run).contains("has no measurement"), "{}", stderr(&run));

    // What somebody else has kept in a file stays.
    fs::write(place.path().join("mine.toml"), "precious = 1").unwrap();
    let others = [&["tune", "--out", "mine.toml"][..], &size].concat();
    refused(place.path(), &others, &["mine.toml is no file of `dau tune`", "Choose another --out"]);

    // No way ends so soon: it is said why, and nothing is kept.
    let hurried = dau(place.path(), &[&["tune", "--limit", "0.000001", "--out", "u.json"][..], &size].concat());
    assert_eq!(hurried.status.code(), Some(1), "{}", stderr(&hurried));
    for part in ["longer than 0.000001 s", "error: no way was measured: each failed or took longer than --limit 0.000001"] {
        assert!(stderr(&hurried).contains(part), "{}", stderr(&hurried));
    }
    assert!(!place.path().join("u.json").exists());
    // What others have kept in that file stays, of whatever version it is.
    for there in [kept.clone(), json!({"adapter": kept["adapter"], "kernels": "0", "chosen": {"one": "strip"}})] {
        fs::write(place.path().join("v.json"), there.to_string()).unwrap();
        let hurried = dau(place.path(), &[&["tune", "--limit", "0.000001", "--out", "v.json"][..], &size].concat());
        assert_eq!(hurried.status.code(), Some(1), "{}", stderr(&hurried));
        let left: Value = serde_json::from_str(&fs::read_to_string(place.path().join("v.json")).unwrap()).unwrap();
        assert_eq!(left, there);
    }
}

/// Rows and channels that an invocation of the launched tile owns; `None` where there is no tile.
fn own(op: &dyn Op, inputs: &[Shape], way: Candidate) -> Option<[u32; 2]> {
    let outputs = op.outputs(inputs).unwrap();
    let caps = common::kernels().gpu().caps().with(way);
    let launches = op.lower(&Lowering { inputs, outputs: &outputs, caps, left: Left::F32 }).launches;
    let consts = launches.into_iter().find(|l| l.kernel.file == "conv2d_tile")?.kernel.consts;
    let value = |wanted: &str| consts.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
    Some([value("TM")?, 4 * value("TN")?])
}

#[test]
fn what_is_timed_are_different_kernels_under_different_names() {
    let kernels = common::kernels();
    let ways = kernels.gpu().caps().candidates();
    assert!([SMALL_TILES, LARGE_TILES, WIDE_TILES, BLOCKS].iter().all(|way| ways.contains(way)), "{ways:?}");
    let names: std::collections::BTreeSet<String> = ways.iter().map(|way| way.name()).collect();
    assert_eq!(names.len(), ways.len(), "{names:?}");
    // The rule would take the small tile for the first image, the large one for many.
    for images in [1, 64] {
        let (x, w) = (Shape::f32(&[images, 32, 32, 64]), Shape::f32(&[3, 3, 64, 64]));
        let forward: &dyn Op = &Conv2d { stride: 1, pad: 1 };
        let weights: &dyn Op = &Conv2dWeightGrad { stride: 1, pad: 1, kernel: 3 };
        for (op, inputs) in [(forward, [x.clone(), w]), (weights, [x.clone(), x.clone()])] {
            for way in [SMALL_TILES, LARGE_TILES, WIDE_TILES, BLOCKS] {
                assert_eq!(own(op, &inputs, way), way.own);
            }
        }
    }
}
