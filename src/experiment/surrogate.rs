//! The clean network whose gradients some attacks are made with: from a checkpoint, or trained on the clean data.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{Host, Protocol};
use crate::attacks::{AttackError, Pull, Response, Surrogate};
use crate::data::Dataset;
use crate::nn::ModelSpec;
use crate::train::{InputGradient, Network, Scalar, TrainConfig, fit, images_at_once};

/// Loads `checkpoint` or, without one, trains a network on the clean training images as the experiment trains its own.
///
/// # Errors
/// A checkpoint of another network; what stops training.
pub(super) fn surrogate(protocol: &Protocol, clean: &Dataset, checkpoint: Option<&Path>, host: &Host) -> Result<InputGradient> {
    let model = protocol.model_spec(clean);
    let kernels = (host.open)(protocol.precision)?;
    let network = match checkpoint {
        Some(path) => {
            let ModelSpec { name, width, image_size, stem, .. } = Network::load(&kernels, path)?.spec;
            let (shown, size) = (path.display(), clean.size);
            ensure!(image_size == size, "{shown} takes images of {image_size} pixels, not {size}: give another --surrogate");
            Network::load_as(&kernels, path, &ModelSpec { name, width, stem, ..model })?
        }
        None => {
            images_at_once(&kernels, &model, protocol.batch())?;
            // Not the network that the experiment will train: another start, another order, other crops and flips.
            let seed = protocol.seed.wrapping_add(1);
            let config = TrainConfig { stage: "surrogate train".into(), seed, ..protocol.train_config() };
            let network = Network::new(&kernels, &model, &protocol.normalisation()?, seed)?;
            fit(&kernels, &network, clean, &config, host.observer, None)?;
            host.observer.end();
            network
        }
    };
    Ok(InputGradient::new(&kernels, network, protocol.batch())?)
}

impl Surrogate for InputGradient {
    fn respond(&self, pixels: &[f32], pull: Pull) -> Result<Response, AttackError> {
        let scalar = match pull {
            Pull::Labels(labels) => Scalar::CrossEntropy(labels),
            Pull::Features(pull) => Scalar::Features(pull),
        };
        let (features, gradient) = self.run(pixels, scalar).map_err(|e| AttackError::Surrogate { source: e.into() })?;
        Ok(Response { features, gradient })
    }

    fn head(&self) -> &[f32] {
        self.head()
    }

    fn features(&self) -> usize {
        self.features()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::data::{LoadOptions, Spec, load};
    use crate::gpu::{AdapterChoice, Gpu};
    use crate::kernel::Kernels;
    use crate::train::{EpochRecord, Observer, TrainError};

    /// So slow that no weight changes: after training a network still has the weights that it began with.
    const STANDSTILL: f64 = 1e-30;

    /// Keeps what epochs said of the loss.
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

    fn protocol(crop_pad: u32, flip: bool) -> Protocol {
        let numbers =
            [("width", 4.0), ("epochs", 1.0), ("batch", 8.0), ("lr", STANDSTILL), ("momentum", 0.0), ("weight_decay", 0.0)];
        let mut digits = Protocol::defaults(&Spec::find("digits").unwrap());
        digits.options.0.extend(numbers.map(|(name, value)| (name.to_string(), value.into())));
        digits.options.0.extend([("crop_pad".into(), f64::from(crop_pad).into()), ("flip".into(), flip.into())]);
        Protocol { seed: 7, ..digits }
    }

    /// The surrogate for `data`, and the losses of its training.
    fn made(kernels: &Kernels, protocol: &Protocol, data: &Dataset) -> (Network, Vec<f64>) {
        let losses = Losses::default();
        let host = Host { open: &|_| Ok(kernels.clone()), image_cache: None, observer: &losses };
        let network = surrogate(protocol, data, None, &host).unwrap().network;
        (network, losses.0.into_inner())
    }

    /// The losses of a training that begins as the surrogate did, with order, crops and flips as the experiment's own network has them.
    fn in_the_victims_order(kernels: &Kernels, protocol: &Protocol, data: &Dataset, surrogate: &Network) -> Vec<f64> {
        let losses = Losses::default();
        fit(kernels, &surrogate.duplicate(kernels).unwrap(), data, &protocol.train_config(), &losses, None).unwrap();
        losses.0.into_inner()
    }

    #[test]
    fn the_surrogate_shares_neither_start_nor_order_nor_augmentation_with_the_victim() {
        let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).unwrap());
        let digits = load(&Spec::find("digits").unwrap(), &LoadOptions::default()).unwrap().train;
        let data = digits.subset(&(0..40).collect::<Vec<_>>());

        let plain = protocol(0, false);
        let (network, losses) = made(&kernels, &plain, &data);
        let victim = Network::new(&kernels, &plain.model_spec(&data), &plain.normalisation().unwrap(), plain.seed).unwrap();
        let (ours, theirs) = (network.params.read().unwrap(), victim.params.read().unwrap());
        for ((param, ours), (_, theirs)) in
            ours.iter().zip(&theirs).filter(|((param, _), _)| param.name.ends_with("conv1.weight"))
        {
            let same = ours.iter().zip(theirs).filter(|(a, b)| a == b).count();
            assert!(100 * same < ours.len(), "{}: {same} of {} values are the victim's", param.name, ours.len());
        }

        // Batch norm makes the loss depend on which images come together: without crops and flips, on the order alone.
        let again = in_the_victims_order(&kernels, &plain, &data, &network);
        assert_eq!(again, in_the_victims_order(&kernels, &plain, &data, &network), "the same order, the same losses");
        assert!(losses.len() == 1 && losses != again, "the victim's order: {losses:?}");

        // Of one image alone, on crops and flips alone.
        let copies = digits.subset(&[11; 40]);
        let cropped = protocol(3, true);
        let (network, losses) = made(&kernels, &cropped, &copies);
        let again = in_the_victims_order(&kernels, &cropped, &copies, &network);
        assert!(losses.len() == 1 && losses != again, "the victim's crops and flips: {losses:?}");
    }
}
