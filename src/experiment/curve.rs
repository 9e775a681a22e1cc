//! ACC, ASR and RA while networks are trained, measured by who knows the truth. The defense sees none of it, and nothing is chosen by it.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::evaluate::{Count, TriggeredClasses, model_metrics};
use super::{Store, Subtask};
use crate::attacks::TriggeredTest;
use crate::data::Dataset;
use crate::kernel::Kernels;
use crate::rng;
use crate::train::{EpochRecord, Network, Observer, Predictor, Silent, TrainError};

/// The stage of the point at which stage 2 begins.
pub const START: &str = "before";
/// The stage of the network's own training.
pub const TRAIN: &str = "train";

/// Test images that are looked at, clean and triggered ones, as many of each.
const IMAGES: usize = 100;
/// An epoch is looked at once so many times as many images were trained on as are looked at. To look at an image costs a third to a half of
/// training on it, so that all looks together take 1/24 to 1/16 of a training.
const SPARSE: usize = 8;

/// A network under training, on a few test images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// The training, as [`EpochRecord::stage`]; or [`START`].
    pub stage: String,
    /// Counted from 1; of [`START`] 0.
    pub epoch: usize,
    /// Steps that the network has taken in its life.
    pub steps: u64,
    /// Clean images that get their label.
    pub acc: Count,
    /// Triggered images that get the attacker's label; none where there are no triggered images.
    pub asr: Option<Count>,
    /// The same images, those that get their true label.
    pub ra: Option<Count>,
}

/// Measures as it observes, and passes all that it sees on.
pub(super) struct Gauge<'a> {
    kernels: &'a Kernels,
    store: &'a Store,
    part: Subtask,
    observer: &'a dyn Observer,
    batch: usize,
    /// The clean images, then the triggered ones.
    images: Dataset,
    clean: usize,
    /// Where there are triggered ones: the labels that the attacker wants, if any wrong one will not do.
    goal: Option<Vec<Option<u32>>>,
}

impl<'a> Gauge<'a> {
    /// Writes to `store` what networks do in `part` on a few of the test images, chosen by `seed`, and passes on to `observer`.
    pub(super) fn new(
        kernels: &'a Kernels,
        (test, triggered): (&Dataset, Option<&TriggeredTest>),
        (batch, seed): (usize, u64),
        (store, part): (&'a Store, Subtask),
        observer: &'a dyn Observer,
    ) -> Gauge<'a> {
        let chosen = |images: usize, purpose: &str| {
            let mut all: Vec<usize> = (0..images).collect();
            rng::shuffle(&mut rng::stream(seed, purpose), &mut all);
            all.truncate(IMAGES);
            all
        };
        let mut images = test.subset(&chosen(test.len(), "curve clean"));
        let clean = images.len();
        let goal = triggered.map(|triggered| {
            let chosen = chosen(triggered.data.len(), "curve triggered");
            let Dataset { pixels, labels, paths, .. } = triggered.data.subset(&chosen);
            images.pixels.extend(pixels);
            images.labels.extend(labels);
            images.paths.extend(paths);
            chosen.iter().map(|&i| triggered.goal[i]).collect()
        });
        Gauge { kernels, store, part, observer, batch, images, clean, goal }
    }

    /// Measures the network with which stage 2 begins, unless that is known: from an earlier start, or as what its own training ended with.
    ///
    /// # Errors
    /// The driver's, a disk that refuses.
    pub(super) fn start(&self, network: &Network) -> Result<(), TrainError> {
        let known = self.store.curve().map_err(|e| TrainError::Data(e.to_string()))?;
        if known.iter().any(|point| point.stage == START) {
            return Ok(());
        }
        match known.into_iter().rfind(|point| point.stage == TRAIN && point.steps == network.steps()) {
            Some(last) => self.kept(&CurvePoint { stage: START.into(), epoch: 0, ..last }),
            None => self.measure(START, 0, network),
        }
    }

    fn kept(&self, point: &CurvePoint) -> Result<(), TrainError> {
        self.store.append_point(point).map_err(|e| TrainError::Data(e.to_string()))
    }

    fn measure(&self, stage: &str, epoch: usize, network: &Network) -> Result<(), TrainError> {
        let began = Instant::now();
        let batch = self.batch.min(self.images.len().max(1));
        let class = Predictor::new(self.kernels, network, batch)?.run(&self.images, &[], &Silent)?.class;
        let ((clean, triggered), (labels, true_labels)) = (class.split_at(self.clean), self.images.labels.split_at(self.clean));
        let triggered = self.goal.as_ref().map(|goal| TriggeredClasses { class: triggered, labels: true_labels, goal });
        let found = model_metrics(clean, labels, triggered, &[]);
        let (stage, steps) = (stage.to_string(), network.steps());
        self.kept(&CurvePoint { stage, epoch, steps, acc: found.acc, asr: found.asr, ra: found.ra })?;
        let name = if self.part == Subtask::AntiLearning { "test by epoch" } else { "test by step" };
        let timed = self.store.add_seconds(self.part, name, began.elapsed().as_secs_f64());
        timed.map_err(|e| TrainError::Data(e.to_string()))
    }
}

