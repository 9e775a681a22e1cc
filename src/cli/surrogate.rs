//! The clean network whose gradients some attacks are made with: from a checkpoint, or trained on the clean data.

use std::path::Path;
use std::sync::Mutex;

use anyhow::{Result, ensure};

use super::Global;
use super::progress::Progress;
use super::settings::Settings;
use crate::attacks::{AttackError, Pull, Response, Surrogate};
use crate::data::Dataset;
use crate::experiment::Part;
use crate::graph::{Graph, Plan, Shape, Value};
use crate::kernel::Kernels;
use crate::nn::{ModelSpec, ParamKind};
use crate::ops::{Loss, LossKind, TUNING_TIME, tune};
use crate::train::{EpochRecord, Network, Normalisation, Observer, TrainError, check_batch, fit};

/// A network in evaluation mode, with gradients with respect to its input.
pub struct NetworkSurrogate {
    pub network: Network,
    plan: Mutex<Plan>,
    batch: usize,
    images: Value,
    labels: Value,
    /// Of each image's cross-entropy `[batch]`.
    weight: Value,
    /// Of the features `[batch, D]`.
    pull: Value,
    /// Features, gradient.
    outputs: [Value; 2],
    head: Vec<f32>,
    features: usize,
}

impl NetworkSurrogate {
    /// Loads `checkpoint` or, without one, trains a network on the clean training images as the job trains its own.
    ///
    /// # Errors
    /// A checkpoint of another network; what stops training.
    pub fn make(settings: &Settings, clean: &Dataset, checkpoint: Option<&Path>, global: &Global) -> Result<Self> {
        let model = settings.model_spec(clean);
        let kernels = global.open(settings.precision)?;
        let network = match checkpoint {
            Some(path) => {
                let ModelSpec { name, width, image_size, .. } = Network::load(&kernels, path)?.spec;
                let (shown, size) = (path.display(), clean.size);
                ensure!(image_size == size, "{shown} takes images of {image_size} pixels, not {size}: give another --surrogate");
                Network::load_as(&kernels, path, &ModelSpec { name, width, ..model })?
            }
            None => {
                check_batch(&kernels, &model, settings.batch)?;
                let config = settings.train_config();
                // Not the network that the job will train: another seed.
                let seed = settings.seed.wrapping_add(1);
                let network = Network::new(&kernels, &model, &settings.normalisation()?, seed)?;
                let progress = Progress::new(Part::AntiLearning);
                fit(&kernels, &network, clean, &config, &Named(&progress), |_| Ok(()))?;
                progress.finish()?;
                network
            }
        };
        Ok(NetworkSurrogate::new(&kernels, network, settings.batch)?)
    }

    /// # Errors
    /// A batch over the adapter's limits.
    pub fn new(kernels: &Kernels, network: Network, batch: usize) -> Result<NetworkSurrogate, TrainError> {
        let size = network.spec.image_size;
        let mut g = Graph::new();
        let images = g.input("images", Shape::f32(&[batch, size, size, 4]));
        let labels = g.input("labels", Shape::u32(&[batch]));
        let weight = g.input("weight", Shape::f32(&[batch]));
        let (out, _) = network.spec.build(&mut g, images, false)?;
        let features = g.shape(out.features).last();
        let pull = g.input("pull", Shape::f32(&[batch, features]));
        let loss = g.apply(Loss { kind: LossKind::CrossEntropy }, &[out.logits, labels, weight])?;
        let gradients = g.backward(&[(out.logits, loss[1]), (out.features, pull)], &[images])?;
        let outputs = [out.features, gradients[&images]];
        tune(kernels, &g, TUNING_TIME)?;
        let plan = Plan::new(kernels, &g, &outputs, network.params.variables())?;
        let values = network.params.read()?;
        let head = values.into_iter().rev().find(|(p, _)| matches!(p.kind, ParamKind::Matrix { .. })).map(|(_, w)| w);
        let head = head.unwrap_or_default();
        Ok(NetworkSurrogate { network, plan: Mutex::new(plan), batch, images, labels, weight, pull, outputs, head, features })
    }

    /// One batch of `n` images, the rest of it being empty.
    fn one(&self, pixels: &[f32], n: usize, pull: Pull, out: &mut Response) -> Result<(), TrainError> {
        let Normalisation { mean, std } = self.network.norm;
        let size = self.network.spec.image_size;
        let mut images = vec![0f32; self.batch * size * size * 4];
        for (to, from) in images.chunks_exact_mut(4).zip(pixels.chunks_exact(3)) {
            for c in 0..3 {
                to[c] = (from[c] / 255.0 - mean[c]) / std[c];
            }
        }
        let (mut labels, mut weight) = (vec![0u32; self.batch], vec![0f32; self.batch]);
        let mut seeds = vec![0f32; self.batch * self.features];
        match pull {
            Pull::Labels(given) => {
                labels[..n].copy_from_slice(given);
                weight[..n].fill(1.0);
            }
            Pull::Features(given) => seeds[..given.len()].copy_from_slice(given),
        }
        // A panic elsewhere does not harm the plan: every input is written anew.
        let mut plan = self.plan.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        plan.write(self.images, &images)?;
        plan.write(self.labels, &labels)?;
        plan.write(self.weight, &weight)?;
        plan.write(self.pull, &seeds)?;
        let parts = plan.run_and_fetch(&self.outputs)?.wait(plan.gpu())?;
        let [features, gradient] = [0, 1].map(|i| bytemuck::pod_collect_to_vec::<u8, f32>(&parts[i]));
        out.features.extend(&features[..n * self.features]);
        for pixel in gradient[..n * size * size * 4].chunks_exact(4) {
            out.gradient.extend((0..3).map(|c| pixel[c] / (255.0 * std[c])));
        }
        Ok(())
    }
}

