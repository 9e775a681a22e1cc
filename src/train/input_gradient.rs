//! Gradients with respect to a network's input: what attacks and trigger inversion work with.

use std::sync::Mutex;

use super::{Network, Normalisation, TrainError, images_at_once};
use crate::graph::{Graph, Plan, Shape, Value};
use crate::kernel::Kernels;
use crate::nn::ParamKind;
use crate::ops::{Loss, LossKind};

/// A network in evaluation mode, with gradients with respect to its input.
pub struct InputGradient {
    /// The network, in evaluation mode.
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

/// Of which scalar the gradient is taken, summed over the images.
#[derive(Clone, Copy, Debug)]
pub enum Scalar<'a> {
    /// The cross-entropy with these labels `[N]`.
    CrossEntropy(&'a [u32]),
    /// The inner product of the features with these numbers `[N, D]`.
    Features(&'a [f32]),
}

impl InputGradient {
    /// `batch`: images at a time, fewer where the adapter cannot hold so many.
    ///
    /// # Errors
    /// Not even a few images fit the adapter's limits.
    pub fn new(kernels: &Kernels, network: Network, batch: usize) -> Result<InputGradient, TrainError> {
        let batch = images_at_once(kernels, &network.spec, batch).unwrap_or(batch);
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
        let plan = Plan::new(kernels, &g, &outputs, network.params.variables())?;
        let values = network.params.read()?;
        let head = values.into_iter().rev().find(|(p, _)| matches!(p.kind, ParamKind::Matrix { .. })).map(|(_, w)| w);
        let head = head.unwrap_or_default();
        Ok(InputGradient { network, plan: Mutex::new(plan), batch, images, labels, weight, pull, outputs, head, features })
    }

    /// Number of features D before the last layer.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Weights of the last layer `[K, D]`.
    pub fn head(&self) -> &[f32] {
        &self.head
    }

    /// The features `[N, D]` of images `[N, S, S, 3]` in levels of 255, and the gradient of `scalar` with respect to these levels, of the
    /// same shape as the images.
    ///
    /// # Errors
    /// The driver's.
    pub fn run(&self, pixels: &[f32], scalar: Scalar) -> Result<(Vec<f32>, Vec<f32>), TrainError> {
        let image = self.network.spec.image_size.pow(2) * 3;
        let (mut features, mut gradient) = (Vec::new(), Vec::new());
        for (i, pixels) in pixels.chunks(self.batch * image).enumerate() {
            let n = pixels.len() / image;
            let rows = i * self.batch..i * self.batch + n;
            let scalar = match scalar {
                Scalar::CrossEntropy(labels) => Scalar::CrossEntropy(&labels[rows]),
                Scalar::Features(pull) => Scalar::Features(&pull[rows.start * self.features..rows.end * self.features]),
            };
            self.one(pixels, n, scalar, [&mut features, &mut gradient])?;
        }
        Ok((features, gradient))
    }

    /// One batch of `n` images, the rest of it being empty.
    fn one(&self, pixels: &[f32], n: usize, scalar: Scalar, [features, gradient]: [&mut Vec<f32>; 2]) -> Result<(), TrainError> {
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
        match scalar {
            Scalar::CrossEntropy(given) => {
                labels[..n].copy_from_slice(given);
                weight[..n].fill(1.0);
            }
            Scalar::Features(given) => seeds[..given.len()].copy_from_slice(given),
        }
        // A panic elsewhere does not harm the plan: every input is written anew.
        let mut plan = self.plan.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        plan.write(self.images, &images)?;
        plan.write(self.labels, &labels)?;
        plan.write(self.weight, &weight)?;
        plan.write(self.pull, &seeds)?;
        let parts = plan.run_and_fetch(&self.outputs)?.wait(plan.gpu())?;
        let [of_images, slopes] = [0, 1].map(|i| bytemuck::pod_collect_to_vec::<u8, f32>(&parts[i]));
        features.extend(&of_images[..n * self.features]);
        for pixel in slopes[..n * size * size * 4].chunks_exact(4) {
            gradient.extend((0..3).map(|c| pixel[c] / (255.0 * std[c])));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Dataset, LoadOptions, Spec, load};
    use crate::gpu::{AdapterChoice, Gpu};
    use crate::nn::ModelSpec;
    use crate::rng;

    fn input_gradient() -> (InputGradient, Dataset) {
        let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).expect("the tests need an adapter"));
        let spec = Spec::find("digits").expect("built in");
        let data = load(&spec, &LoadOptions::default()).expect("built in").train.subset(&[0, 1, 2, 3, 4]);
        let model = ModelSpec::new("resnet18", 8, 10, 16);
        let network = Network::new(&kernels, &model, &Normalisation { mean: spec.mean, std: spec.std }, 3).expect("made");
        // A batch of 2 for five images: whole batches, and one that is half empty.
        (InputGradient::new(&kernels, network, 2).expect("planned"), data)
    }

    /// The features of the images moved by `step` along `direction`.
    fn features(subject: &InputGradient, pixels: &[f32], direction: &[f32], step: f32) -> Vec<f64> {
        let moved: Vec<f32> = pixels.iter().zip(direction).map(|(x, d)| x + step * d).collect();
        let none = vec![0.0; pixels.len() / 768 * subject.features()];
        let (features, gradient) = subject.run(&moved, Scalar::Features(&none)).expect("runs");
        assert!(gradient.iter().all(|g| *g == 0.0), "nothing pulls");
        features.iter().map(|f| f64::from(*f)).collect()
    }

    /// Sum of the images' cross-entropy, from their features and the last layer (a fresh network's bias is 0).
    fn cross_entropy(subject: &InputGradient, features: &[f64], labels: &[u32]) -> f64 {
        let d = subject.features();
        let of = |row: &[f64], label: u32| {
            let logit = |k: usize| row.iter().zip(&subject.head()[k * d..]).map(|(f, w)| f * f64::from(*w)).sum::<f64>();
            let logits: Vec<f64> = (0..10).map(logit).collect();
            logits.iter().map(|z| z.exp()).sum::<f64>().ln() - logits[label as usize]
        };
        features.chunks(d).zip(labels).map(|(row, label)| of(row, *label)).sum()
    }

    #[test]
    fn gradients_with_respect_to_pixels_are_those_of_finite_differences() {
        let (subject, data) = input_gradient();
        let pixels: Vec<f32> = data.pixels.iter().map(|x| f32::from(*x)).collect();
        let mut rng = rng::stream(1, "pull");
        let pull: Vec<f32> = (0..5 * subject.features()).map(|_| rng::normal(&mut rng) as f32).collect();
        for (what, pulled) in [("cross-entropy", Scalar::CrossEntropy(&data.labels)), ("features", Scalar::Features(&pull))] {
            let gradient = subject.run(&pixels, pulled).expect("runs").1;
            assert_eq!(gradient.len(), pixels.len());
            let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let direction: Vec<f32> = gradient.iter().map(|g| (f64::from(*g) / norm) as f32).collect();
            let value = |step: f32| {
                let features = features(&subject, &pixels, &direction, step);
                match pulled {
                    Scalar::CrossEntropy(labels) => cross_entropy(&subject, &features, labels),
                    Scalar::Features(pull) => features.iter().zip(pull).map(|(f, p)| f * f64::from(*p)).sum(),
                }
            };
            let step = 0.25; // levels: far above float32's rounding, few ReLUs change their side
            let slope = (value(step) - value(-step)) / (2.0 * f64::from(step));
            assert!((slope / norm - 1.0).abs() < 0.02, "{what}: slope {slope}, gradient's norm {norm}");
        }
    }
}
