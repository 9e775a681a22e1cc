//! A network in evaluation mode, over whole data sets.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Batch, Network, Observer, Part, TrainError, TrainState, images_at_once, stream_until};
use crate::data::Dataset;
use crate::graph::{Graph, Plan, Shape, Value};
use crate::kernel::Kernels;
use crate::ops::{Argmax, Augment, Loss, LossKind};

/// What a network says of images, in data order; what was not [`Wanted`] is empty.
#[derive(Clone, Debug, Default)]
pub struct Predictions {
    /// The most probable class [N].
    pub class: Vec<u32>,
    /// Its probability [N].
    pub confidence: Vec<f32>,
    /// Cross-entropy with the given labels [N].
    pub loss: Vec<f32>,
    /// [N, K].
    pub logits: Vec<f32>,
    /// Penultimate features [N, D].
    pub features: Vec<f32>,
}

/// What is brought back beside classes and confidences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// [`Predictions::loss`].
    Loss,
    /// [`Predictions::logits`].
    Logits,
    /// [`Predictions::features`].
    Features,
}

/// An evaluation plan of one network; it sees the network's current weights at each call.
pub struct Predictor {
    plan: Plan,
    batch: usize,
    pixels: Value,
    labels: Value,
    /// The class and its probability.
    answer: [Value; 2],
    loss: Value,
    logits: Value,
    features: Value,
}

impl Predictor {
    /// `batch`: images at a time, fewer where the adapter cannot hold so many.
    ///
    /// # Errors
    /// Not even a few images fit the adapter's limits.
    pub fn new(kernels: &Kernels, network: &Network, batch: usize) -> Result<Predictor, TrainError> {
        let batch = images_at_once(kernels, &network.spec, batch).unwrap_or(batch);
        let size = network.spec.image_size;
        let mut g = Graph::new();
        let pixels = g.input("pixels", Shape::u32(&[batch, size, size]));
        let labels = g.input("labels", Shape::u32(&[batch]));
        let weight = g.input("weight", Shape::f32(&[batch]));
        let (mean, std) = (network.norm.mean, network.norm.std);
        let images = g.apply(Augment { mean, std, pad: 0, flip: false }, &[pixels])?[0];
        let (out, _) = network.spec.build(&mut g, images, false)?;
        let loss = g.apply(Loss { kind: LossKind::CrossEntropy }, &[out.logits, labels, weight])?[0];
        let argmax = g.apply(Argmax, &[out.logits])?;
        let answer = [argmax[0], argmax[1]];
        let (logits, features) = (out.logits, out.features);
        let plan = Plan::new(kernels, &g, &[answer[0], answer[1], loss, logits, features], network.params.variables())?;
        // The loss kernel skips rows of weight 0; these weights scale only the gradient, which nobody reads.
        plan.write(weight, &vec![1.0f32; batch])?;
        Ok(Predictor { plan, batch, pixels, labels, answer, loss, logits, features })
    }

    /// Runs the network over all of `data` and brings back what is `wanted`.
    ///
    /// # Errors
    /// Images of another size, a wish to stop, or the driver's.
    pub fn run(&mut self, data: &Dataset, wanted: &[Wanted], observer: &dyn Observer) -> Result<Predictions, TrainError> {
        let (mut out, mut stopped) = (Predictions::default(), false);
        let enough = || {
            stopped = observer.cancelled();
            stopped
        };
        self.go_on(data, &mut out, wanted, enough, observer)?;
        if stopped { Err(TrainError::Cancelled) } else { Ok(out) }
    }

    /// Classes [N] and features [N, D] of `data`, of which `state`, a file, holds those of the first images: written every `save_every`
    /// and at the end, and gone on with from there.
    ///
    /// # Errors
    /// As [`Predictor::run`], the state being saved first; a damaged file, or the state of other data; a disk that refuses.
    pub(crate) fn features(
        &mut self,
        data: &Dataset,
        observer: &dyn Observer,
        state: &Path,
        save_every: Duration,
    ) -> Result<(Vec<u32>, Vec<f32>), TrainError> {
        let mut out = Predictions::default();
        if state.is_file() {
            let TrainState { mut tensors, position } = TrainState::<Position>::read(state)?;
            let class = tensors.remove("class").unwrap_or_default();
            out.class = class.iter().map(|class| *class as u32).collect();
            out.features = tensors.remove("features").unwrap_or_default();
            if position.images != data.len() || position.done != class.len() || out.features.len() != class.len() * position.wide
            {
                let why = format!("it is the state of {} images, or damaged: remove it to begin anew", position.images);
                return Err(TrainError::Checkpoint { path: state.into(), why });
            }
            observer.advance(class.len() as u64);
        }
        while out.class.len() < data.len() {
            let (start, mut begun) = (Instant::now(), false);
            // At least one batch, however short the time.
            let enough = || observer.cancelled() || std::mem::replace(&mut begun, true) && start.elapsed() >= save_every;
            self.go_on(data, &mut out, &[Wanted::Features], enough, observer)?;
            let (images, done) = (data.len(), out.class.len());
            let class = out.class.iter().map(|class| *class as f32).collect();
            let tensors = HashMap::from([("class".to_string(), class), ("features".to_string(), out.features.clone())]);
            TrainState { tensors, position: Position { images, done, wide: out.features.len() / done.max(1) } }.write(state)?;
            if observer.cancelled() {
                return Err(TrainError::Cancelled);
            }
        }
        Ok((out.class, out.features))
    }

