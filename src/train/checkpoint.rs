//! Checkpoints: safetensors files with PyTorch's names and layouts; and state dicts of other tools, which do not say what network
//! they are of.
//!
//! The header's metadata holds one key, `dau`: a JSON object with `model`, `width`, `classes`, `image_size`, `mean`, `std`.
//! One key, so that equal networks give equal files.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::network::params_of;
use super::{Network, Normalisation, TrainError};
use crate::files::write_atomic;
use crate::kernel::Kernels;
use crate::nn::{LARGE, ModelSpec, Param, ParamKind, ParamSet};
use crate::torch::{StateDict, Values};

#[derive(Serialize, Deserialize)]
struct Header {
    model: String,
    width: usize,
    classes: usize,
    image_size: usize,
    mean: [f32; 3],
    std: [f32; 3],
}

impl Network {
    /// Writes a checkpoint; `path` is never half written.
    ///
    /// # Errors
    /// The driver's or the file system's, naming the path.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        let ModelSpec { name, width, classes, image_size } = self.spec.clone();
        let header = Header { model: name, width, classes, image_size, mean: self.norm.mean, std: self.norm.std };
        let header = serde_json::to_string(&header).map_err(|e| failed(path, e.to_string()))?;
        self.write(path, Some(HashMap::from([("dau".to_string(), header)])))
    }

    /// Writes the state dict alone, for `load_state_dict(strict=True)`; `path` is never half written.
    ///
    /// # Errors
    /// As `save`.
    pub fn export(&self, path: &Path) -> Result<(), TrainError> {
        self.write(path, None)
    }

    fn write(&self, path: &Path, metadata: Option<HashMap<String, String>>) -> Result<(), TrainError> {
        let fail = |why: String| failed(path, why);
        let steps = self.steps().to_le_bytes();
        let values = self.params.read()?;
        let bytes: HashMap<&str, Vec<u8>> =
            values.iter().map(|(p, v)| (p.name.as_str(), bytemuck::cast_slice(v).to_vec())).collect();
        let mut tensors = Vec::new();
        for p in self.params.params() {
            let view = match p.kind {
                ParamKind::Counter => TensorView::new(Dtype::I64, vec![], &steps),
                kind => TensorView::new(Dtype::F32, kind.torch_shape(), &bytes[p.name.as_str()]),
            };
            tensors.push((p.name.clone(), view.map_err(|e| fail(e.to_string()))?));
        }
        let file = safetensors::serialize(tensors, metadata).map_err(|e| fail(e.to_string()))?;
        write_atomic(path, &file).map_err(|e| fail(e.to_string()))
    }

    /// Loads a checkpoint of any architecture.
    ///
    /// # Errors
    /// A file that cannot be read, is no checkpoint of ours, or lacks a tensor.
    pub fn load(kernels: &Kernels, path: &Path) -> Result<Network, TrainError> {
        Network::load_checked(kernels, path, None)
    }

    /// Loads a checkpoint that must be of architecture `spec`.
    ///
    /// # Errors
    /// As `load`, or another architecture: the first tensor that differs, and both shapes.
    pub fn load_as(kernels: &Kernels, path: &Path, spec: &ModelSpec) -> Result<Network, TrainError> {
        Network::load_checked(kernels, path, Some(spec))
    }

    fn load_checked(kernels: &Kernels, path: &Path, expected: Option<&ModelSpec>) -> Result<Network, TrainError> {
        let fail = |why: String| failed(path, why);
        let file = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
        let state = StateDict::safetensors(file).map_err(|e| fail(e.to_string()))?;
        let header: Header = state
            .metadata("dau")
            .ok_or_else(|| fail("has no `dau` entry in its header: not written by dau; try `dau import`".into()))
            .and_then(|text| serde_json::from_str(text).map_err(|e| fail(format!("its `dau` header: {e}"))))?;
        let Header { model: name, width, classes, image_size, mean, std } = header;
        let spec = ModelSpec { name, width, classes, image_size };
        let wanted = expected.unwrap_or(&spec);
        let loaded = Loaded::new(&state, wanted).map_err(|e| e.of(path))?;
        loaded.network(kernels, ModelSpec { image_size, ..wanted.clone() }, Normalisation { mean, std })
    }

    /// Makes a network of PyTorch's or safetensors' state dict in the file `path`: `model` is its architecture, width and number of classes
    /// follow from the tensors. `image_size` is by default the least that suits its stem.
    ///
    /// # Errors
    /// A file that [`StateDict::read`] refuses; another architecture: the first tensor that differs, and both shapes.
    pub fn import(
        kernels: &Kernels,
        path: &Path,
        model: &str,
        image_size: Option<usize>,
        norm: Normalisation,
    ) -> Result<Network, TrainError> {
        let file = std::fs::read(path).map_err(|e| failed(path, e.to_string()))?;
        let state = StateDict::read(file).map_err(|e| failed(path, e.to_string()))?;
        let spec = derive(&state, model, image_size).map_err(|e| e.of(path))?;
        let loaded = Loaded::new(&state, &spec).map_err(|e| e.of(path))?;
        loaded.network(kernels, spec, norm)
    }
}

