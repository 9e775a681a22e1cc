//! Checkpoints: safetensors files with PyTorch's names and layouts; and state dicts of other tools, which do not say what network
//! they are of.
//!
//! The header's metadata holds one key, `dau`: a JSON object with `model`, `width`, `classes`, `image_size`, `mean`, `std`, and `stem`
//! where it is not the usual one for images of that size. One key, so that equal networks give equal files.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::AtomicU64;

use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::network::params_of;
use super::{Network, Normalisation, TrainError};
use crate::files::write_atomic;
use crate::kernel::Kernels;
use crate::nn::{LARGE, ModelEntry, ModelSpec, Param, ParamKind, ParamSet, Stem};
use crate::torch::{StateDict, Values};

#[derive(Serialize, Deserialize)]
struct Header {
    model: String,
    width: usize,
    classes: usize,
    image_size: usize,
    /// None is the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stem: Option<Stem>,
    mean: [f32; 3],
    std: [f32; 3],
}

/// What a checkpoint holds: a network that is on no device.
pub struct Checkpoint {
    /// The architecture.
    pub spec: ModelSpec,
    /// How pixels become its input.
    pub norm: Normalisation,
    /// What in the file it was made of was left alone, a sentence each.
    pub notes: Vec<String>,
    /// In PyTorch's order and layouts; of counters no values.
    params: Vec<(Param, Vec<f32>)>,
    /// Training steps taken: what counters count.
    steps: u64,
}

impl Checkpoint {
    /// Loads a checkpoint of any architecture.
    ///
    /// # Errors
    /// A file that cannot be read, is no checkpoint of ours, or lacks a tensor; a value or normalisation that no network works with.
    pub fn load(path: &Path) -> Result<Checkpoint, TrainError> {
        Checkpoint::load_checked(path, None)
    }

    fn load_checked(path: &Path, expected: Option<&ModelSpec>) -> Result<Checkpoint, TrainError> {
        let fail = |why: String| failed(path, why);
        let file = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
        let state = StateDict::safetensors(file).map_err(|e| fail(e.to_string()))?;
        let header: Header = state
            .metadata("dau")
            .ok_or_else(|| fail("has no `dau` entry in its header: not written by dau; try `dau import`".into()))
            .and_then(|text| serde_json::from_str(text).map_err(|e| fail(format!("its `dau` header: {e}"))))?;
        let Header { model: name, width, classes, image_size, stem, mean, std } = header;
        let spec = ModelSpec { name, width, classes, image_size, stem: stem.unwrap_or(Stem::usual(image_size)) };
        let wanted = expected.unwrap_or(&spec);
        let checkpoint = Checkpoint::new(&state, wanted, Normalisation { mean, std }).map_err(|e| e.of(path))?;
        Ok(Checkpoint { spec: ModelSpec { image_size, ..wanted.clone() }, ..checkpoint })
    }

    /// Makes a checkpoint of PyTorch's or safetensors' state dict in the file `path`: `model` is its architecture as
    /// [`ModelEntry::named`] takes it, width, number of classes and stem follow from the tensors. `image_size` (pixels) is by default the
    /// least that usually has its stem. It needs no device.
    ///
    /// # Errors
    /// A file that [`StateDict::read`] refuses; another architecture: the first tensor that differs, and both shapes; a value or normalisation that no network works with.
    pub fn import(path: &Path, model: &str, image_size: Option<usize>, norm: Normalisation) -> Result<Checkpoint, TrainError> {
        let entry = ModelEntry::named(model)?;
        let file = std::fs::read(path).map_err(|e| failed(path, e.to_string()))?;
        let state = StateDict::read(file).map_err(|e| failed(path, e.to_string()))?;
        let spec = derive(&state, entry, image_size).map_err(|e| e.of(path))?;
        Checkpoint::new(&state, &spec, norm).map_err(|e| e.of(path))
    }