/// Whether an epoch of `images` images is looked at by looks at `few`: the last one always is, others as often as is cheap.
fn counts(epoch: usize, epochs: usize, images: usize, few: usize) -> bool {
    epoch == epochs || epoch.is_multiple_of((SPARSE * few).div_ceil(images.max(1)).max(1))
}

impl Observer for Gauge<'_> {
    fn begin(&self, stage: &str, images: u64) {
        self.observer.begin(stage, images);
    }

    fn advance(&self, images: u64) {
        self.observer.advance(images);
    }

    fn epoch(&self, record: &EpochRecord) -> Result<(), TrainError> {
        self.observer.epoch(record)
    }

    fn look(&self, record: &EpochRecord, network: &Network) -> Result<(), TrainError> {
        if counts(record.epoch, record.epochs, record.images(), self.images.len()) {
            self.measure(&record.stage, record.epoch, network)?;
        }
        self.observer.look(record, network)
    }

    fn end(&self) {
        self.observer.end();
    }

    fn cancelled(&self) -> bool {
        self.observer.cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attacks::Aim;
    use crate::data::{LoadOptions, Spec, load};
    use crate::experiment::Asked;
    use crate::gpu::{AdapterChoice, Gpu};
    use crate::nn::ModelSpec;
    use crate::ops::LossKind;
    use crate::train::{Normalisation, SgdConfig, TrainConfig, fit, predict};

    /// Of 60 images in batches of 20, measured on 100 others twice over, which are "triggered" with the goal 3.
    #[test]
    fn measuring_changes_no_bit_of_the_network_and_says_what_it_does() {
        let digits = load(&Spec::find("digits").expect("built in"), &LoadOptions::default()).expect("built in");
        let (train, test) = (digits.train.subset(&(0..60).collect::<Vec<_>>()), digits.test);
        let others: Vec<usize> = (0..test.len()).filter(|&i| test.labels[i] != 3).collect();
        let aim = Aim { target: 3, ..Aim::default() };
        let triggered = TriggeredTest::new(test.subset(&others), &aim);
        let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).expect("the tests need an adapter"));
        let place = tempfile::tempdir().expect("a folder");
        let store = Store::begin(place.path(), &Asked::default(), "none", None).expect("begun");
        let gauge = Gauge::new(&kernels, (&test, Some(&triggered)), (32, 7), (&store, Subtask::AntiLearning), &Silent);
        let sgd = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4, crop_pad: 1, flip: false };
        let (stage, loss, learns) = (TRAIN.to_string(), LossKind::CrossEntropy, vec![]);
        let config = TrainConfig { stage, loss, epochs: 30, batch: 20, lr: 0.02, sgd, learns, rho: 0.0, seed: 1 };
        let trained = |observer: &dyn Observer| {
            let norm = Normalisation { mean: [0.3; 3], std: [0.3; 3] };
            let network = Network::new(&kernels, &ModelSpec::new("resnet18", 4, 10, 16), &norm, 5).expect("made");
            fit(&kernels, &network, &train, &config, observer, None).expect("trained");
            network
        };
        let network = trained(&gauge);
        assert!(network.params.read().expect("read") == trained(&Silent).params.read().expect("read"), "measuring changed it");

        gauge.start(&network).expect("measured");
        gauge.start(&network).expect("known");
        let curve = store.curve().expect("read");
        let of = |point: &CurvePoint| (point.stage.clone(), point.epoch, point.steps);
        // 8 x 200 images are 27 epochs of 60.
        assert_eq!(
            curve.iter().map(of).collect::<Vec<_>>(),
            [(TRAIN.into(), 27, 81), (TRAIN.into(), 30, 90), (START.into(), 0, 90)]
        );
        let said = predict(&kernels, &network, &gauge.images, 50, &[], &Silent, "predict").expect("predicted").class;
        let hits = |range: std::ops::Range<usize>, right: &dyn Fn(usize) -> u32| range.filter(|&i| said[i] == right(i)).count();
        let label = |i: usize| gauge.images.labels[i];
        let expected = [hits(0..100, &label), hits(100..200, &|_| 3), hits(100..200, &label)];
        let last = &curve[2];
        assert_eq!([last.acc.hits, last.asr.expect("some").hits, last.ra.expect("some").hits], expected);
        assert!(gauge.images.labels[100..].iter().all(|label| *label != 3) && last.acc.of == 100);
        let paths: std::collections::HashSet<&String> = gauge.images.paths[..100].iter().collect();
        assert_eq!(paths.len(), 100, "each image once");
    }

    /// But for the last, looks go through at most an eighth of the images that training does.
    #[test]
    fn short_epochs_are_looked_at_seldom_and_the_last_one_always() {
        let looked = |epochs: usize, images: usize| (1..=epochs).filter(|e| counts(*e, epochs, images, 200)).collect::<Vec<_>>();
        assert_eq!(looked(6, 1297), [2, 4, 6]);
        assert_eq!(looked(5, 1297), [2, 4, 5]);
        assert_eq!(looked(4, 2400), [1, 2, 3, 4]);
        assert_eq!(looked(3, 0), [3]);
        for images in [13, 500, 1297, 5000] {
            let epochs = 40;
            let cost = (looked(epochs, images).len() - 1) * 200;
            assert!(8 * cost <= epochs * images, "{images}: {cost}");
        }
    }
}
