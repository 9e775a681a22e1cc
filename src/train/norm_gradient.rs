//! Gradients with respect to what batch norms multiply by and add: what pruning by channels works with.

use super::{Batch, Network, SgdConfig, TrainError};
use crate::graph::{Graph, GraphError, Plan, Shape, Value};
use crate::kernel::Kernels;
use crate::nn::{Param, ParamKind};
use crate::ops::{Argmax, Augment, Loss, LossKind};

/// A network in training mode, with gradients with respect to the weights and the biases of its batch norms. Running statistics follow
/// the data, and are of no account here.
pub struct NormGradient {
    network: Network,
    plan: Plan,
    pixels: Value,
    labels: Value,
    weight: Value,
    /// Each image's loss and class, then the gradients of each batch norm's weight and bias.
    fetched: Vec<Value>,
    /// Weight and bias of each batch norm, in the network's order.
    norms: Vec<[Param; 2]>,
}

/// What [`NormGradient::run`] says of a batch.
pub struct NormGradients {
    /// Each image's cross-entropy, and whether it got its label.
    pub images: Vec<(f32, bool)>,
    /// Of the weighted sum of losses with respect to each channel's weight, batch norm after batch norm.
    pub weight: Vec<f32>,
    /// With respect to each channel's bias.
    pub bias: Vec<f32>,
}

impl NormGradient {
    /// `batch`: images at a time, which are cropped and flipped as `sgd` says. The network's weights and biases are changed by
    /// [`NormGradient::run`].
    ///
    /// # Errors
    /// A batch over the adapter's limits.
    pub fn new(kernels: &Kernels, network: Network, batch: usize, sgd: &SgdConfig) -> Result<NormGradient, TrainError> {
        let size = network.spec.image_size;
        let mut g = Graph::new();
        let pixels = g.input("pixels", Shape::u32(&[batch, size, size]));
        let labels = g.input("labels", Shape::u32(&[batch]));
        let weight = g.input("weight", Shape::f32(&[batch]));
        let (mean, std) = (network.norm.mean, network.norm.std);
        let images = g.apply(Augment { mean, std, pad: sgd.crop_pad, flip: sgd.flip }, &[pixels])?[0];
        let (out, params) = network.spec.build(&mut g, images, true)?;
        let loss = g.apply(Loss { kind: LossKind::CrossEntropy }, &[out.logits, labels, weight])?;
        let class = g.apply(Argmax, &[out.logits])?[0];
        // The bias of a batch norm follows its weight.
        let pairs = params.windows(2).filter(|pair| matches!(pair[0].kind, ParamKind::Scale(_)));
        let norms: Vec<[Param; 2]> = pairs.map(|pair| [pair[0].clone(), pair[1].clone()]).collect();
        let learned = norms
            .iter()
            .flatten()
            .map(|param| g.find_variable(&param.name).ok_or_else(|| GraphError::NoVariable(param.name.clone())));
        let learned = learned.collect::<Result<Vec<Value>, _>>()?;
        let gradients = g.backward(&[(out.logits, loss[1])], &learned)?;
        let fetched: Vec<Value> = [loss[0], class].into_iter().chain(learned.iter().map(|value| gradients[value])).collect();
        let plan = Plan::new(kernels, &g, &fetched, network.params.variables())?;
        Ok(NormGradient { network, plan, pixels, labels, weight, fetched, norms })
    }

    /// The batch norms, each its weight and its bias, in the order of [`NormGradient::run`].
    pub fn norms(&self) -> &[[Param; 2]] {
        &self.norms
    }

