//! Tests of [`super`]: what a step is made of.

use std::cell::{Cell, RefCell};

use super::*;
use crate::data::{LoadOptions, Spec, load};
use crate::gpu::{AdapterChoice, Gpu};
use crate::nn::ModelSpec;
use crate::ops::LossKind;
use crate::train::{Batch, Loses, Normalisation, Part, Silent, StepConfig, TrainStep};

const PLAIN: SgdConfig = SgdConfig { momentum: 0.0, nesterov: false, weight_decay: 0.0, crop_pad: 0, flip: false };

/// Steps on 16 clean and 8 flagged images.
fn config(steps: usize, lr: f64, lambda: f32) -> UnlearnConfig {
    let (batch_clean, batch_poison, loss) = (16, 8, UnlearnLoss::Cce);
    UnlearnConfig { steps, lr, batch_clean, batch_poison, lambda, loss, restore: false, sgd: PLAIN, seed: 5 }
}

/// The first `n` digits, labelled by their place.
fn digits(n: usize, label: impl Fn(usize) -> u32) -> Dataset {
    let all = load(&Spec::find("digits").unwrap(), &LoadOptions::default()).unwrap().train;
    Dataset { labels: (0..n).map(label).collect(), ..all.subset(&(0..n).collect::<Vec<_>>()) }
}

fn flag(n: usize, which: impl Fn(usize) -> bool) -> Split {
    let flagged: Vec<bool> = (0..n).map(which).collect();
    Split { score: flagged.iter().map(|f| f32::from(u8::from(*f))).collect(), flagged }
}

fn network(kernels: &Kernels) -> Network {
    let model = ModelSpec::new("resnet18", 4, 10, 16);
    Network::new(kernels, &model, &Normalisation { mean: [0.3; 3], std: [0.3; 3] }, 5).unwrap()
}

/// Keeps the losses that are said.
#[derive(Default)]
struct Losses(RefCell<Vec<f64>>);

impl Observer for Losses {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn epoch(&self, record: &EpochRecord) -> Result<(), TrainError> {
        self.0.borrow_mut().push(record.loss);
        Ok(())
    }
    fn cancelled(&self) -> bool {
        false
    }
}

/// What steps did to all that is trained.
fn change(network: &Network, before: &Network) -> Vec<f64> {
    let values = |network: &Network| {
        let values = network.params.read().unwrap().into_iter().filter(|(param, _)| param.kind.trainable());
        values.flat_map(|(_, values)| values).map(f64::from).collect::<Vec<_>>()
    };
    values(network).iter().zip(values(before)).map(|(new, old)| new - old).collect()
}

#[test]
fn steps_weigh_accused_classes_more_and_fade_along_a_cosine() {
    let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).unwrap());
    // The last 8 of 24 are flagged, 6 of them as sevens and 2 as threes; the clean ones have every label.
    let data = digits(24, |i| if i < 16 { i as u32 % 10 } else { [7, 7, 7, 3][i % 4] });
    let split = flag(24, |i| i >= 16);
    let start = network(&kernels);
    let done = start.duplicate(&kernels).unwrap();
    unlearn(&kernels, &done, &data, &split, &config(2, 0.01, 2.0), &Losses::default(), None).unwrap();
    let done = change(&done, &start);

    // The same by hand: too few images are flagged for any to be held out, so that each step sees all of them.
    let (clean, flagged): (Vec<usize>, Vec<usize>) = ((0..16).collect(), (16..24).collect());
    let by_hand = |weight: &dyn Fn(u32) -> f32, rates: [f64; 2], lambdas: [f32; 2]| {
        let network = start.duplicate(&kernels).unwrap();
        let losses = [LossKind::CrossEntropy, LossKind::Complementary];
        let mut step = TrainStep::new(&kernels, &network, &StepConfig::new(24, &losses, &PLAIN)).unwrap();
        for (rate, lambda) in rates.into_iter().zip(lambdas) {
            let parts = [Part { indices: &clean, weight: 1.0 / 16.0 }, Part { indices: &flagged, weight: lambda / 8.0 }];
            let batch = Batch::new(&data, &parts).weighed(0, |sample| weight(data.labels[sample]));
            step.run(&network, &batch, rate, 0).unwrap().wait(kernels.gpu()).unwrap();
        }
        change(&network, &start)
    };
    let square = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
    let apart = |other: &[f64]| {
        let apart = square(&mut done.iter().zip(other).map(|(a, b)| a - b));
        (apart / square(&mut done.iter().copied())).sqrt()
    };
    // 1 and lambda times the share of the flagged.
    let weights = |label| match label {
        7 => 1.0 + 2.0 * 0.75,
        3 => 1.0 + 2.0 * 0.25,
        _ => 1.0,
    };
    // The second of two steps lies where the cosine is half of its peak.
    let (rates, lambdas) = ([0.01, 0.005], [2.0, 1.0]);
    let right = apart(&by_hand(&weights, rates, lambdas));
    assert!(right < 1e-3, "{right} off");
    for (what, other) in [
        ("a weight of 1", by_hand(&|_| 1.0, rates, lambdas)),
        ("a weight of 1 + lambda", by_hand(&|_| 3.0, rates, lambdas)),
        ("a constant rate", by_hand(&weights, [0.01; 2], lambdas)),
        ("a constant lambda", by_hand(&weights, rates, [2.0; 2])),
    ] {
        let other = apart(&other);
        assert!(other > 0.02, "{what} is but {other} off: the test does not see it");
    }
}

