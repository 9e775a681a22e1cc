//! Where in a file the network's state dict is: under which keys, and behind which wrappers' prefix.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use super::pickle::{Id, LONGEST, Value};
use super::rebuild::{Thing, Values, wrong};
use super::{Found, Stored, TorchError};

/// Keys under which training scripts keep a network's state dict, the likelier before the others.
const USUAL: [&str; 16] = [
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "netC",
    "network",
    "classifier",
    "net_state_dict",
    "weights",
    "params",
    "module",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
];

/// What wrappers put before each of a network's names: data-parallel and averaged ones, compiled ones, and classes that hold it.
const WRAPPERS: [&str; 5] = ["module", "_orig_mod", "model", "net", "network"];

/// Mappings in each other. A file may nest for ever; nobody does so more than twice.
const DEEPEST: usize = 4;

/// Entries of a state dict: a hundred times what large networks have. A pickle can name one tensor as often as it has bytes.
const MOST_ENTRIES: usize = 100_000;

/// Names that a sentence tells.
const TOLD: usize = 8;

/// A mapping with a weight in it, and the keys that lead to it.
struct Place<'a> {
    keys: Vec<&'a str>,
    entries: &'a [(Id, Id)],
}

impl Place<'_> {
    /// Less is likelier.
    fn rank(&self) -> Vec<usize> {
        self.keys.iter().map(|key| USUAL.iter().position(|usual| usual == key).unwrap_or(USUAL.len())).collect()
    }
}

/// The first of `names`, and how many more there are; what could steer a terminal is escaped.
fn some<S: AsRef<str>>(names: impl ExactSizeIterator<Item = S>) -> String {
    let rest = names.len().saturating_sub(TOLD);
    let told: Vec<String> = names.take(TOLD).map(|name| name.as_ref().escape_debug().to_string()).collect();
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    told.join(", ") + &more
}

fn text(p: &Values, id: Id) -> Option<&str> {
    if let Value::Text(text) = p.get(id) { Some(text) } else { None }
}

/// Every mapping that has a `weight`, the outer ones first. None is looked for inside of one.
fn places(p: &Values) -> Vec<Place<'_>> {
    let is_weight = |(name, value): &(Id, Id)| {
        let named = text(p, *name).is_some_and(|name| name == "weight" || name.ends_with(".weight"));
        named && matches!(p.get(*value), Value::Host(Thing::Tensor(..)) | Value::Opaque(_))
    };
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut level = vec![(Vec::new(), p.root())];
    for _ in 0..DEEPEST {
        for (keys, dict) in std::mem::take(&mut level) {
            let Value::Dict(entries) = dict else { continue };
            if entries.iter().any(is_weight) {
                found.push(Place { keys, entries });
                continue;
            }
            for (key, value) in entries {
                let usable = |key: &&str| key.len() <= LONGEST && seen.insert(*value);
                let Some(key) = text(p, *key).filter(usable) else { continue };
                level.push(([&keys[..], &[key]].concat(), p.get(*value)));
            }
        }
    }
    found
}

/// The network's state dict in `p`, each tensor with its bytes from `storages`.
///
/// # Errors
/// None, or several that are equally likely; a storage that is missing.
pub fn state_dict(p: &Values, storages: &HashMap<String, Range<usize>>) -> Result<Found, TorchError> {
    let mut all = places(p);
    all.sort_by_key(Place::rank);
    let path = |place: &Place| place.keys.join(".");
    let (place, others) = all.split_first().ok_or_else(|| missing(p))?;
    if others.first().is_some_and(|second| second.rank() == place.rank()) {
        let why = format!("holds several state dicts, under {}: save the network's alone", some(all.iter().map(path)));
        return Err(TorchError::Content(why));
    }
    let count = place.entries.len();
    if count > MOST_ENTRIES {
        let why = format!("holds a state dict of {count} entries, and no network has more than {MOST_ENTRIES}: save it again");
        return Err(TorchError::Content(why));
    }
    let mut found = Found::default();
    for (name, value) in place.entries {
        let Some(name) = text(p, *name) else { continue };
        if name.len() > LONGEST {
            return Err(wrong("a tensor's name"));
        }
        match p.get(*value) {
            Value::Host(Thing::Tensor(key, tensor)) => {
                let bytes =
                    storages.get(key).ok_or_else(|| TorchError::Content(format!("{name}: its storage {key} is missing")))?;
                found.tensors.push((name.to_string(), Stored { bytes: bytes.clone(), ..tensor.clone() }));
            }
            Value::Opaque(kind) => found.others.push((name.to_string(), p.kinds()[*kind].clone())),
            _ => {}
        }
    }
    if !others.is_empty() {
        found.notes.push(format!(
            "took the state dict under {}; others are under {}",
            path(place),
            some(others.iter().map(path))
        ));
    }
    let kinds = p.kinds();
    if !kinds.is_empty() {
        let named = some(kinds.iter());
        let s = if kinds.len() == 1 { "" } else { "s" };
        found.notes.push(format!("left alone and not run, {} kind{s} of objects beside the weights: {named}", kinds.len()));
    }
    Ok(found)
}

/// What is there instead of a state dict.
fn missing(p: &Values) -> TorchError {
    let refused = |kind: usize| TorchError::Refused(p.kinds()[kind].clone());
    let entries = match p.root() {
        Value::Opaque(kind) => return refused(*kind),
        Value::Dict(entries) => entries,
        _ => {
            let why = "holds no state dict, a mapping of names to tensors. Save one: torch.save(model.state_dict(), FILE)";
            return TorchError::Content(why.into());
        }
    };
    if let Some(Value::Opaque(kind)) = USUAL.iter().find_map(|key| p.entry(p.root(), key)) {
        return refused(*kind);
    }
    let keys: Vec<&str> = entries.iter().filter_map(|(key, _)| text(p, *key)).collect();
    let keys = some(keys.into_iter());
    TorchError::Content(format!(
        "holds no state dict: its keys are {keys}, and under none is a mapping with tensors named NAME.weight"
    ))
}

/// Takes the wrappers' prefixes off the names, and with them leaves what stands beside the wrapped network.
pub fn unwrapped(mut found: Found) -> Found {
    while let Some(wrapper) = wrapper(&found) {
        let inside = |name: &str| Some(name.strip_prefix(wrapper)?.strip_prefix('.')?.to_string());
        let mut beside = Vec::new();
        let mut tensors = Vec::new();
        for (name, tensor) in std::mem::take(&mut found.tensors) {
            match inside(&name) {
                Some(short) => tensors.push((short, tensor)),
                None => beside.push(name),
            }
        }
        found.tensors = tensors;
        found.others = found.others.iter().filter_map(|(name, kind)| Some((inside(name)?, kind.clone()))).collect();
        if !beside.is_empty() {
            found.notes.push(format!("left alone, tensors that are not under {wrapper}: {}", some(beside.iter())));
        }
    }
    found
}

/// The wrapper whose prefix more of the names have than any other first part.
fn wrapper(found: &Found) -> Option<&'static str> {
    let mut parts: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, _) in &found.tensors {
        if let Some((first, _)) = name.split_once('.') {
            *parts.entry(first).or_default() += 1;
        }
    }
    let most = *parts.values().max()?;
    WRAPPERS.into_iter().find(|wrapper| parts.get(wrapper) == Some(&most))
}
