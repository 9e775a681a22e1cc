//! Whether what sets two halves of a class apart is a trigger: added to images of other classes, it takes them into the class. What
//! makes a variety of a class does not.

use crate::data::Dataset;
use crate::train::{Predictor, Silent, TrainError};

/// So many images of other classes are asked.
const IMAGES: usize = 400;
/// The mean of fewer images is a picture of them, and draws their class.
const FEWEST: usize = 16;

/// A network and the images it was trained on.
pub(super) struct Transfer<'a> {
    pub predictor: Predictor,
    pub data: &'a Dataset,
    /// What the network takes each image for.
    pub called: &'a [u32],
}

impl Transfer<'_> {
    /// The share of images of other classes, called otherwise too, that the network calls `class` once the mean image of `half` less that
    /// of `rest` is added to them. 0 where there are none, or fewer than sixteen in `half` or `rest`.
    ///
    /// # Errors
    /// The driver's.
    pub fn share(&mut self, class: u32, half: &[usize], rest: &[usize]) -> Result<f64, TrainError> {
        let Transfer { predictor, data, called } = self;
        let others: Vec<usize> = (0..data.len()).filter(|&i| data.labels[i] != class && called[i] != class).collect();
        if others.is_empty() || half.len().min(rest.len()) < FEWEST {
            return Ok(0.0);
        }
        let some: Vec<usize> = others.iter().copied().step_by(others.len().div_ceil(IMAGES)).collect();
        let difference: Vec<f32> = mean(data, half).iter().zip(mean(data, rest)).map(|(h, r)| h - r).collect();
        let mut moved = data.subset(&some);
        for image in moved.pixels.chunks_exact_mut(difference.len()) {
            image.iter_mut().zip(&difference).for_each(|(p, d)| *p = (f32::from(*p) + d).round().clamp(0.0, 255.0) as u8);
        }
        let taken = predictor.run(&moved, &Silent)?.class.iter().filter(|c| **c == class).count();
        Ok(taken as f64 / some.len() as f64)
    }
}

fn mean(data: &Dataset, of: &[usize]) -> Vec<f32> {
    let mut sum = vec![0.0f32; data.image_bytes()];
    for &i in of {
        sum.iter_mut().zip(data.image(i)).for_each(|(sum, p)| *sum += f32::from(*p));
    }
    sum.iter().map(|sum| sum / of.len().max(1) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{LoadOptions, Spec, load};
    use crate::gpu::{AdapterChoice, Gpu};
    use crate::kernel::Kernels;
    use crate::nn::ModelSpec;
    use crate::train::{Network, Normalisation, SgdConfig, TrainConfig, fit};

    /// Every fifth digit has a white corner and the label 0, and the network has learned it.
    #[test]
    fn a_trigger_takes_other_classes_along_and_a_variety_does_not() {
        let spec = Spec::find("digits").unwrap();
        let mut data = load(&spec, &LoadOptions::default()).unwrap().train;
        let poisoned: Vec<usize> = (2..data.len()).step_by(5).collect();
        let side = data.size;
        for &i in &poisoned {
            data.labels[i] = 0;
            for (y, x) in (0..16).map(|k| (side - 1 - k / 4, side - 1 - k % 4)) {
                data.pixels[((i * side + y) * side + x) * 3..][..3].fill(255);
            }
        }
        let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).unwrap());
        let model = ModelSpec { name: "resnet18".into(), width: 8, classes: 10, image_size: side };
        let network = Network::new(&kernels, &model, &Normalisation { mean: [0.3; 3], std: [0.3; 3] }, 5).unwrap();
        let sgd = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4, crop_pad: 0, flip: false };
        let config = TrainConfig { epochs: 6, batch: 64, lr: 0.02, sgd, seed: 5 };
        fit(&kernels, &network, &data, &config, &Silent, |_| Ok(())).unwrap();
        let mut predictor = Predictor::new(&kernels, &network, 64).unwrap();
        let called = predictor.run(&data, &Silent).unwrap().class;
        let mut transfer = Transfer { predictor, data: &data, called: &called };

        let clean: Vec<usize> = (0..data.len()).filter(|i| data.labels[*i] == 0 && !poisoned.contains(i)).collect();
        let trigger = transfer.share(0, &poisoned, &clean).unwrap();
        assert!(trigger >= 0.9, "{trigger}");
        for class in 0..3 {
            let (left, right): (Vec<usize>, Vec<usize>) =
                (0..data.len()).filter(|i| data.labels[*i] == class && !poisoned.contains(i)).partition(|i| {
                    let image = data.image(*i);
                    let ink = |columns: std::ops::Range<usize>| -> u32 {
                        image
                            .chunks_exact(3 * side)
                            .flat_map(|row| &row[3 * columns.start..3 * columns.end])
                            .map(|p| u32::from(*p))
                            .sum()
                    };
                    ink(0..side / 2) > ink(side / 2..side)
                });
            let variety = transfer.share(class, &left, &right).unwrap();
            assert!(variety < 0.4, "class {class}: {variety}");
        }
        // Nothing that sets them apart takes nothing along, and of a few nothing is said.
        assert_eq!(transfer.share(0, &clean, &clean).unwrap(), 0.0);
        assert_eq!(transfer.share(0, &poisoned, &clean[..FEWEST - 1]).unwrap(), 0.0);
    }
}
