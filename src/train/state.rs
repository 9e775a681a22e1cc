//! What a training needs to go on, as one file: safetensors, with where it is as JSON in the header.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Network, TrainError, TrainStep};
use crate::files::write_atomic;
use crate::torch::{StateDict, Values};

/// Tensors by name and a position `P`.
pub(crate) struct TrainState<P> {
    /// The network's under `network/` in PyTorch's layout, the optimizer's under `velocity/` in the device's; others by who adds any.
    pub(crate) tensors: HashMap<String, Vec<f32>>,
    pub(crate) position: P,
}

/// The key of the header's metadata.
const KEY: &str = "position";

fn of_network(name: &str) -> String {
    format!("network/{name}")
}

impl<P: Serialize + DeserializeOwned> TrainState<P> {
    /// What `network` and the optimizer in `step` hold now.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn of(network: &Network, step: &TrainStep, position: P) -> Result<TrainState<P>, TrainError> {
        let mut tensors: HashMap<String, Vec<f32>> = step.velocities()?.into_iter().collect();
        tensors.extend(network.params.read()?.into_iter().map(|(param, values)| (of_network(&param.name), values)));
        Ok(TrainState { tensors, position })
    }

    /// Gives `network` and the optimizer in `step` what they held; `path` is for messages.
    ///
    /// # Errors
    /// A tensor that is missing or has another length.
    pub(crate) fn restore(&self, network: &Network, step: &TrainStep, path: &Path) -> Result<(), TrainError> {
        let other =
            |why: String| TrainError::Checkpoint { path: path.into(), why: format!("it is the state of another network: {why}") };
        for (param, now) in network.params.read()? {
            let values = self.tensors.get(&of_network(&param.name)).filter(|values| values.len() == now.len());
            let values = values.ok_or_else(|| other(format!("it lacks {} of {} numbers", param.name, now.len())))?;
            network.params.write(&param, values);
        }
        step.remember(&self.tensors).map_err(|e| other(e.to_string()))
    }

    /// # Errors
    /// A disk that refuses.
    pub(crate) fn write(&self, path: &Path) -> Result<(), TrainError> {
        let failed = |why: String| TrainError::Checkpoint { path: path.into(), why };
        let position = serde_json::to_string(&self.position).map_err(|e| failed(e.to_string()))?;
        let mut tensors = Vec::new();
        for (name, values) in &self.tensors {
            let view = TensorView::new(Dtype::F32, vec![values.len()], bytemuck::cast_slice(values));
            tensors.push((name.clone(), view.map_err(|e| failed(e.to_string()))?));
        }
        let metadata = HashMap::from([(KEY.to_string(), position)]);
        let file = safetensors::serialize(tensors, Some(metadata)).map_err(|e| failed(e.to_string()))?;
        write_atomic(path, &file).map_err(|e| failed(format!("cannot be written: {e}")))
    }

    /// # Errors
    /// A file that cannot be read or is no state of this kind.
    pub(crate) fn read(path: &Path) -> Result<TrainState<P>, TrainError> {
        let failed = |why: String| TrainError::Checkpoint { path: path.into(), why };
        let damaged = |why: String| failed(format!("is no state of a training ({why}): remove it to train from the beginning"));
        let file = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
        let state = StateDict::safetensors(file).map_err(|e| damaged(e.to_string()))?;
        let position = state.metadata(KEY).ok_or_else(|| damaged(format!("no `{KEY}` in its header")))?;
        let position = serde_json::from_str(position).map_err(|e| damaged(e.to_string()))?;
        let mut tensors = HashMap::new();
        for name in state.names() {
            if let Some(Values::Float(values)) = state.values(name) {
                tensors.insert(name.to_string(), values);
            }
        }
        Ok(TrainState { tensors, position })
    }
}