    /// Goes on behind the images that `out` has, batch after batch until `enough`.
    fn go_on(
        &mut self,
        data: &Dataset,
        out: &mut Predictions,
        wanted: &[Wanted],
        enough: impl FnMut() -> bool,
        observer: &dyn Observer,
    ) -> Result<(), TrainError> {
        let Predictor { plan, batch, pixels, labels, answer, loss, logits, features } = self;
        let more = wanted.iter().map(|wanted| match wanted {
            Wanted::Loss => *loss,
            Wanted::Logits => *logits,
            Wanted::Features => *features,
        });
        let fetched: Vec<Value> = answer.iter().copied().chain(more).collect();
        let gpu = plan.gpu().clone();
        let indices: Vec<usize> = (out.class.len()..data.len()).collect();
        let batches = indices.chunks(*batch).map(|indices| Batch::new(data, &[Part { indices, weight: 1.0 }]));
        let submit = |_: usize, b: &Batch| {
            plan.write(*pixels, &b.pixels)?;
            plan.write(*labels, &b.labels)?;
            Ok(plan.run_and_fetch(&fetched)?)
        };
        let collect = |_: usize, b: &Batch, parts: &[Vec<u8>]| {
            let n = b.indices.len();
            let floats = |part: &[u8]| -> Vec<f32> { bytemuck::pod_collect_to_vec(&part[..n * (part.len() / *batch)]) };
            let classes: Vec<u32> = bytemuck::pod_collect_to_vec(&parts[0]);
            out.class.extend(&classes[..n]);
            out.confidence.extend(floats(&parts[1]));
            for (wanted, part) in wanted.iter().zip(&parts[2..]) {
                let into = match wanted {
                    Wanted::Loss => &mut out.loss,
                    Wanted::Logits => &mut out.logits,
                    Wanted::Features => &mut out.features,
                };
                into.extend(floats(part));
            }
            Ok(())
        };
        stream_until(&gpu, observer, enough, batches, submit, collect)
    }
}

/// Where the features of a data set are.
#[derive(Serialize, Deserialize)]
struct Position {
    /// Of the data set.
    images: usize,
    /// Of these, those whose features are there.
    done: usize,
    /// Features of an image.
    wide: usize,
}

