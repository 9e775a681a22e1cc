//! Training learns, stops when it must, and its checkpoints bring the network back.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::cell::{Cell, RefCell};

use common::{digits, resnet_w8};
use dau::kernel::Kernels;
use dau::nn::ModelSpec;
use dau::ops::LossKind;
use dau::train::{EpochRecord, Network, Observer, SgdConfig, Silent, TrainConfig, TrainError, Wanted, fit, predict};

const SGD: SgdConfig = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4, crop_pad: 0, flip: false };

/// Remembers what it is told, and wants to stop once asked more often than so.
#[derive(Default)]
struct Watch {
    stages: RefCell<Vec<(String, u64)>>,
    records: RefCell<Vec<EpochRecord>>,
    images: Cell<u64>,
    asked: Cell<usize>,
    stop_after: Option<usize>,
}

impl Observer for Watch {
    fn begin(&self, stage: &str, images: u64) {
        self.stages.borrow_mut().push((stage.to_string(), images));
    }

    fn advance(&self, images: u64) {
        self.images.set(self.images.get() + images);
    }

    fn epoch(&self, record: &EpochRecord) -> Result<(), TrainError> {
        self.records.borrow_mut().push(record.clone());
        Ok(())
    }

    fn cancelled(&self) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.stop_after.is_some_and(|n| self.asked.get() > n)
    }
}

fn fresh(kernels: &Kernels, seed: u64) -> Network {
    Network::new(kernels, &resnet_w8(), &digits(1).1, seed).unwrap()
}

fn config(epochs: usize, batch: usize, lr: f64) -> TrainConfig {
    TrainConfig {
        stage: "train".into(),
        loss: LossKind::CrossEntropy,
        epochs,
        batch,
        lr,
        sgd: SGD,
        learns: vec![],
        rho: 0.0,
        seed: 1,
    }
}

#[test]
fn learns_two_hundred_digits_within_a_few_epochs() {
    let kernels = common::kernels();
    let (data, _) = digits(200);
    let network = fresh(&kernels, 1);
    let accuracy = || {
        let found = predict(&kernels, &network, &data, 64, &[], &Silent, "check").unwrap();
        found.class.iter().zip(&data.labels).filter(|(c, l)| c == l).count() as f64 / 2.0
    };
    let before = accuracy();
    assert!(before < 50.0, "{before} % before training");
    let watch = Watch::default();
    let config = config(6, 16, 0.05);
    fit(&kernels, &network, &data, &config, &watch, None).unwrap();
    let records = watch.records.into_inner();
    for r in &records {
        println!("epoch {}: loss {:.3}, accuracy {:.1} %, lr {:.4}, {:.2} s", r.epoch, r.loss, r.accuracy, r.lr, r.seconds);
    }
    assert_eq!(records.iter().map(|r| (r.epoch, r.epochs)).collect::<Vec<_>>(), (1..=6).map(|e| (e, 6)).collect::<Vec<_>>());
    assert_eq!(watch.stages.into_inner()[5], ("train 6/6".to_string(), 200));
    assert_eq!(watch.images.get(), 6 * 200);
    assert!(records.iter().all(|r| r.loss.is_finite() && r.seconds > 0.0 && r.images_per_second > 0.0));
    assert!(records.is_sorted_by(|a, b| a.lr > b.lr), "the cosine falls");
    assert!(records[5].accuracy > 90.0, "{} % in the last epoch", records[5].accuracy);
    let after = accuracy();
    assert!(after > 90.0, "{after} % in evaluation");
}

#[test]
fn a_checkpoint_brings_back_the_same_predictions() {
    let kernels = common::kernels();
    let (data, norm) = digits(70);
    let network = fresh(&kernels, 3);
    fit(&kernels, &network, &data, &config(1, 32, 0.05), &Silent, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (path, again) = (folder.path().join("m.safetensors"), folder.path().join("again.safetensors"));
    network.save(&path).unwrap();
    for loaded in [Network::load(&kernels, &path).unwrap(), Network::load_as(&kernels, &path, &resnet_w8()).unwrap()] {
        assert_eq!((&loaded.spec, loaded.norm, loaded.steps()), (&resnet_w8(), norm, 3));
        let everything = [Wanted::Loss, Wanted::Logits, Wanted::Features];
        let predictions = |n: &Network| predict(&kernels, n, &data, 32, &everything, &Silent, "check").unwrap();
        let (a, b) = (predictions(&network), predictions(&loaded));
        assert_eq!((a.class, a.logits, a.features, a.loss), (b.class, b.logits, b.features, b.loss));
        loaded.save(&again).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap(), "saved again, the same file");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().map(|f| f.file_name()).collect();
    assert_eq!(left.len(), 2, "no temporary file stays: {left:?}");
}

#[test]
fn a_checkpoint_has_pytorchs_names_and_shapes() {
    let kernels = common::kernels();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    fresh(&kernels, 3).save(&path).unwrap();
    let shapes = |path: &std::path::Path, prefix: &str| {
        let file = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&file).unwrap();
        let mut all: Vec<_> = file
            .tensors()
            .into_iter()
            .filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), t.dtype(), t.shape().to_vec())))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let ours = shapes(&path, "");
    assert_eq!(ours.len(), 122);
    assert_eq!(ours, shapes("tests/golden/resnet_w8.safetensors".as_ref(), "init/"));
}

