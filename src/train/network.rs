//! A network: what it is, how its input is normalised, its parameters on a device.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::TrainError;
use crate::graph::{Graph, Shape};
use crate::kernel::Kernels;
use crate::nn::{ModelSpec, Param, ParamSet, initialise};

/// How pixels become network input: (u8 / 255 - mean) / std per channel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalisation {
    /// Of red, green and blue in 0..1.
    pub mean: [f32; 3],
    /// Of red, green and blue in 0..1.
    pub std: [f32; 3],
}

/// A network on a device.
pub struct Network {
    /// The architecture.
    pub spec: ModelSpec,
    /// How pixels become its input.
    pub norm: Normalisation,
    /// Weights and batch norm statistics, on the device.
    pub params: ParamSet,
    /// Training steps taken: batch norm's `num_batches_tracked`.
    pub(super) steps: AtomicU64,
}

/// The parameters a specification asks for.
pub(super) fn params_of(spec: &ModelSpec) -> Result<Vec<Param>, TrainError> {
    let mut graph = Graph::new();
    let images = graph.input("images", Shape::f32(&[1, spec.image_size, spec.image_size, 4]));
    Ok(spec.build(&mut graph, images, false)?.1)
}

impl Network {
    /// A fresh network with initial values from `seed`.
    ///
    /// # Errors
    /// An unknown model or width, or parameters over the adapter's limits.
    pub fn new(kernels: &Kernels, spec: &ModelSpec, norm: &Normalisation, seed: u64) -> Result<Network, TrainError> {
        let params = ParamSet::new(kernels.gpu(), params_of(spec)?)?;
        initialise(&params, seed);
        Ok(Network { spec: spec.clone(), norm: *norm, params, steps: AtomicU64::new(0) })
    }

    /// Training steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    pub(crate) fn set_steps(&self, steps: u64) {
        self.steps.store(steps, Ordering::Relaxed);
    }

    /// Refuses images of another size, which the plans would take for garbage.
    pub(crate) fn check_size(&self, have: usize) -> Result<(), TrainError> {
        let want = self.spec.image_size;
        if have == want {
            return Ok(());
        }
        Err(TrainError::Data(format!("the images are {have}x{have}, the network takes {want}x{want}; try --image-size {want}")))
    }

    /// A second network with the same values.
    ///
    /// # Errors
    /// The driver's.
    pub fn duplicate(&self, kernels: &Kernels) -> Result<Network, TrainError> {
        let params = ParamSet::new(kernels.gpu(), self.params.params().to_vec())?;
        for (param, values) in self.params.read()? {
            params.write(&param, &values);
        }
        Ok(Network { spec: self.spec.clone(), norm: self.norm, params, steps: AtomicU64::new(self.steps()) })
    }
}