    /// Takes from `state` the parameters of a `wanted`, all of them and no others; counters may be missing, as older versions of PyTorch
    /// had none.
    fn new(state: &StateDict, wanted: &ModelSpec, norm: Normalisation) -> Result<Checkpoint, Unfit> {
        let fail = |why: String| Err(Unfit::State(why));
        let Normalisation { mean, std } = norm;
        if !(mean.iter().all(|m| m.is_finite()) && std.iter().all(|s| s.is_finite() && *s > 0.0)) {
            return fail(format!("mean {mean:?} and std {std:?} do not normalise: each std must be above 0"));
        }
        let ModelSpec { name: model, width, classes, .. } = wanted;
        let wants = params_of(wanted).map_err(Unfit::Network)?;
        let mut names: BTreeMap<String, &str> = BTreeMap::new();
        for name in state.names() {
            if !wants.iter().any(|p| common(&p.name) == common(name)) {
                return fail(format!("has a tensor {name}, which a {model} of width {width} does not have"));
            }
            if let Some(twin) = names.insert(common(name), name) {
                return fail(format!("has both {twin} and {name}, which a {model} has one of"));
            }
        }
        let (mut params, mut steps) = (Vec::new(), 0);
        for p in wants {
            let needed = p.kind.torch_shape();
            let Some(&name) = names.get(&common(&p.name)) else {
                if p.kind != ParamKind::Counter {
                    return Err(lacking(state, &p.name, &format!("{model} of width {width}")));
                }
                params.push((p, Vec::new()));
                continue;
            };
            let shape = state.shape(name).unwrap_or_default();
            // Some versions and tools keep counters as vectors of one number, or convert them with the weights.
            if shape != needed && !(p.kind == ParamKind::Counter && shape == [1]) {
                return fail(format!(
                    "{name} has shape {shape:?}, a {model} of width {width} with {classes} classes needs {needed:?}"
                ));
            }
            let values = match (p.kind, state.values(name)) {
                (ParamKind::Counter, Some(values)) => {
                    steps = counted(&values);
                    Vec::new()
                }
                (_, Some(Values::Float(v))) => v,
                _ => return fail(format!("{name} holds whole numbers, not fractions")),
            };
            if let Some((at, value)) = values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
                let count = values.len();
                return fail(format!(
                    "{name} holds {value} at place {at} of its {count}: no network works with that. Take a file from before its \
                     training failed"
                ));
            }
            params.push((p, values));
        }
        Ok(Checkpoint { spec: wanted.clone(), norm, notes: state.notes().to_vec(), params, steps })
    }

    /// The network on a device.
    ///
    /// # Errors
    /// Parameters over the adapter's limits.
    pub fn network(self, kernels: &Kernels) -> Result<Network, TrainError> {
        let params = ParamSet::new(kernels.gpu(), self.params.iter().map(|(p, _)| p.clone()).collect())?;
        for (p, values) in self.params.iter().filter(|(p, _)| p.kind != ParamKind::Counter) {
            params.write(p, values);
        }
        Ok(Network { spec: self.spec, norm: self.norm, params, steps: AtomicU64::new(self.steps) })
    }

    /// Writes it; `path` is never half written.
    ///
    /// # Errors
    /// The file system's, naming the path.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        let ModelSpec { name: model, width, classes, image_size, stem } = self.spec.clone();
        let stem = Some(stem).filter(|stem| *stem != Stem::usual(image_size));
        let header = Header { model, width, classes, image_size, stem, mean: self.norm.mean, std: self.norm.std };
        let header = serde_json::to_string(&header).map_err(|e| failed(path, e.to_string()))?;
        self.write(path, Some(HashMap::from([("dau".to_string(), header)])))
    }

    /// Writes the state dict alone, for `load_state_dict(strict=True)`, and says how many tensors it has; `path` is never half written.
    ///
    /// # Errors
    /// As `save`.
    pub fn export(&self, path: &Path) -> Result<usize, TrainError> {
        self.write(path, None)?;
        Ok(self.params.len())
    }

    fn write(&self, path: &Path, metadata: Option<HashMap<String, String>>) -> Result<(), TrainError> {
        let fail = |why: String| failed(path, why);
        let steps = self.steps.to_le_bytes();
        let mut tensors = Vec::new();
        for (p, values) in &self.params {
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                return Err(fail(format!("is not written, since {} holds {value}: train with a smaller learning rate", p.name)));
            }
            let view = match p.kind {
                ParamKind::Counter => TensorView::new(Dtype::I64, vec![], &steps),
                kind => TensorView::new(Dtype::F32, kind.torch_shape(), bytemuck::cast_slice(values)),
            };
            tensors.push((p.name.clone(), view.map_err(|e| fail(e.to_string()))?));
        }
        let file = safetensors::serialize(tensors, metadata).map_err(|e| fail(e.to_string()))?;
        write_atomic(path, &file).map_err(|e| fail(format!("cannot be written: {e}")))
    }
}