/// Of one image alone all batches are alike but for their crops and flips; at a rate of 0 so are the networks.
#[test]
fn each_step_crops_and_flips_its_own_way() {
    let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).unwrap());
    let data = digits(24, |i| if i < 16 { 5 } else { 7 });
    let data = Dataset { labels: data.labels.clone(), ..data.subset(&[11; 24]) };
    // The mean over the steps of the clean images' loss.
    let mean = |steps: usize, sgd: SgdConfig| {
        let (watch, config) = (Losses::default(), UnlearnConfig { sgd, ..config(steps, 0.0, 0.0) });
        unlearn(&kernels, &network(&kernels), &data, &flag(24, |i| i >= 16), &config, &watch, None).unwrap();
        watch.0.into_inner()[0]
    };
    let apart = |sgd: SgdConfig| {
        let means = [1, 2, 3].map(|steps| mean(steps, sgd));
        [(0, 1), (0, 2), (1, 2)].map(|(i, j)| (means[i] - means[j]).abs() / means[0])
    };
    let (plain, cropped) = (apart(PLAIN), apart(SgdConfig { crop_pad: 3, flip: true, ..PLAIN }));
    assert!(plain.iter().all(|apart| *apart < 1e-6), "{plain:?}");
    assert!(cropped.iter().all(|apart| *apart > 1e-5), "{cropped:?}");
}

/// At a rate of 0 all that lambda changes is what the held-out images weigh.
#[test]
fn held_out_images_of_accused_classes_weigh_as_much() {
    let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).unwrap());
    // Half of the flagged images are called sevens, and all of the clean.
    let data = digits(160, |i| if i % 4 == 1 { 3 } else { 7 });
    let split = flag(160, |i| i % 2 == 1);
    let loss = |lambda: f32| {
        let watch = Losses::default();
        unlearn(&kernels, &network(&kernels), &data, &split, &config(1, 0.0, lambda), &watch, None).unwrap();
        let losses = watch.0.into_inner();
        assert_eq!(losses.len(), 1, "one look");
        losses[0]
    };
    let (without, with) = (loss(0.0), loss(2.0));
    assert!(without > 0.1 && (with / without - 2.0).abs() < 1e-4, "{with} is not twice {without}");
}

#[test]
fn unlearning_whose_device_is_lost_goes_on_on_another() {
    let data = digits(96, |i| if i % 4 == 1 { 7 } else { i as u32 % 10 });
    let split = flag(96, |i| i % 4 == 1);
    // Three rounds, and images are held out.
    let config = UnlearnConfig { restore: true, ..config(3 * CHECK, 0.01, 1.0) };
    let unlearned = |lose: Option<u64>, state: &Path| {
        let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).unwrap());
        let network = network(&kernels);
        let observer: Box<dyn Observer> = match lose {
            Some(images) => Box::new(Loses { gpu: kernels.gpu(), left: Cell::new(images) }),
            None => Box::new(Silent),
        };
        unlearn(&kernels, &network, &data, &split, &config, observer.as_ref(), Some(state))?;
        let values = network.params.read()?.into_iter().flat_map(|(_, values)| values);
        Ok::<_, TrainError>(values.map(f32::to_bits).collect::<Vec<_>>())
    };
    let place = tempfile::tempdir().unwrap();
    let whole = unlearned(None, &place.path().join("whole")).unwrap();
    let round = (CHECK * config.batch()) as u64;
    // In the first round and in the second.
    for images in [24, round + round / 2] {
        let state = place.path().join(images.to_string());
        let said = unlearned(Some(images), &state).expect_err("a loss").to_string();
        assert!(said.contains("was lost"), "{said}");
        assert_eq!(state.is_file(), images > round, "of {images} images");
        assert!(unlearned(None, &state).unwrap() == whole, "after {images} images");
    }
}