impl Surrogate for NetworkSurrogate {
    fn respond(&self, pixels: &[f32], pull: Pull) -> Result<Response, AttackError> {
        let image = self.network.spec.image_size.pow(2) * 3;
        let mut out = Response::default();
        for (i, pixels) in pixels.chunks(self.batch * image).enumerate() {
            let n = pixels.len() / image;
            let rows = i * self.batch..i * self.batch + n;
            let pull = match pull {
                Pull::Labels(labels) => Pull::Labels(&labels[rows]),
                Pull::Features(pull) => Pull::Features(&pull[rows.start * self.features..rows.end * self.features]),
            };
            self.one(pixels, n, pull, &mut out).map_err(|e| AttackError::Surrogate { why: e.to_string() })?;
        }
        Ok(out)
    }

    fn head(&self) -> &[f32] {
        &self.head
    }

    fn features(&self) -> usize {
        self.features
    }
}

/// Says whose training it is.
struct Named<'a>(&'a Progress);

impl Observer for Named<'_> {
    fn begin(&self, stage: &str, images: u64) {
        self.0.begin(&format!("surrogate {stage}"), images);
    }

    fn advance(&self, images: u64) {
        self.0.advance(images);
    }

    fn epoch(&self, record: &EpochRecord) {
        self.0.epoch(record);
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{LoadOptions, Spec, load};
    use crate::gpu::{AdapterChoice, Gpu};
    use crate::rng;

    fn surrogate() -> (NetworkSurrogate, Dataset) {
        let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).expect("the tests need an adapter"));
        let spec = Spec::find("digits").expect("built in");
        let data = load(&spec, &LoadOptions::default()).expect("built in").train.subset(&[0, 1, 2, 3, 4]);
        let model = ModelSpec { name: "resnet18".into(), width: 8, classes: 10, image_size: 16 };
        let network = Network::new(&kernels, &model, &Normalisation { mean: spec.mean, std: spec.std }, 3).expect("made");
        // A batch of 2 for five images: whole batches, and one that is half empty.
        (NetworkSurrogate::new(&kernels, network, 2).expect("planned"), data)
    }

    /// The features of the images moved by `step` along `direction`.
    fn features(surrogate: &NetworkSurrogate, pixels: &[f32], direction: &[f32], step: f32) -> Vec<f64> {
        let moved: Vec<f32> = pixels.iter().zip(direction).map(|(x, d)| x + step * d).collect();
        let none = vec![0.0; pixels.len() / 768 * surrogate.features()];
        let response = surrogate.respond(&moved, Pull::Features(&none)).expect("responds");
        assert!(response.gradient.iter().all(|g| *g == 0.0), "nothing pulls");
        response.features.iter().map(|f| f64::from(*f)).collect()
    }

    /// Sum of the images' cross-entropy, from their features and the last layer (a fresh network's bias is 0).
    fn cross_entropy(surrogate: &NetworkSurrogate, features: &[f64], labels: &[u32]) -> f64 {
        let d = surrogate.features();
        let of = |row: &[f64], label: u32| {
            let logit = |k: usize| row.iter().zip(&surrogate.head()[k * d..]).map(|(f, w)| f * f64::from(*w)).sum::<f64>();
            let logits: Vec<f64> = (0..10).map(logit).collect();
            logits.iter().map(|z| z.exp()).sum::<f64>().ln() - logits[label as usize]
        };
        features.chunks(d).zip(labels).map(|(row, label)| of(row, *label)).sum()
    }

    #[test]
    fn gradients_with_respect_to_pixels_are_those_of_finite_differences() {
        let (surrogate, data) = surrogate();
        let pixels: Vec<f32> = data.pixels.iter().map(|x| f32::from(*x)).collect();
        let mut rng = rng::stream(1, "pull");
        let pull: Vec<f32> = (0..5 * surrogate.features()).map(|_| rng::normal(&mut rng) as f32).collect();
        for (what, pulled) in [("cross-entropy", Pull::Labels(&data.labels)), ("features", Pull::Features(&pull))] {
            let gradient = surrogate.respond(&pixels, pulled).expect("responds").gradient;
            assert_eq!(gradient.len(), pixels.len());
            let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let direction: Vec<f32> = gradient.iter().map(|g| (f64::from(*g) / norm) as f32).collect();
            let value = |step: f32| {
                let features = features(&surrogate, &pixels, &direction, step);
                match pulled {
                    Pull::Labels(labels) => cross_entropy(&surrogate, &features, labels),
                    Pull::Features(pull) => features.iter().zip(pull).map(|(f, p)| f * f64::from(*p)).sum(),
                }
            };
            let step = 0.25; // levels: far above float32's rounding, few ReLUs change their side
            let slope = (value(step) - value(-step)) / (2.0 * f64::from(step));
            assert!((slope / norm - 1.0).abs() < 0.02, "{what}: slope {slope}, gradient's norm {norm}");
        }
    }
}
