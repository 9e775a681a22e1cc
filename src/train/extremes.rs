//! The range of what goes into each batch norm, image by image and channel by channel: what defenses that look for unusual activations
//! work with.

use super::{Batch, Network, Observer, Part, TrainError, images_at_once, stream};
use crate::data::Dataset;
use crate::graph::{Graph, Plan, Shape, Value};
use crate::kernel::Kernels;
use crate::ops::{Augment, Extremes};

/// Of one batch norm.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerExtremes {
    /// The batch norm's name.
    pub name: String,
    /// C.
    pub channels: usize,
    /// The greatest input over an image's pixels [N, C].
    pub high: Vec<f32>,
    /// The least [N, C].
    pub low: Vec<f32>,
}

/// Of every batch norm of `network`, in evaluation mode, in the order of running; announced as `stage`. `batch`: images at a time, fewer
/// where the adapter cannot hold so many.
///
/// # Errors
/// Images of another size, a wish to stop, or the driver's.
pub fn extremes(
    kernels: &Kernels,
    network: &Network,
    data: &Dataset,
    batch: usize,
    observer: &dyn Observer,
    stage: &str,
) -> Result<Vec<LayerExtremes>, TrainError> {
    network.check_size(data.size)?;
    observer.begin(stage, data.len() as u64);
    let batch = batch.min(data.len().max(1));
    let batch = images_at_once(kernels, &network.spec, batch).unwrap_or(batch);
    let size = network.spec.image_size;
    let mut g = Graph::new();
    let pixels = g.input("pixels", Shape::u32(&[batch, size, size]));
    let (mean, std) = (network.norm.mean, network.norm.std);
    let images = g.apply(Augment { mean, std, pad: 0, flip: false }, &[pixels])?[0];
    let built = network.spec.build_scoped(&mut g, images, false, "")?;
    let mut outputs: Vec<Value> = Vec::new();
    let mut layers = Vec::new();
    for (name, x) in built.normalised {
        outputs.extend(g.apply(Extremes, &[x])?);
        layers.push(LayerExtremes { name, channels: g.shape(x).last(), high: Vec::new(), low: Vec::new() });
    }
    let mut plan = Plan::new(kernels, &g, &outputs, network.params.variables())?;
    let indices: Vec<usize> = (0..data.len()).collect();
    let batches = indices.chunks(batch).map(|indices| Batch::new(data, &[Part { indices, weight: 1.0 }]));
    let submit = |_: usize, batch: &Batch| {
        plan.write(pixels, &batch.pixels)?;
        Ok(plan.run_and_fetch(&outputs)?)
    };
    let collect = |_: usize, batch: &Batch, parts: &[Vec<u8>]| {
        for (layer, pair) in layers.iter_mut().zip(parts.chunks_exact(2)) {
            let floats =
                |part: &[u8]| -> Vec<f32> { bytemuck::pod_collect_to_vec(&part[..4 * batch.indices.len() * layer.channels]) };
            let (high, low) = (floats(&pair[0]), floats(&pair[1]));
            layer.high.extend(high);
            layer.low.extend(low);
        }
        Ok(())
    };
    stream(kernels.gpu(), observer, batches, submit, collect)?;
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{LoadOptions, Spec, load};
    use crate::gpu::{AdapterChoice, Gpu};
    use crate::nn::{ModelSpec, ParamKind};
    use crate::train::{Normalisation, Silent};

    /// The first convolution of the plain network and of the pre-activation one goes into the first batch norm: worked out here in f64.
    #[test]
    fn the_first_layers_range_is_that_of_a_convolution_by_hand() {
        let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).expect("the tests need an adapter"));
        let spec = Spec::find("digits").expect("built in");
        let data = load(&spec, &LoadOptions::default()).expect("built in").train.subset(&[5, 1, 700]);
        for (name, layers, first) in [("resnet18", 20, "bn1"), ("preact-resnet18", 16, "layer1.0.bn1")] {
            let model = ModelSpec::new(name, 8, 10, 16);
            let norm = Normalisation { mean: [0.2, 0.3, 0.4], std: [0.5, 0.3, 0.2] };
            let network = Network::new(&kernels, &model, &norm, 3).expect("made");
            // A batch of 2 for three images: a whole batch, and one that is half empty.
            let found = extremes(&kernels, &network, &data, 2, &Silent, "look").expect("runs");
            assert_eq!((found.len(), found[0].name.as_str()), (layers, first));
            assert!(found.iter().all(|layer| layer.high.len() == 3 * layer.channels && layer.low.len() == 3 * layer.channels));

            let params = network.params.read().expect("read");
            let (param, weights) = params.iter().find(|(param, _)| param.name == "conv1.weight").expect("there");
            assert_eq!(param.kind, ParamKind::Conv { out: 8, inputs: 3, kernel: 3 });
            for i in 0..3 {
                let image = data.image(i);
                let pixel = |y: i32, x: i32, c: usize| match (0..16).contains(&y) && (0..16).contains(&x) {
                    true => {
                        (f64::from(image[(y * 16 + x) as usize * 3 + c]) / 255.0 - f64::from(norm.mean[c]))
                            / f64::from(norm.std[c])
                    }
                    false => 0.0,
                };
                for channel in 0..8 {
                    let at = |y: i32, x: i32| {
                        let taps = (0..27).map(|k| {
                            let (c, ky, kx) = (k / 9, k as i32 % 9 / 3, k as i32 % 3);
                            f64::from(weights[channel * 27 + k]) * pixel(y + ky - 1, x + kx - 1, c)
                        });
                        taps.sum::<f64>()
                    };
                    let all: Vec<f64> = (0..256).map(|p| at(p / 16, p % 16)).collect();
                    let most = all.iter().copied().fold(f64::MIN, f64::max);
                    let least = all.iter().copied().fold(f64::MAX, f64::min);
                    let got = [found[0].high[i * 8 + channel], found[0].low[i * 8 + channel]].map(f64::from);
                    assert!((got[0] - most).abs() < 1e-4 && (got[1] - least).abs() < 1e-4, "{name} {i} {channel}: {got:?}");
                }
            }
        }
    }
}
