//! What is said of images when they are loaded; what a folder of poisoned images says of itself.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use toml::{Table, Value};

use super::flags::read_config;
use crate::attacks::{ATTACKS, Aim};
use crate::data::{Remarks, Spec, Splits, shown};
use crate::experiment::POISON_SETTINGS;
use crate::experiment::protocol::DESCRIBING;

/// Where decoded images are kept for the next start.
pub(super) fn image_cache() -> Option<PathBuf> {
    dirs::cache_dir().map(|folder| folder.join("dau/images"))
}

/// Says what was left out of the images.
pub(super) fn noted(splits: Splits) -> Splits {
    note(&splits.remarks, splits.train.len() + splits.test.len());
    splits
}

/// Says what was left out beside the images that were `kept`, and where else some of these lie.
pub(super) fn note(Remarks { left_out, notices }: &Remarks, kept: usize) {
    if let Some(first) = left_out.first() {
        let of = kept + left_out.len();
        say!("left out {} of {of} images that cannot be read; the first: {}", left_out.len(), shown(first));
        left_out.iter().skip(1).for_each(|other| log::info!("left out: {}", shown(other)));
    }
    notices.iter().for_each(|notice| say!("{notice}"));
}

/// Says which class is the target, and of which class alone, once nothing is left to be refused.
pub(super) fn announce_target(aim: &Aim, classes: &[String]) {
    let say = |what: &str, label: u32| {
        if let Some(class) = classes.get(label as usize) {
            say!("{what}: class {label}, `{class}`");
        }
    };
    if let Some(source) = &aim.source {
        say("source", source.class);
    }
    if aim.mode.has_target() {
        say("target", aim.target);
    }
}

/// What `dau poison` recorded of the images in `dir`, if it made them: the settings that say how they were poisoned.
///
/// # Errors
/// A record that cannot be read; a setting that says otherwise, or a flag for a poisoning that will not take place.
pub(super) fn poisoned_as(dir: &Path, given: &Table, flags: &Table) -> Result<Table> {
    let path = dir.join(POISON_SETTINGS);
    let recorded = if path.is_file() { read_config(&path)? } else { Table::new() };
    let options = ATTACKS.iter().flat_map(|entry| entry.options).map(|option| option.name);
    let describes = |key: &str| DESCRIBING.contains(&key) || options.clone().any(|name| name == key);
    let stray = recorded.keys().find(|key| !describes(key));
    ensure!(
        stray.is_none(),
        "{}: `{}` says nothing of how the images were poisoned: remove it there, and give it yourself if you want it",
        path.display(),
        stray.map_or("", String::as_str)
    );
    let useless =
        ["data", "limit_per_class", "skip_unreadable", "poison_rate", "draw", "surrogate"].into_iter().chain(options.clone());
    let contradicting = recorded.keys().filter_map(|key| given.get(key).map(|value| (key.as_str(), value)));
    for (key, value) in contradicting.chain(useless.filter_map(|key| flags.get(key).map(|value| (key, value)))) {
        let is = recorded.get(key);
        let same_word = |a: &str, b: &str| a.eq_ignore_ascii_case(b) || Spec::find(a).is_ok_and(|spec| spec.name == b);
        let same = match (value, is) {
            (Value::String(value), Some(Value::String(is))) => same_word(value, is),
            _ => is == Some(value),
        };
        let is = is.map_or(String::new(), |is| format!(" with {key} = {is}"));
        ensure!(
            same,
            "the images of {} are poisoned already{is}: leave out {key} = {value}, or `dau poison` others",
            dir.display()
        );
    }
    Ok(recorded)
}