fn failed(path: &Path, why: String) -> TrainError {
    TrainError::Checkpoint { path: path.to_path_buf(), why }
}

/// What a state dict's content can be refused for: something about it, or about the network that it should be of.
enum Unfit {
    State(String),
    Network(TrainError),
}

impl Unfit {
    fn of(self, path: &Path) -> TrainError {
        match self {
            Unfit::State(why) => failed(path, why),
            Unfit::Network(e) => e,
        }
    }
}

/// What the tensors tell of the network of architecture `model` that they belong to.
fn derive(state: &StateDict, model: &str, image_size: Option<usize>) -> Result<ModelSpec, Unfit> {
    let mut spec = ModelSpec { name: model.into(), width: 4, classes: 1, image_size: 0 };
    let entry = spec.entry().map_err(|e| Unfit::Network(e.into()))?;
    let lacking = |what: &str| {
        let some: Vec<&str> = state.names().take(4).collect();
        Unfit::State(format!("has no tensor {what}, which a {model} needs; it has {} ..", some.join(", ")))
    };
    let first = format!("{}.weight", entry.first);
    let stem = state.shape("conv1.weight").ok_or_else(|| lacking("conv1.weight"))?;
    let &[channels, ..] = state.shape(&first).ok_or_else(|| lacking(&first))? else { return Err(lacking(&first)) };
    let classifier = ["linear.weight", "fc.weight"].into_iter().find_map(|name| state.shape(name));
    let Some(&[classes, _]) = classifier else { return Err(lacking("linear.weight or fc.weight")) };
    let least = if stem.last() == Some(&7) { LARGE } else { 32 };
    (spec.width, spec.classes, spec.image_size) = ((channels / entry.unit).max(1), classes, image_size.unwrap_or(least));
    Ok(spec)
}

/// The values of a state dict that were found to be a network's.
struct Loaded {
    values: Vec<(Param, Vec<f32>)>,
    params: Vec<Param>,
    steps: u64,
}

impl Loaded {
    /// Takes from `state` the parameters of a `wanted`, all of them and no others; counters may be missing, as older versions of PyTorch
    /// had none.
    fn new(state: &StateDict, wanted: &ModelSpec) -> Result<Loaded, Unfit> {
        let fail = |why: String| Err(Unfit::State(why));
        let ModelSpec { name: model, width, classes, .. } = wanted;
        let params = params_of(wanted).map_err(Unfit::Network)?;
        if let Some(stray) = state.names().find(|name| !params.iter().any(|p| p.name == *name)) {
            return fail(format!("has a tensor {stray}, which a {model} of width {width} does not have"));
        }
        let mut steps = 0;
        let mut values = Vec::new();
        for p in &params {
            let (name, needed) = (&p.name, p.kind.torch_shape());
            match state.shape(name) {
                None if p.kind == ParamKind::Counter => continue,
                None => return fail(format!("has no tensor {name}, which a {model} of width {width} needs")),
                Some(shape) if shape != needed => {
                    return fail(format!(
                        "{name} has shape {shape:?}, a {model} of width {width} with {classes} classes needs {needed:?}"
                    ));
                }
                Some(_) => {}
            }
            match (p.kind, state.values(name)) {
                (ParamKind::Counter, Some(Values::Int(count))) => steps = count.first().map_or(0, |n| (*n).max(0) as u64),
                (ParamKind::Counter, _) => return fail(format!("{name} holds fractions, not a whole number")),
                (_, Some(Values::Float(v))) => values.push((p.clone(), v)),
                _ => return fail(format!("{name} holds whole numbers, not fractions")),
            }
        }
        Ok(Loaded { values, params, steps })
    }

    fn network(self, kernels: &Kernels, spec: ModelSpec, norm: Normalisation) -> Result<Network, TrainError> {
        let params = ParamSet::new(kernels.gpu(), self.params)?;
        for (p, v) in &self.values {
            params.write(p, v);
        }
        Ok(Network { spec, norm, params, steps: AtomicU64::new(self.steps) })
    }
}
