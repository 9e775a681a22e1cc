//! The few names that a state dict's pickle may say, and what they make: tensors on storages.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use safetensors::Dtype;

use super::pickle::{Host, Id, MOST, Pickle, Value};
use super::{Stored, TorchError};

/// What a name stands for, and what it makes.
#[derive(Clone, Debug, PartialEq)]
pub enum Thing {
    OrderedDict,
    Size,
    RebuildTensor,
    RebuildParameter,
    StorageType(Dtype),
    Storage {
        key: String,
        dtype: Dtype,
        offset: usize,
    },
    /// Its storage's key, and the tensor with no bytes yet.
    Tensor(String, Stored),
}

const NAMES: &[(&str, Thing)] = &[
    ("collections.OrderedDict", Thing::OrderedDict),
    ("torch.Size", Thing::Size),
    ("torch._utils._rebuild_tensor_v2", Thing::RebuildTensor),
    ("torch._utils._rebuild_parameter", Thing::RebuildParameter),
    ("torch.FloatStorage", Thing::StorageType(Dtype::F32)),
    ("torch.DoubleStorage", Thing::StorageType(Dtype::F64)),
    ("torch.HalfStorage", Thing::StorageType(Dtype::F16)),
    ("torch.BFloat16Storage", Thing::StorageType(Dtype::BF16)),
    ("torch.LongStorage", Thing::StorageType(Dtype::I64)),
    ("torch.IntStorage", Thing::StorageType(Dtype::I32)),
    ("torch.ShortStorage", Thing::StorageType(Dtype::I16)),
    ("torch.CharStorage", Thing::StorageType(Dtype::I8)),
    ("torch.ByteStorage", Thing::StorageType(Dtype::U8)),
    ("torch.BoolStorage", Thing::StorageType(Dtype::BOOL)),
];

/// Bytes of a name, which is copied: far more than any has, see [`MOST`].
const LONGEST: usize = 256;

/// Keys under which training scripts keep a state dict.
const NESTED: [&str; 4] = ["state_dict", "model", "net", "model_state_dict"];

/// Remembers each storage's type by its key.
#[derive(Debug, Default)]
pub struct Machine {
    storages: BTreeMap<String, Dtype>,
}

type Values = Pickle<Thing>;

impl Machine {
    pub fn storages(&self) -> &BTreeMap<String, Dtype> {
        &self.storages
    }
}

fn wrong(what: &str) -> TorchError {
    TorchError::Content(format!("damaged or no PyTorch file: {what} of a form that torch.save never writes"))
}

fn number(p: &Values, id: Id) -> Option<usize> {
    match p.get(id) {
        Value::Int(n) => usize::try_from(*n).ok(),
        _ => None,
    }
}

fn numbers(p: &Values, id: Id) -> Option<Vec<usize>> {
    match p.get(id) {
        Value::Tuple(items) if items.len() <= MOST => items.iter().map(|id| number(p, *id)).collect(),
        _ => None,
    }
}

impl Host for Machine {
    type Thing = Thing;

    fn global(&mut self, name: &str) -> Result<Thing, TorchError> {
        let known = NAMES.iter().find(|(n, _)| *n == name);
        known.map(|(_, thing)| thing.clone()).ok_or_else(|| TorchError::Refused(name.to_string()))
    }

    fn apply(&mut self, p: &Values, function: &Thing, args: &[Id]) -> Result<Value<Thing>, TorchError> {
        match (function, args) {
            (Thing::OrderedDict, []) => Ok(Value::Dict(Vec::new())),
            (Thing::Size, [items]) => match p.get(*items) {
                Value::Tuple(items) if items.len() <= MOST => Ok(Value::Tuple(items.clone())),
                _ => Err(wrong("a torch.Size")),
            },
            // The data, whether it wants a gradient, its hooks.
            (Thing::RebuildParameter, [data, ..]) => match p.get(*data) {
                Value::Host(tensor @ Thing::Tensor(..)) => Ok(Value::Host(tensor.clone())),
                _ => Err(wrong("a parameter")),
            },
            // The storage, offset, shape, strides; then gradient and hooks.
            (Thing::RebuildTensor, [storage, offset, shape, strides, ..]) => {
                let Value::Host(Thing::Storage { key, dtype, offset: start }) = p.get(*storage) else {
                    return Err(wrong("a tensor"));
                };
                let offset = number(p, *offset).and_then(|n| n.checked_add(*start));
                let (Some(offset), Some(shape), Some(strides)) = (offset, numbers(p, *shape), numbers(p, *strides)) else {
                    return Err(wrong("a tensor"));
                };
                let tensor = Stored { dtype: *dtype, shape, strides, offset, bytes: 0..0 };
                Ok(Value::Host(Thing::Tensor(key.clone(), tensor)))
            }
            _ => Err(wrong("a call")),
        }
    }

    /// ("storage", its type, key, device, number of elements), in the older format also a view: None or (key, offset, size).
    fn persistent(&mut self, p: &Values, id: &[Id]) -> Result<Thing, TorchError> {
        let [kind, dtype, key, _, _, view @ ..] = id else { return Err(wrong("a storage")) };
        let (Value::Text(kind), Value::Host(Thing::StorageType(dtype)), Value::Text(key)) =
            (p.get(*kind), p.get(*dtype), p.get(*key))
        else {
            return Err(wrong("a storage"));
        };
        let offset = match view.first().map(|view| p.get(*view)) {
            None | Some(Value::None) => Some(0),
            Some(Value::Tuple(view)) => view.get(1).and_then(|offset| number(p, *offset)),
            Some(_) => None,
        };
        let (Some(offset), "storage") = (offset, kind.as_str()) else { return Err(wrong("a storage")) };
        if key.len() > LONGEST {
            return Err(wrong("a storage's key"));
        }
        if *self.storages.entry(key.clone()).or_insert(*dtype) != *dtype {
            return Err(wrong("a storage of two types"));
        }
        Ok(Thing::Storage { key: key.clone(), dtype: *dtype, offset })
    }
}

/// The tensors of the state dict in `p`, which may be nested, each with its bytes.
pub fn state_dict(p: &Values, places: &HashMap<String, Range<usize>>) -> Result<Vec<(String, Stored)>, TorchError> {
    let mut dict = p.root();
    // A file may nest for ever; nobody does so more than twice.
    for _ in 0..4 {
        let Value::Dict(entries) = dict else { break };
        let mut found = Vec::new();
        for (name, value) in entries {
            let (Value::Text(name), Value::Host(Thing::Tensor(key, tensor))) = (p.get(*name), p.get(*value)) else { continue };
            if name.len() > LONGEST {
                return Err(wrong("a tensor's name"));
            }
            let bytes = places.get(key).ok_or_else(|| TorchError::Content(format!("{name}: its storage {key} is missing")))?;
            found.push((name.clone(), Stored { bytes: bytes.clone(), ..tensor.clone() }));
        }
        if !found.is_empty() {
            return Ok(found);
        }
        let inner = NESTED.iter().find_map(|key| p.entry(dict, key).filter(|inner| matches!(inner, Value::Dict(_))));
        let Some(inner) = inner else {
            let text = |id: &Id| if let Value::Text(text) = p.get(*id) { Some(text.as_str()) } else { None };
            let keys: Vec<&str> = entries.iter().filter_map(|(key, _)| text(key)).take(8).collect();
            let why = format!("no state dict: its keys are {}; looked under {}", keys.join(", "), NESTED.join(", "));
            return Err(TorchError::Content(why));
        };
        dict = inner;
    }
    Err(TorchError::Content("no state dict: a mapping of names to tensors".into()))
}
