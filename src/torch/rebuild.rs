//! The few names of a pickle that are understood, and what they make: tensors on storages, and mappings.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::pickle::{Host, Id, LONGEST, Pickle, Value};
use super::{Stored, TorchError};

/// What a name stands for, and what it makes.
#[derive(Clone, Debug, PartialEq)]
pub enum Thing {
    /// A class whose objects are filled item by item, like a dict.
    Mapping,
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
    ("collections.OrderedDict", Thing::Mapping),
    ("collections.defaultdict", Thing::Mapping),
    ("torch.Size", Thing::Size),
    ("torch._utils._rebuild_tensor_v2", Thing::RebuildTensor),
    ("torch._utils._rebuild_parameter", Thing::RebuildParameter),
    ("torch._utils._rebuild_parameter_with_state", Thing::RebuildParameter),
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

/// Storages that are left alone, and the bytes of an element: the older format can only be read past them.
const SKIPPED: [(&str, usize); 9] = [
    ("torch.ComplexFloatStorage", 8),
    ("torch.ComplexDoubleStorage", 16),
    ("torch.QInt8Storage", 1),
    ("torch.QUInt8Storage", 1),
    ("torch.QInt32Storage", 4),
    ("torch.QUInt4x2Storage", 1),
    ("torch.QUInt2x4Storage", 1),
    ("torch.UntypedStorage", 1),
    ("torch.storage.UntypedStorage", 1),
];

/// Extents of a tensor. A pickle can name one tuple as often as it has bytes; copies of long ones would fill the memory.
const MOST: usize = 16;

/// Remembers the bytes of an element of each storage by its key.
#[derive(Debug, Default)]
pub struct Machine {
    storages: BTreeMap<String, usize>,
}

pub type Values = Pickle<Thing>;

impl Machine {
    pub fn storages(&self) -> &BTreeMap<String, usize> {
        &self.storages
    }

    /// Notes a storage with elements of `size` bytes.
    fn note(&mut self, key: &str, size: usize) -> Result<(), TorchError> {
        if key.len() > LONGEST {
            return Err(wrong("a storage's key"));
        }
        if *self.storages.entry(key.to_string()).or_insert(size) != size {
            return Err(wrong("a storage of two types"));
        }
        Ok(())
    }
}

pub fn wrong(what: &str) -> TorchError {
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

    fn global(&self, name: &str) -> Option<Thing> {
        NAMES.iter().find(|(n, _)| *n == name).map(|(_, thing)| thing.clone())
    }

    fn apply(&self, p: &Values, function: &Thing, args: &[Id]) -> Result<Value<Thing>, TorchError> {
        match (function, args) {
            (Thing::Mapping, [items]) if matches!(p.get(*items), Value::List(_)) => {
                let why = "was written by Python 2, whose ordered dicts are not read: load it and save it again with Python 3";
                Err(TorchError::Content(why.into()))
            }
            // A defaultdict has what it makes of missing keys.
            (Thing::Mapping, [] | [_]) => Ok(Value::Dict(Vec::new())),
            (Thing::Size, [items]) => match p.get(*items) {
                Value::Tuple(items) if items.len() <= MOST => Ok(Value::Tuple(items.clone())),
                _ => Err(wrong("a torch.Size")),
            },
            // Of an opaque storage, an opaque tensor.
            (Thing::RebuildTensor | Thing::RebuildParameter, [of, ..]) if matches!(p.get(*of), Value::Opaque(_)) => {
                Ok(p.get(*of).clone())
            }
            // The data, whether it wants a gradient, its hooks, its attributes.
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
    fn persistent(&mut self, p: &Values, id: &[Id]) -> Result<Value<Thing>, TorchError> {
        let [kind, dtype, key, rest @ ..] = id else { return Err(wrong("a storage")) };
        // A storage of another type; in the older format a class, with its source.
        if let Value::Opaque(of) = p.get(*dtype) {
            let skipped = SKIPPED.iter().find(|(name, _)| *name == p.kinds()[*of]);
            if let (Some((_, size)), Value::Text(key)) = (skipped, p.get(*key)) {
                self.note(key, *size)?;
            }
            return Ok(Value::Opaque(*of));
        }
        let [_, _, view @ ..] = rest else { return Err(wrong("a storage")) };
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
        self.note(key, dtype.bitsize() / 8)?;
        Ok(Value::Host(Thing::Storage { key: key.clone(), dtype: *dtype, offset }))
    }
}
