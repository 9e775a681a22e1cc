//! State dicts as PyTorch and safetensors write them. Nothing in a file is ever run: of pickles, tensors and plain containers are
//! understood, and all else is left alone.

mod archive;
mod find;
mod foreign;
mod pickle;
mod rebuild;

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::{Dtype, SafeTensors};
use thiserror::Error;

/// Why a file is not read.
#[derive(Debug, Error, PartialEq)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum TorchError {
    #[error(
        "holds `{0}` in place of a state dict: neither tensor nor plain container, so it was left alone, and nothing was run. Save the \
         state dict: torch.save(model.state_dict(), FILE)"
    )]
    Refused(String),
    #[error("damaged or no PyTorch file: {why} at byte {at}")]
    Broken { at: usize, why: String },
    /// All else that can be wrong; the words are the whole message.
    #[error("{0}")]
    Content(String),
}

/// What a zip archive begins with.
const ZIP: &[u8] = b"PK";

/// A tensor's place in its storage.
#[derive(Clone, Debug, PartialEq)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Elements from one index to the next, an extent each.
    strides: Vec<usize>,
    /// The storage's elements before the first.
    offset: usize,
    /// The storage's bytes in the file.
    bytes: Range<usize>,
}

/// A state dict as it lies in a file.
#[derive(Default)]
struct Found {
    tensors: Vec<(String, Stored)>,
    /// What has a tensor's place and is none: its name and what pickle calls it.
    others: Vec<(String, String)>,
    /// What was left alone, a sentence each.
    notes: Vec<String>,
}

/// What a tensor holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Of f16, bf16, f32 or f64.
    Float(Vec<f32>),
    /// Of whole numbers and booleans.
    Int(Vec<i64>),
}

/// The tensors of a file by name, without what wrappers (data-parallel, averaged, compiled, Lightning) put before them.
#[derive(Debug)]
pub struct StateDict {
    file: Vec<u8>,
    tensors: BTreeMap<String, Stored>,
    others: Vec<(String, String)>,
    notes: Vec<String>,
    metadata: BTreeMap<String, String>,
}

impl StateDict {
    /// Reads what `torch.save` wrote, as a zip archive or in the older format, or a safetensors file. The state dict may lie in other
    /// mappings, under `state_dict`, `model`, `net` or any other key; what lies beside it is left alone.
    ///
    /// # Errors
    /// Another file, a damaged one; no state dict, or several of which none has a more usual key than the others.
    pub fn read(file: Vec<u8>) -> Result<StateDict, TorchError> {
        if file.get(8) == Some(&b'{') {
            return StateDict::safetensors(file);
        }
        if let Some(other) = foreign::named(&file) {
            return Err(TorchError::Content(other.into()));
        }
        let found = if file.starts_with(ZIP) { archive::zip(&file)? } else { archive::legacy(&file)? };
        StateDict::new(file, found, BTreeMap::new())
    }

    /// As `read`, of a safetensors file alone.
    ///
    /// # Errors
    /// Another file, a damaged one.
    pub fn safetensors(file: Vec<u8>) -> Result<StateDict, TorchError> {
        if file.get(8) != Some(&b'{') {
            let torch = file.starts_with(ZIP) || file.first() == Some(&archive::PROTO);
            let torch = torch.then_some("is a PyTorch file, not a safetensors file: `dau import` makes a checkpoint of it");
            if let Some(other) = torch.or(foreign::named(&file)) {
                return Err(TorchError::Content(other.into()));
            }
        }
        let (found, metadata) = archive::safetensors(&file)?;
        StateDict::new(file, found, metadata)
    }

    fn new(file: Vec<u8>, found: Found, metadata: BTreeMap<String, String>) -> Result<StateDict, TorchError> {
        let Found { tensors, others, notes } = find::unwrapped(found);
        tensors.iter().try_for_each(|(name, tensor)| tensor.check(name))?;
        Ok(StateDict { file, tensors: tensors.into_iter().collect(), others, notes, metadata })
    }

