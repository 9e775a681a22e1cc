//! Trainings that are left and gone on with give the same bits as undisturbed ones.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::cell::{Cell, RefCell};

use dau::data::{Dataset, LoadOptions, Spec, load};
use dau::defenses::Split;
use dau::defenses::dau::{UnlearnConfig, UnlearnLoss, unlearn};
use dau::kernel::Kernels;
use dau::nn::ModelSpec;
use dau::ops::LossKind;
use dau::train::{EpochRecord, Network, Normalisation, Observer, SgdConfig, TrainConfig, TrainError, fit};
use rand::RngExt;

const SGD: SgdConfig = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4, crop_pad: 2, flip: true };

/// Wants to stop when asked for the `left`th time; keeps what epochs said, but for the clock.
#[derive(Default)]
struct Watch {
    left: Cell<usize>,
    said: RefCell<Vec<(usize, u64, u64)>>,
}

impl Watch {
    fn new(left: usize) -> Watch {
        Watch { left: Cell::new(left), ..Watch::default() }
    }
}

impl Observer for Watch {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn epoch(&self, r: &EpochRecord) -> Result<(), TrainError> {
        self.said.borrow_mut().push((r.epoch, r.loss.to_bits(), r.accuracy.to_bits()));
        Ok(())
    }
    fn cancelled(&self) -> bool {
        self.left.set(self.left.get().saturating_sub(1));
        self.left.get() == 0
    }
}

fn config(epochs: usize) -> TrainConfig {
    TrainConfig {
        stage: "train".into(),
        loss: LossKind::CrossEntropy,
        epochs,
        batch: 16,
        lr: 0.05,
        sgd: SGD,
        learns: vec![],
        rho: 0.0,
        seed: 3,
    }
}

fn digits() -> (Dataset, Normalisation) {
    let spec = Spec::find("digits").unwrap();
    let data = load(&spec, &LoadOptions::default()).unwrap().train;
    (data.subset(&(0..150).collect::<Vec<_>>()), Normalisation { mean: spec.mean, std: spec.std })
}

fn fresh(kernels: &Kernels, norm: &Normalisation, seed: u64) -> Network {
    let spec = ModelSpec::new("resnet18", 4, 10, 16);
    Network::new(kernels, &spec, norm, seed).unwrap()
}

/// The parameters, to the bit.
fn bits(network: &Network) -> Vec<(String, Vec<u32>)> {
    let values = network.params.read().unwrap();
    values.into_iter().map(|(param, values)| (param.name, values.iter().map(|v| v.to_bits()).collect())).collect()
}

/// Runs `job` until it is through, stopped after a random number of batches each time; what all epochs said, and the stops.
fn in_pieces(seed: &str, most: usize, mut job: impl FnMut(&Watch) -> Result<(), TrainError>) -> (Vec<(usize, u64, u64)>, usize) {
    let mut rng = dau::rng::stream(11, seed);
    let (mut said, mut stops) = (Vec::new(), 0);
    loop {
        let watch = Watch::new(rng.random_range(2..most));
        let done = job(&watch);
        said.extend(watch.said.into_inner());
        match done {
            Ok(()) => {
                // What was said just before a stop is said again.
                said.dedup();
                return (said, stops);
            }
            Err(TrainError::Cancelled) => stops += 1,
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn a_training_in_pieces_is_the_undisturbed_one() {
    let kernels = common::kernels();
    let (data, norm) = digits();
    let config = config(4);
    let whole = fresh(&kernels, &norm, 1);
    let watch = Watch::new(usize::MAX);
    fit(&kernels, &whole, &data, &config, &watch, None).unwrap();

    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("state.safetensors");
    let mut last = None;
    let (said, stops) = in_pieces("train", 9, |watch| {
        // Each piece begins with another network, as another process would.
        let network = fresh(&kernels, &norm, last.as_ref().map_or(1, |_| 99));
        let done = fit(&kernels, &network, &data, &config, watch, Some(&path));
        last = Some(network);
        done
    });
    assert!(stops >= 4, "{stops} stops");
    let last = last.unwrap();
    assert_eq!(said, watch.said.into_inner());
    assert_eq!((bits(&last), last.steps()), (bits(&whole), whole.steps()));

    let other = TrainConfig { lr: 0.1, ..config };
    let refused = fit(&kernels, &whole, &data, &other, &Watch::new(9), Some(&path)).expect_err("another rate").to_string();
    assert!(refused.contains("is the state of a training of 150 images"), "{refused}");
    std::fs::write(&path, b"half a file").unwrap();
    let refused = fit(&kernels, &whole, &data, &other, &Watch::new(9), Some(&path)).expect_err("damaged").to_string();
    assert!(refused.contains("is no state of a training"), "{refused}");
}

#[test]
fn unlearning_in_pieces_is_the_undisturbed_one() {
    let kernels = common::kernels();
    let (data, norm) = digits();
    let network = fresh(&kernels, &norm, 1);
    let train = config(3);
    fit(&kernels, &network, &data, &train, &Watch::new(usize::MAX), None).unwrap();
    // Every second image is called a seven: wrong labels, so some get a name on the way.
    let flagged: Vec<bool> = (0..data.len()).map(|i| i % 2 == 0).collect();
    let labels = data.labels.iter().zip(&flagged).map(|(label, flagged)| if *flagged { 7 } else { *label }).collect();
    let data = Dataset { labels, ..data };
    let split = Split { score: flagged.iter().map(|f| f32::from(u8::from(*f))).collect(), flagged };
    let config = UnlearnConfig {
        steps: 60,
        lr: 0.01,
        batch_clean: 16,
        batch_poison: 8,
        lambda: 1.0,
        loss: UnlearnLoss::Cce,
        restore: true,
        sgd: SgdConfig { crop_pad: 0, ..SGD },
        seed: 5,
    };
    let again = || network.duplicate(&kernels).unwrap();
    let whole = again();
    let watch = Watch::new(usize::MAX);
    unlearn(&kernels, &whole, &data, &split, &config, &watch, None).unwrap();
    assert_ne!(bits(&whole), bits(&network));

    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("state.safetensors");
    let mut last = None;
    let (said, stops) = in_pieces("unlearn", 14, |watch| {
        let network = again();
        let done = unlearn(&kernels, &network, &data, &split, &config, watch, Some(&path));
        last = Some(network);
        done
    });
    assert!(stops >= 4, "{stops} stops");
    assert_eq!(said, watch.said.into_inner());
    assert_eq!(bits(&last.unwrap()), bits(&whole));
}
