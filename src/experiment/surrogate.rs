//! The clean network whose gradients some attacks are made with: from a checkpoint, or trained on the clean data.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{Host, Protocol};
use crate::attacks::{AttackError, Pull, Response, Surrogate};
use crate::data::Dataset;
use crate::nn::ModelSpec;
use crate::train::{InputGradient, Network, Scalar, TrainConfig, check_batch, fit};

/// Loads `checkpoint` or, without one, trains a network on the clean training images as the experiment trains its own.
///
/// # Errors
/// A checkpoint of another network; what stops training.
pub(super) fn surrogate(protocol: &Protocol, clean: &Dataset, checkpoint: Option<&Path>, host: &Host) -> Result<InputGradient> {
    let model = protocol.model_spec(clean);
    let kernels = (host.open)(protocol.precision)?;
    let network = match checkpoint {
        Some(path) => {
            let ModelSpec { name, width, image_size, .. } = Network::load(&kernels, path)?.spec;
            let (shown, size) = (path.display(), clean.size);
            ensure!(image_size == size, "{shown} takes images of {image_size} pixels, not {size}: give another --surrogate");
            Network::load_as(&kernels, path, &ModelSpec { name, width, ..model })?
        }
        None => {
            check_batch(&kernels, &model, protocol.batch)?;
            // Not the network that the experiment will train: another start, another order, other crops and flips.
            let seed = protocol.seed.wrapping_add(1);
            let config = TrainConfig { stage: "surrogate train".into(), seed, ..protocol.train_config() };
            let network = Network::new(&kernels, &model, &protocol.normalisation()?, seed)?;
            fit(&kernels, &network, clean, &config, host.observer, None)?;
            host.observer.end();
            network
        }
    };
    Ok(InputGradient::new(&kernels, network, protocol.batch)?)
}

impl Surrogate for InputGradient {
    fn respond(&self, pixels: &[f32], pull: Pull) -> Result<Response, AttackError> {
        let scalar = match pull {
            Pull::Labels(labels) => Scalar::CrossEntropy(labels),
            Pull::Features(pull) => Scalar::Features(pull),
        };
        let (features, gradient) = self.run(pixels, scalar).map_err(|e| AttackError::Surrogate { why: e.to_string() })?;
        Ok(Response { features, gradient })
    }

    fn head(&self) -> &[f32] {
        self.head()
    }

    fn features(&self) -> usize {
        self.features()
    }
}