/// One evaluation of `network` over `data`, announced as `stage`, that brings back what is `wanted`.
///
/// # Errors
/// As `Predictor`.
pub fn predict(
    kernels: &Kernels,
    network: &Network,
    data: &Dataset,
    batch: usize,
    wanted: &[Wanted],
    observer: &dyn Observer,
    stage: &str,
) -> Result<Predictions, TrainError> {
    network.check_size(data.size)?;
    observer.begin(stage, data.len() as u64);
    Predictor::new(kernels, network, batch.min(data.len().max(1)))?.run(data, wanted, observer)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rand::RngExt;

    use super::*;
    use crate::gpu::{AdapterChoice, Gpu};
    use crate::nn::ModelSpec;
    use crate::rng;
    use crate::train::{EpochRecord, Normalisation, Silent};

    /// Counts images, and wants to stop once asked more often than so.
    struct Watch {
        images: Cell<u64>,
        asked: Cell<usize>,
        most: usize,
    }

    impl Watch {
        fn new(most: usize) -> Watch {
            Watch { images: Cell::new(0), asked: Cell::new(0), most }
        }
    }

    impl Observer for Watch {
        fn begin(&self, _: &str, _: u64) {}
        fn advance(&self, images: u64) {
            self.images.set(self.images.get() + images);
        }
        fn epoch(&self, _: &EpochRecord) -> Result<(), TrainError> {
            Ok(())
        }
        fn cancelled(&self) -> bool {
            self.asked.set(self.asked.get() + 1);
            self.asked.get() > self.most
        }
    }

    /// A fresh network, and 50 images of noise.
    fn asked() -> (Kernels, Network, Dataset) {
        let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).expect("the tests need an adapter"));
        let spec = ModelSpec::new("resnet18", 4, 4, 16);
        let network = Network::new(&kernels, &spec, &Normalisation { mean: [0.5; 3], std: [0.3; 3] }, 1).unwrap();
        let mut noise = rng::stream(5, "noise");
        let data = Dataset {
            name: "noise".into(),
            size: 16,
            classes: ["a", "b", "c", "d"].map(String::from).to_vec(),
            pixels: (0..50 * 16 * 16 * 3).map(|_| noise.random()).collect(),
            labels: vec![1; 50],
            paths: (0..50).map(|i| i.to_string()).collect(),
        };
        (kernels, network, data)
    }

    /// What the classifier, a matrix [K, D] and a bias, makes of features, in f64.
    fn logits(network: &Network, features: &[f32]) -> Vec<f64> {
        let params = network.params.read().unwrap();
        let [(_, weight), (_, bias)] = &params[params.len() - 2..] else { panic!("a classifier is last") };
        let wide = weight.len() / bias.len();
        let dot = |row: &[f32], x: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
        let of = |x: &[f32]| weight.chunks(wide).zip(bias).map(|(row, b)| dot(row, x) + f64::from(*b)).collect::<Vec<_>>();
        features.chunks(wide).flat_map(of).collect()
    }

    #[test]
    fn brings_back_what_is_wanted_in_any_order_and_nothing_else() {
        let (kernels, network, data) = asked();
        let mut predictor = Predictor::new(&kernels, &network, 8).unwrap();
        let all = predictor.run(&data, &[Wanted::Features, Wanted::Loss, Wanted::Logits], &Silent).unwrap();
        // Each from the one before.
        let close = |found: f32, truth: f64| assert!((f64::from(found) - truth).abs() < 1e-5, "{found}, {truth}");
        all.logits.iter().zip(logits(&network, &all.features)).for_each(|(found, truth)| close(*found, truth));
        for (i, row) in all.logits.chunks(4).enumerate() {
            let sum: f64 = row.iter().map(|z| f64::from(*z).exp()).sum();
            let class = all.class[i] as usize;
            assert!(row.iter().all(|z| *z <= row[class]));
            close(all.confidence[i], f64::from(row[class]).exp() / sum);
            close(all.loss[i], sum.ln() - f64::from(row[data.labels[i] as usize]));
        }
        assert_eq!([all.class.len(), all.loss.len(), all.logits.len()], [50, 50, 200]);

        let bare = predictor.run(&data, &[], &Silent).unwrap();
        assert_eq!((&bare.class, &bare.confidence), (&all.class, &all.confidence));
        assert!(bare.loss.is_empty() && bare.logits.is_empty() && bare.features.is_empty());
        let one = predictor.run(&data, &[Wanted::Logits], &Silent).unwrap();
        assert!(one.logits == all.logits && one.loss.is_empty() && one.features.is_empty());
    }

    #[test]
    fn sees_the_weights_and_statistics_that_the_network_has_at_each_call() {
        let (kernels, network, data) = asked();
        let mut predictor = Predictor::new(&kernels, &network, 8).unwrap();
        let features = |predictor: &mut Predictor| predictor.run(&data, &[Wanted::Features], &Silent).unwrap().features;
        let mut before = features(&mut predictor);
        for kind in ["conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"] {
            let params = network.params.read().unwrap();
            let (param, values) = params.iter().find(|(param, _)| param.name == kind).unwrap();
            network.params.write(param, &values.iter().map(|x| 2.0 * x + 0.5).collect::<Vec<_>>());
            let after = features(&mut predictor);
            assert_ne!(before, after, "{kind}");
            let mut anew = Predictor::new(&kernels, &network, 8).unwrap();
            assert_eq!(after, features(&mut anew), "{kind}");
            before = after;
        }
    }

    #[test]
    fn features_are_kept_while_they_come_and_gone_on_with() {
        let (kernels, network, data) = asked();
        let mut predictor = Predictor::new(&kernels, &network, 8).unwrap();
        let truth = predictor.run(&data, &[Wanted::Features], &Silent).unwrap();
        let state = std::env::temp_dir().join(format!("dau-features-{}.safetensors", std::process::id()));
        let _ = std::fs::remove_file(&state);

        // Stopped after three batches; then saved after each; then all is there, and nothing is made again.
        let stopped = Watch::new(3);
        let error = predictor.features(&data, &stopped, &state, Duration::MAX).expect_err("stopped");
        assert!(matches!(error, TrainError::Cancelled) && stopped.images.get() == 24, "{error}, {}", stopped.images.get());
        let on = Watch::new(usize::MAX);
        let (class, features) = predictor.features(&data, &on, &state, Duration::ZERO).unwrap();
        assert_eq!((on.images.get(), &class, &features), (50, &truth.class, &truth.features));
        // Another network would give others.
        let other = Network::new(&kernels, &network.spec, &network.norm, 2).unwrap();
        let mut other = Predictor::new(&kernels, &other, 8).unwrap();
        assert_eq!(other.features(&data, &Silent, &state, Duration::MAX).unwrap().1, truth.features);

        let fewer = data.subset(&(0..40).collect::<Vec<_>>());
        let refused = predictor.features(&fewer, &Silent, &state, Duration::MAX).expect_err("another set").to_string();
        assert!(refused.contains("it is the state of 50 images"), "{refused}");
        std::fs::write(&state, b"not a state").unwrap();
        predictor.features(&data, &Silent, &state, Duration::MAX).expect_err("damaged");
        std::fs::remove_file(&state).unwrap();
    }
}
