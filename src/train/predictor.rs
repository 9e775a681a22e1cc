//! A network in evaluation mode, over whole data sets.

use super::{Batch, Network, Observer, Part, TrainError, images_at_once, stream};
use crate::data::Dataset;
use crate::graph::{Graph, Plan, Shape, Value};
use crate::kernel::Kernels;
use crate::ops::{Argmax, Augment, Loss, LossKind, TUNING_TIME, tune};

/// What a network says of images, in data order.
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

/// An evaluation plan of one network; it sees the network's current weights at each call.
pub struct Predictor {
    plan: Plan,
    batch: usize,
    pixels: Value,
    labels: Value,
    outputs: [Value; 5],
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
        let outputs = [argmax[0], argmax[1], loss, out.logits, out.features];
        tune(kernels, &g, TUNING_TIME)?;
        let plan = Plan::new(kernels, &g, &outputs, network.params.variables())?;
        // The loss kernel skips rows of weight 0; these weights scale only the gradient, which nobody reads.
        plan.write(weight, &vec![1.0f32; batch])?;
        Ok(Predictor { plan, batch, pixels, labels, outputs })
    }

    /// Runs the network over all of `data`.
    ///
    /// # Errors
    /// Images of another size, a wish to stop, or the driver's.
    pub fn run(&mut self, data: &Dataset, observer: &dyn Observer) -> Result<Predictions, TrainError> {
        let Predictor { plan, batch, pixels, labels, outputs } = self;
        let gpu = plan.gpu().clone();
        let mut out = Predictions::default();
        let indices: Vec<usize> = (0..data.len()).collect();
        let batches = indices.chunks(*batch).map(|indices| Batch::new(data, &[Part { indices, weight: 1.0 }]));
        let submit = |_: usize, b: &Batch| {
            plan.write(*pixels, &b.pixels)?;
            plan.write(*labels, &b.labels)?;
            Ok(plan.run_and_fetch(outputs)?)
        };
        let collect = |_: usize, b: &Batch, parts: &[Vec<u8>]| {
            let n = b.indices.len();
            let floats = |i: usize| -> Vec<f32> {
                let all: Vec<f32> = bytemuck::pod_collect_to_vec(&parts[i]);
                let row = all.len() / *batch;
                all[..n * row].to_vec()
            };
            let classes: Vec<u32> = bytemuck::pod_collect_to_vec(&parts[0]);
            out.class.extend(&classes[..n]);
            out.confidence.extend(floats(1));
            out.loss.extend(floats(2));
            out.logits.extend(floats(3));
            out.features.extend(floats(4));
            Ok(())
        };
        stream(&gpu, observer, batches, submit, collect)?;
        Ok(out)
    }
}

/// One evaluation of `network` over `data`, announced as `stage`.
///
/// # Errors
/// As `Predictor`.
pub fn predict(
    kernels: &Kernels,
    network: &Network,
    data: &Dataset,
    batch: usize,
    observer: &dyn Observer,
    stage: &str,
) -> Result<Predictions, TrainError> {
    network.check_size(data.size)?;
    observer.begin(stage, data.len() as u64);
    Predictor::new(kernels, network, batch.min(data.len().max(1)))?.run(data, observer)
}
