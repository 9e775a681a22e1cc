//! Checkpoints: safetensors files with PyTorch's names and layouts.
//!
//! The header's metadata holds one key, `dau`: a JSON object with `model`, `width`, `classes`, `image_size`, `mean`, `std`.
//! One key, so that equal networks give equal files.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::network::params_of;
use super::{Network, Normalisation, TrainError};
use crate::files::write_atomic;
use crate::kernel::Kernels;
use crate::nn::{ModelSpec, ParamKind, ParamSet};

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
        let fail = |why: String| TrainError::Checkpoint { path: path.to_path_buf(), why };
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
        let ModelSpec { name, width, classes, image_size } = self.spec.clone();
        let header = Header { model: name, width, classes, image_size, mean: self.norm.mean, std: self.norm.std };
        let header = serde_json::to_string(&header).map_err(|e| fail(e.to_string()))?;
        let metadata = HashMap::from([("dau".to_string(), header)]);
        let file = safetensors::serialize(tensors, Some(metadata)).map_err(|e| fail(e.to_string()))?;
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
        let fail = |why: String| TrainError::Checkpoint { path: path.to_path_buf(), why };
        let file = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
        let broken = |e: safetensors::SafeTensorError| fail(format!("not a whole safetensors file ({e})"));
        let (_, metadata) = SafeTensors::read_metadata(&file).map_err(broken)?;
        let tensors = SafeTensors::deserialize(&file).map_err(broken)?;
        let header: Header = metadata
            .metadata()
            .as_ref()
            .and_then(|m| m.get("dau"))
            .ok_or_else(|| fail("has no `dau` entry in its header: not written by dau".into()))
            .and_then(|text| serde_json::from_str(text).map_err(|e| fail(format!("its `dau` header: {e}"))))?;
        let Header { model: name, width, classes, image_size, mean, std } = header;
        let spec = ModelSpec { name, width, classes, image_size };
        let wanted = expected.unwrap_or(&spec);
        let params = params_of(wanted)?;
        let mut steps = 0;
        let mut values = Vec::new();
        for p in &params {
            let shape = p.kind.torch_shape();
            let tensor = tensors.tensor(&p.name).map_err(|_| {
                fail(format!("has no tensor {}, which a {} of width {} needs", p.name, wanted.name, wanted.width))
            })?;
            if tensor.shape() != shape {
                let why = format!(
                    "{} has shape {:?}, a {} of width {} with {} classes needs {shape:?}",
                    p.name,
                    tensor.shape(),
                    wanted.name,
                    wanted.width,
                    wanted.classes
                );
                return Err(fail(why));
            }
            match (p.kind, tensor.dtype()) {
                (ParamKind::Counter, Dtype::I64) => {
                    let bytes: Option<[u8; 8]> = tensor.data().try_into().ok();
                    steps = bytes.map_or(0, u64::from_le_bytes);
                }
                (ParamKind::Counter, d) => return Err(fail(format!("{} is {d:?}, not I64", p.name))),
                (_, Dtype::F32) => values.push((p, bytemuck::pod_collect_to_vec::<u8, f32>(tensor.data()))),
                (_, d) => return Err(fail(format!("{} is {d:?}, not F32", p.name))),
            }
        }
        let set = ParamSet::new(kernels.gpu(), params.clone())?;
        for (p, v) in values {
            set.write(p, &v);
        }
        let spec = ModelSpec { image_size, ..wanted.clone() };
        Ok(Network { spec, norm: Normalisation { mean, std }, params: set, steps: AtomicU64::new(steps) })
    }
}