    /// Losses and gradients for `batch`, as many images as there are at a time, with these weights and biases of all channels, batch norm
    /// after batch norm. `seed` decides crops and flips.
    ///
    /// # Errors
    /// Images of another size; the driver's.
    pub fn run(&mut self, batch: &Batch, [weights, biases]: [&[f32]; 2], seed: u32) -> Result<NormGradients, TrainError> {
        self.network.check_size(batch.size)?;
        let mut first = 0;
        for [weight, bias] in &self.norms {
            let channels = first..first + weight.kind.device_shape().len();
            self.network.params.write(weight, &weights[channels.clone()]);
            self.network.params.write(bias, &biases[channels.clone()]);
            first = channels.end;
        }
        self.plan.write(self.pixels, &batch.pixels)?;
        self.plan.write(self.labels, &batch.labels)?;
        self.plan.write(self.weight, &batch.weights[0])?;
        self.plan.set("n_valid", batch.indices.len() as f64)?;
        if self.plan.has_scalar("seed") {
            self.plan.set("seed", f64::from(seed))?;
        }
        let parts = self.plan.run_and_fetch(&self.fetched)?.wait(self.plan.gpu())?;
        let floats = |part: &Vec<u8>| bytemuck::pod_collect_to_vec::<u8, f32>(part);
        let (losses, classes) = (floats(&parts[0]), bytemuck::pod_collect_to_vec::<u8, u32>(&parts[1]));
        let right = classes.iter().zip(&batch.labels).map(|(class, label)| class == label);
        let of = |which: usize| parts[2..].iter().skip(which).step_by(2).flat_map(floats).collect();
        Ok(NormGradients { images: losses.into_iter().zip(right).collect(), weight: of(0), bias: of(1) })
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::data::Dataset;
    use crate::gpu::{AdapterChoice, Gpu};
    use crate::nn::ModelSpec;
    use crate::rng;
    use crate::train::{Normalisation, Part};

    /// Along the gradient the loss rises by its norm.
    #[test]
    fn gradients_of_weights_and_biases_are_those_of_finite_differences() {
        let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).expect("the tests need an adapter"));
        let spec = ModelSpec::new("resnet18", 8, 4, 16);
        let network = Network::new(&kernels, &spec, &Normalisation { mean: [0.5; 3], std: [0.3; 3] }, 1).unwrap();
        let mut rng = rng::stream(4, "noise");
        let data = Dataset {
            name: "noise".into(),
            size: 16,
            classes: ["a", "b", "c", "d"].map(String::from).to_vec(),
            pixels: (0..24 * 16 * 16 * 3).map(|_| rng.random()).collect(),
            labels: (0..24).map(|_| rng.random_range(0..4)).collect(),
            paths: (0..24).map(|i| i.to_string()).collect(),
        };
        let plain = SgdConfig::default();
        let mut subject = NormGradient::new(&kernels, network, 24, &plain).unwrap();
        let channels: usize = subject.norms().iter().map(|[weight, _]| weight.kind.device_shape().len()).sum();
        assert!(subject.norms().iter().all(|[w, b]| w.name.replace("weight", "bias") == b.name), "{:?}", subject.norms());
        let at =
            [1.0, 0.2].map(|middle| (0..channels).map(|_| (middle + 0.2 * rng::normal(&mut rng)) as f32).collect::<Vec<_>>());
        let whole: Vec<usize> = (0..24).collect();
        let batch = Batch::new(&data, &[Part { indices: &whole, weight: 1.0 / 24.0 }]);
        let mut loss = |at: &[Vec<f32>; 2]| {
            let found = subject.run(&batch, [&at[0], &at[1]], 0).unwrap();
            assert_eq!((found.weight.len(), found.bias.len(), found.images.len()), (channels, channels, 24));
            (found.images.iter().map(|(loss, _)| f64::from(*loss)).sum::<f64>() / 24.0, [found.weight, found.bias])
        };
        let gradients = loss(&at).1;
        for which in 0..2 {
            let norm = gradients[which].iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let mut moved = |step: f64| {
                let mut at = at.clone();
                at[which].iter_mut().zip(&gradients[which]).for_each(|(x, g)| *x += (step * f64::from(*g) / norm) as f32);
                loss(&at).0
            };
            let step = 0.02;
            let slope = (moved(step) - moved(-step)) / (2.0 * step);
            assert!((slope / norm - 1.0).abs() < 0.03, "{}: slope {slope}, norm {norm}", ["weights", "biases"][which]);
        }
    }
}