fn refused(result: Result<Network, TrainError>) -> String {
    match result {
        Ok(_) => panic!("not refused"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn a_checkpoint_of_another_width_is_refused_with_the_first_tensor_and_both_shapes() {
    let kernels = common::kernels();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    fresh(&kernels, 1).save(&path).unwrap();
    let message = refused(Network::load_as(&kernels, &path, &ModelSpec { width: 16, ..resnet_w8() }));
    let expected = format!(
        "{}: conv1.weight has shape [8, 3, 3, 3], a resnet18 of width 16 with 10 classes needs [16, 3, 3, 3]",
        path.display()
    );
    assert_eq!(message, expected);
    let message = refused(Network::load_as(&kernels, &path, &ModelSpec { classes: 43, ..resnet_w8() }));
    let expected =
        format!("{}: linear.weight has shape [10, 64], a resnet18 of width 8 with 43 classes needs [43, 64]", path.display());
    assert_eq!(message, expected);
}

#[test]
fn a_file_that_is_truncated_missing_or_not_ours_is_refused_by_its_path() {
    let kernels = common::kernels();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let message = refused(Network::load(&kernels, &path));
    assert!(message.starts_with(&format!("{}: ", path.display())), "{message}");
    fresh(&kernels, 1).save(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 4, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let message = refused(Network::load(&kernels, &path));
        let said = if length == 0 { "is empty" } else { "not a whole safetensors file" };
        assert!(message.starts_with(&format!("{}: {said}", path.display())), "{length} bytes: {message}");
    }
    let message = refused(Network::load(&kernels, "tests/golden/resnet_w8.safetensors".as_ref()));
    assert!(message.contains("has no `dau` entry in its header: not written by dau"), "{message}");
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_names_epoch_and_step() {
    let kernels = common::kernels();
    let (data, _) = digits(64);
    let network = fresh(&kernels, 1);
    let watch = Watch::default();
    let error = fit(&kernels, &network, &data, &config(3, 16, 1e30), &watch, None).expect_err("the weights overflow");
    let TrainError::NotFinite { epoch, step, value, .. } = &error else { panic!("{error}") };
    assert!(*epoch == 1 && (2..=4).contains(step) && !value.is_finite(), "{error}");
    let message = error.to_string();
    assert!(message.contains(&format!("in epoch 1, step {step}; try a smaller learning rate")), "{message}");
    assert!(watch.records.into_inner().is_empty(), "no epoch was finished");
}

#[test]
fn a_wish_to_stop_ends_training_and_prediction_between_batches() {
    let kernels = common::kernels();
    let (data, _) = digits(96);
    let network = fresh(&kernels, 1);
    // Asked before each of the three batches, after the epoch, and before the next batch.
    let watch = Watch { stop_after: Some(5), ..Default::default() };
    let error = fit(&kernels, &network, &data, &config(3, 32, 0.01), &watch, None).expect_err("stopped");
    assert!(matches!(error, TrainError::Cancelled), "{error}");
    assert_eq!(network.steps(), 4, "one epoch and one batch");
    assert_eq!(watch.records.into_inner().len(), 1);
    let watch = Watch { stop_after: Some(1), ..Default::default() };
    let error = predict(&kernels, &network, &data, 32, &[], &watch, "check").expect_err("stopped");
    assert!(matches!(error, TrainError::Cancelled), "{error}");
}

#[test]
fn images_of_another_size_are_refused_with_both_sizes() {
    let kernels = common::kernels();
    let network = Network::new(&kernels, &ModelSpec { image_size: 32, ..resnet_w8() }, &digits(1).1, 1).unwrap();
    let (data, _) = digits(4);
    let message = predict(&kernels, &network, &data, 4, &[], &Silent, "check").expect_err("16 is not 32").to_string();
    assert_eq!(message, "the images are 16x16, the network takes 32x32; try --image-size 32");
    let error = fit(&kernels, &network, &data, &config(1, 4, 0.01), &Silent, None).expect_err("16 is not 32");
    assert_eq!(error.to_string(), message);
    assert_eq!(network.steps(), 0);
}
