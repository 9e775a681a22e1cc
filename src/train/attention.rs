//! Where a network looks: class activation maps (Zhou et al. 2016).
//!
//! Grad-CAM (Selvaraju et al. 2017) weighs the last stage's maps A_k by the mean over places of dy_c/dA_k. Behind them are a mean over the Z
//! places and one linear layer, so that this is w_ck / Z everywhere: Grad-CAM's map is ReLU(sum_k w_ck A_k) / Z, which is the class activation
//! map, and no gradient is needed.

use super::{Batch, Network, Observer, Part, TrainError, images_at_once};
use crate::data::Dataset;
use crate::graph::{Graph, Plan, Shape};
use crate::kernel::Kernels;
use crate::nn::ParamKind;
use crate::ops::{Argmax, Augment};

/// What speaks for the predicted class, by place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attention {
    /// The predicted class [N].
    pub class: Vec<u32>,
    /// Height and width of a map.
    pub side: usize,
    /// sum_k w_ck A_k of the predicted class c [N, side, side]; the mean of an image's map and the class's bias are its logit. Below 0 is what
    /// speaks against the class.
    pub maps: Vec<f32>,
}

/// The maps of a few images, announced as `stage`.
///
/// # Errors
/// Images of another size; not even a few fit the adapter's limits; a wish to stop; the driver's.
pub fn attention(
    kernels: &Kernels,
    network: &Network,
    data: &Dataset,
    observer: &dyn Observer,
    stage: &str,
) -> Result<Attention, TrainError> {
    network.check_size(data.size)?;
    if data.is_empty() {
        return Ok(Attention::default());
    }
    observer.begin(stage, data.len() as u64);
    let (batch, size) = (images_at_once(kernels, &network.spec, data.len())?, data.size);
    let mut g = Graph::new();
    let pixels = g.input("pixels", Shape::u32(&[batch, size, size]));
    let (mean, std) = (network.norm.mean, network.norm.std);
    let images = g.apply(Augment { mean, std, pad: 0, flip: false }, &[pixels])?[0];
    let (out, _) = network.spec.build(&mut g, images, false)?;
    let outputs = [out.maps, g.apply(Argmax, &[out.logits])?[0]];
    let &[_, side, _, channels] = &g.shape(out.maps).dims[..] else {
        return Err(TrainError::Data(format!("{} has no maps to look at", network.spec.name)));
    };
    let mut plan = Plan::new(kernels, &g, &outputs, network.params.variables())?;
    let params = network.params.read()?;
    let head = params.into_iter().rev().find(|(p, _)| matches!(p.kind, ParamKind::Matrix { .. })).map(|(_, w)| w);
    let head = head.unwrap_or_default();
    let mut seen = Attention { side, ..Attention::default() };
    let indices: Vec<usize> = (0..data.len()).collect();
    for indices in indices.chunks(batch) {
        observer.go_on()?;
        plan.write(pixels, &Batch::new(data, &[Part { indices, weight: 1.0 }]).pixels)?;
        let parts = plan.run_and_fetch(&outputs)?.wait(plan.gpu())?;
        let maps: Vec<f32> = bytemuck::pod_collect_to_vec(&parts[0]);
        let classes: Vec<u32> = bytemuck::pod_collect_to_vec(&parts[1]);
        for (maps, class) in maps.chunks_exact(side * side * channels).zip(&classes).take(indices.len()) {
            seen.class.push(*class);
            seen.maps.extend(class_map(maps, &head[*class as usize * channels..][..channels]));
        }
        observer.advance(indices.len() as u64);
    }
    Ok(seen)
}

/// sum_k w_k A_k at each place of `maps` [places, D]; `weights` [D].
fn class_map(maps: &[f32], weights: &[f32]) -> Vec<f32> {
    let at = |place: &[f32]| place.iter().zip(weights).map(|(a, w)| f64::from(*a) * f64::from(*w)).sum::<f64>() as f32;
    maps.chunks_exact(weights.len()).map(at).collect()
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::gpu::{AdapterChoice, Gpu};
    use crate::nn::{MODELS, ModelSpec};
    use crate::rng;
    use crate::train::{Normalisation, Silent, Wanted, predict};

    /// NumPy: `(maps.reshape(2, 2, 3) * weights).sum(-1)`; by its gradient in PyTorch, `relu((grad.mean((0, 1)) * maps).sum(-1)) * 4` is
    /// the same but for what is below 0.
    #[test]
    fn a_map_is_what_numpy_makes_it() {
        let maps = [0.5, 1.25, 0.0, 2.0, 0.25, 0.75, 0.0, 0.0, 1.5, 1.0, 0.125, 3.0];
        assert_eq!(class_map(&maps, &[0.75, -1.5, 0.5]), [-1.5, 1.5, 0.75, 2.0625]);
    }

    /// Of every architecture, the head's bias not being 0.
    #[test]
    fn the_mean_of_a_map_and_the_bias_are_the_logit() {
        let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).expect("the tests need an adapter"));
        let mut noise = rng::stream(5, "noise");
        let data = Dataset {
            name: "noise".into(),
            size: 16,
            classes: ["a", "b", "c", "d"].map(String::from).to_vec(),
            pixels: (0..5 * 16 * 16 * 3).map(|_| noise.random()).collect(),
            labels: vec![1; 5],
            paths: (0..5).map(|i| i.to_string()).collect(),
        };
        for (name, width) in MODELS.iter().map(|model| (model.name, if model.unit > 1 { 1 } else { 4 })) {
            let spec = ModelSpec::new(name, width, 4, 16);
            let network = Network::new(&kernels, &spec, &Normalisation { mean: [0.5; 3], std: [0.3; 3] }, 1).unwrap();
            let bias = [0.5, -0.25, 1.0, 0.125];
            let params = network.params.read().unwrap();
            let (param, _) = params.iter().rfind(|(param, _)| param.kind == ParamKind::Bias(4)).unwrap();
            network.params.write(param, &bias);
            let seen = attention(&kernels, &network, &data, &Silent, "look").unwrap();
            let said = predict(&kernels, &network, &data, 5, &[Wanted::Logits], &Silent, "predict").unwrap();
            assert_eq!(seen.class, said.class, "{name}");
            assert_eq!(seen.maps.len(), 5 * seen.side * seen.side, "{name}");
            for (i, map) in seen.maps.chunks(seen.side * seen.side).enumerate() {
                let class = seen.class[i] as usize;
                let logit = map.iter().sum::<f32>() / map.len() as f32 + bias[class];
                let truth = said.logits[i * 4 + class];
                assert!((logit - truth).abs() < 1e-4 * truth.abs().max(1.0), "{name}, image {i}: {logit}, not {truth}");
            }
        }
    }
}