    /// The names of all tensors, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Extents of the tensor called `name`, outermost first.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| &t.shape[..])
    }

    /// What has a tensor's place and is none: names, and what pickle calls it.
    pub fn others(&self) -> impl Iterator<Item = (&str, &str)> {
        self.others.iter().map(|(name, kind)| (name.as_str(), kind.as_str()))
    }

    /// What in the file was left alone, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// An entry of a safetensors header.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The values of a tensor in its shape's order; f16, bf16 and f64 as f32, whole numbers and booleans as i64.
    pub fn values(&self, name: &str) -> Option<Values> {
        let tensor = self.tensors.get(name)?;
        let size = tensor.dtype.bitsize() / 8;
        let storage = self.file.get(tensor.bytes.clone())?;
        let elements = tensor.places().map(|i| &storage[i * size..(i + 1) * size]);
        Some(match tensor.dtype {
            Dtype::F32 => Values::Float(elements.map(|b| f32::from_le_bytes(sized(b))).collect()),
            Dtype::F64 => Values::Float(elements.map(|b| f64::from_le_bytes(sized(b)) as f32).collect()),
            Dtype::F16 => Values::Float(elements.map(|b| half::f16::from_le_bytes(sized(b)).to_f32()).collect()),
            Dtype::BF16 => Values::Float(elements.map(|b| half::bf16::from_le_bytes(sized(b)).to_f32()).collect()),
            Dtype::I64 => Values::Int(elements.map(|b| i64::from_le_bytes(sized(b))).collect()),
            Dtype::I32 => Values::Int(elements.map(|b| i32::from_le_bytes(sized(b)).into()).collect()),
            Dtype::I16 => Values::Int(elements.map(|b| i16::from_le_bytes(sized(b)).into()).collect()),
            Dtype::I8 => Values::Int(elements.map(|b| i8::from_le_bytes(sized(b)).into()).collect()),
            _ => Values::Int(elements.map(|b| b[0].into()).collect()),
        })
    }
}

/// The first N bytes; zeros where there are fewer, which `Stored::check` has excluded.
fn sized<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.iter_mut().zip(bytes).for_each(|(o, b)| *o = *b);
    out
}

impl Stored {
    /// A tensor that fills its storage in order.
    fn contiguous(dtype: Dtype, shape: Vec<usize>, bytes: Range<usize>) -> Stored {
        let strides = (0..shape.len()).map(|i| shape[i + 1..].iter().fold(1usize, |n, d| n.saturating_mul(*d))).collect();
        Stored { dtype, shape, strides, offset: 0, bytes }
    }

    /// Refuses a tensor that is larger than its storage or reaches past its end: all that `values` relies on.
    fn check(&self, name: &str) -> Result<(), TorchError> {
        let fail = |why: String| Err(TorchError::Content(format!("{name} {:?} {why}", self.shape)));
        let known = [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::BF16, Dtype::I64, Dtype::I32, Dtype::I16, Dtype::I8, Dtype::U8];
        if !known.contains(&self.dtype) && self.dtype != Dtype::BOOL {
            return fail(format!("has elements of type {:?}; known are {known:?}", self.dtype));
        }
        let have = self.bytes.len() / (self.dtype.bitsize() / 8);
        let elements = self.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let reach = self.shape.iter().zip(&self.strides).try_fold(self.offset, |at, (extent, stride)| {
            extent.saturating_sub(1).checked_mul(*stride).and_then(|far| at.checked_add(far))
        });
        match (elements, reach) {
            _ if self.shape.len() != self.strides.len() => fail(format!("has {} strides", self.strides.len())),
            (Some(0), _) => Ok(()),
            (Some(n), Some(last)) if n <= have && last < have => Ok(()),
            _ => fail(format!(
                "with strides {:?} from {} on does not fit its storage of {have} elements",
                self.strides, self.offset
            )),
        }
    }

    /// Where its elements lie in the storage, in the shape's order.
    fn places(&self) -> impl Iterator<Item = usize> {
        (0..self.shape.iter().product::<usize>()).map(|mut i| {
            let mut at = self.offset;
            for (extent, stride) in self.shape.iter().zip(&self.strides).rev() {
                at += i % extent * stride;
                i /= extent;
            }
            at
        })
    }
}
