//! The three formats of files: where the pickle and the storages lie.

use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, copy, sink};
use std::ops::Range;

use super::find::state_dict;
use super::pickle::{Pickle, Value};
use super::rebuild::Machine;
use super::{Found, SafeTensors, Stored, TorchError, foreign};

/// What the older format begins with, as a pickled number.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;

/// The operation that every pickle of protocol 2 or later begins with.
pub(super) const PROTO: u8 = 0x80;

pub(super) fn safetensors(file: &[u8]) -> Result<(Found, BTreeMap<String, String>), TorchError> {
    let broken =
        |e: safetensors::SafeTensorError| TorchError::Content(format!("not a whole safetensors file ({e}): fetch it again"));
    let (header, metadata) = SafeTensors::read_metadata(file).map_err(broken)?;
    let views = SafeTensors::deserialize(file).map_err(broken)?;
    let start = header + 8;
    let place = |name: &str| metadata.info(name).map(|info| start + info.data_offsets.0..start + info.data_offsets.1);
    let tensors = views.iter().filter_map(|(name, view)| {
        Some((name.to_string(), Stored::contiguous(view.dtype(), view.shape().to_vec(), place(name)?)))
    });
    let entries = metadata.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone()));
    Ok((Found { tensors: tensors.collect(), ..Found::default() }, entries.collect()))
}

/// A zip archive with the members `NAME/data.pkl`, and `NAME/data/KEY` for each storage, uncompressed.
pub(super) fn zip(file: &[u8]) -> Result<Found, TorchError> {
    let broken = |e: &dyn std::fmt::Display| TorchError::Content(format!("not a whole zip archive ({e}): fetch it again"));
    let mut archive = zip::ZipArchive::new(Cursor::new(file)).map_err(|e| broken(&e))?;
    let pickle = archive.file_names().find(|name| name.ends_with("/data.pkl")).map(String::from);
    let pickle = pickle.ok_or_else(|| TorchError::Content(foreign::archive(&archive.file_names().collect::<Vec<_>>())))?;
    let root = pickle.trim_end_matches("data.pkl").to_string();
    // The range of a member; reading it through checks its checksum.
    let mut member = |name: &str| -> Result<Range<usize>, TorchError> {
        let mut entry = archive.by_name(name).map_err(|e| TorchError::Content(format!("{name}: {e}")))?;
        if entry.compression() != zip::CompressionMethod::Stored {
            return Err(TorchError::Content(format!(
                "{name} is compressed, which torch.save never does: was it unpacked and packed again? Use the original"
            )));
        }
        let read = copy(&mut entry, &mut sink()).map_err(|e| broken(&e))? as usize;
        let start = entry.data_start().ok_or_else(|| broken(&format!("{name} without a beginning")))? as usize;
        Ok(start..start + read)
    };
    let at = member(&pickle)?;
    let order = format!("{root}byteorder");
    let range = member(&order).ok();
    if let Some(text) = range.and_then(|range| file.get(range)).filter(|text| *text != b"little") {
        return Err(TorchError::Content(format!("its numbers are in {} byte order, not little", String::from_utf8_lossy(text))));
    }
    let mut machine = Machine::default();
    let bytes = file.get(at.clone()).ok_or_else(|| broken(&"a member past its end"))?;
    let pickle = Pickle::read(bytes, 0, &mut machine).map_err(|e| shifted(e, at.start))?;
    let mut places: HashMap<String, Range<usize>> = HashMap::new();
    for key in machine.storages().keys() {
        places.insert(key.clone(), member(&format!("{root}data/{key}"))?);
    }
    state_dict(&pickle, &places)
}

fn shifted(e: TorchError, by: usize) -> TorchError {
    match e {
        TorchError::Broken { at, why } => TorchError::Broken { at: at + by, why },
        other => other,
    }
}

/// Five pickles (a magic number, the format's version, the writer's machine, the object, the storages' keys), then for each storage its
/// length as an i64 and its elements.
pub(super) fn legacy(file: &[u8]) -> Result<Found, TorchError> {
    let mut machine = Machine::default();
    let broken = |at: usize, why: &str| TorchError::Broken { at, why: why.into() };
    if file.first() != Some(&PROTO) {
        return Err(TorchError::Content("neither a PyTorch file nor a safetensors file".into()));
    }
    let magic = Pickle::read(file, 0, &mut machine)?;
    if !matches!(magic.root(), Value::Int(MAGIC)) {
        let why = "a pickle, but not torch.save's. Save the state dict: torch.save(model.state_dict(), FILE)";
        return Err(TorchError::Content(why.into()));
    }
    let version = Pickle::read(file, magic.end, &mut machine)?;
    if !matches!(version.root(), Value::Int(1001)) {
        return Err(broken(magic.end, "a version that is not 1001"));
    }
    let writer = Pickle::read(file, version.end, &mut machine)?;
    if matches!(writer.entry(writer.root(), "little_endian"), Some(Value::Bool(false))) {
        return Err(TorchError::Content("its numbers are in big byte order, not little".into()));
    }
    let object = Pickle::read(file, writer.end, &mut machine)?;
    let keys = Pickle::read(file, object.end, &mut machine)?;
    let Value::List(list) = keys.root() else { return Err(broken(object.end, "no list of storages")) };
    let mut at = keys.end;
    let mut places = HashMap::new();
    for key in list {
        let Value::Text(key) = keys.get(*key) else { return Err(broken(object.end, "a storage's key that is no text")) };
        let size = machine.storages().get(key).ok_or_else(|| broken(object.end, "a storage of no known type"))?;
        let length = file.get(at..at + 8).ok_or_else(|| broken(at, "no length of a storage"))?;
        let bytes = usize::try_from(i64::from_le_bytes(super::sized(length)))
            .ok()
            .and_then(|n| n.checked_mul(*size))
            .filter(|n| *n <= file.len() - at - 8)
            .ok_or_else(|| broken(at, "a storage that reaches past the end"))?;
        places.insert(key.clone(), at + 8..at + 8 + bytes);
        at += 8 + bytes;
    }
    state_dict(&object, &places)
}