impl Network {
    fn checkpoint(&self) -> Result<Checkpoint, TrainError> {
        let mut values: HashMap<String, Vec<f32>> = self.params.read()?.into_iter().map(|(p, v)| (p.name, v)).collect();
        let params = self.params.params().iter().map(|p| (p.clone(), values.remove(&p.name).unwrap_or_default())).collect();
        Ok(Checkpoint { spec: self.spec.clone(), norm: self.norm, notes: Vec::new(), params, steps: self.steps() })
    }

    /// Writes a checkpoint; `path` is never half written.
    ///
    /// # Errors
    /// The driver's or the file system's, naming the path.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        self.checkpoint()?.save(path)
    }

    /// Writes the state dict alone, for `load_state_dict(strict=True)`; `path` is never half written.
    ///
    /// # Errors
    /// As `save`.
    pub fn export(&self, path: &Path) -> Result<(), TrainError> {
        self.checkpoint()?.export(path).map(drop)
    }

    /// Loads a checkpoint of any architecture.
    ///
    /// # Errors
    /// As [`Checkpoint::load`] and [`Checkpoint::network`].
    pub fn load(kernels: &Kernels, path: &Path) -> Result<Network, TrainError> {
        Checkpoint::load(path)?.network(kernels)
    }

    /// Loads a checkpoint that must be of architecture `spec`.
    ///
    /// # Errors
    /// As `load`, or another architecture: the first tensor that differs, and both shapes.
    pub fn load_as(kernels: &Kernels, path: &Path, spec: &ModelSpec) -> Result<Network, TrainError> {
        Checkpoint::load_checked(path, Some(spec))?.network(kernels)
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

/// A parameter's name in the words of small images' networks: torchvision says `fc` and `downsample` for the same parts.
fn common(name: &str) -> String {
    let word = |part| match part {
        "fc" => "linear",
        "downsample" => "shortcut",
        other => other,
    };
    name.split('.').map(word).collect::<Vec<_>>().join(".")
}

/// Training steps that a counter tells. It may have become a float that is too short for it: nobody needs more than its order.
fn counted(values: &Values) -> u64 {
    match values {
        Values::Int(count) => count.first().map_or(0, |n| (*n).max(0) as u64),
        Values::Float(count) => count.first().filter(|n| n.is_finite()).map_or(0, |n| *n as u64),
    }
}

/// A tensor that is not there, or something else in its place.
fn lacking(state: &StateDict, what: &str, of: &str) -> Unfit {
    if let Some((name, kind)) = state.others().find(|(name, _)| common(name) == common(what)) {
        return Unfit::State(format!("{name} is a `{kind}`, not a tensor, which a {of} needs there; it was left alone"));
    }
    let some: Vec<&str> = state.names().take(4).collect();
    Unfit::State(format!("has no tensor {what}, which a {of} needs; it has {} ..", some.join(", ")))
}

const STEM: &str = "conv1.weight";

/// What the tensors tell of the network of architecture `entry` that they belong to.
fn derive(state: &StateDict, entry: &ModelEntry, image_size: Option<usize>) -> Result<ModelSpec, Unfit> {
    let model = entry.name;
    let lacking = |what: &str| lacking(state, what, model);
    let first = format!("{}.weight", entry.first);
    let &[.., kernel] = state.shape(STEM).ok_or_else(|| lacking(STEM))? else { return Err(lacking(STEM)) };
    let &[channels, ..] = state.shape(&first).ok_or_else(|| lacking(&first))? else { return Err(lacking(&first)) };
    let classifier = ["linear.weight", "fc.weight"].into_iter().find_map(|name| state.shape(name));
    let Some(&[classes, _]) = classifier else { return Err(lacking("linear.weight or fc.weight")) };
    let image_size = image_size.unwrap_or(if kernel == 7 { LARGE } else { 32 });
    let usual = ModelSpec::new(model, (channels / entry.unit).max(1), classes, image_size);
    let mut built = Vec::new();
    for stem in [usual.stem, Stem::Small, Stem::Large] {
        let spec = ModelSpec { stem, ..usual.clone() };
        let params = params_of(&spec).map_err(Unfit::Network)?;
        match params.iter().find(|p| p.name == STEM).map(|p| p.kind.torch_shape()).as_deref() {
            Some(&[.., size]) if size != kernel => built.push(format!("{size}x{size}")),
            _ => return Ok(spec),
        }
    }
    built.sort();
    built.dedup();
    Err(Unfit::State(format!("{STEM} is a {kernel}x{kernel} stem; a {model} has one of {} here", built.join(" or "))))
}
