//! The images of a job: poisoned here, or by whoever made a folder of them.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use image::RgbImage;
use toml::{Table, Value};

use super::Global;
use super::flags::read_config;
use super::settings::{DESCRIBING, Settings};
use super::surrogate::NetworkSurrogate;
use crate::attacks::{self, ATTACKS, Blueprint, Help, Poisoned, TargetMode, contact_sheet, triggered_test};
use crate::data::{self, LoadOptions, Remarks, Spec, Splits, shown};
use crate::report::{POISON, POISON_SETTINGS, PoisonedFolder, RunFolder, SURROGATE};
use crate::train::Network;

/// The images, and what was made with them where they were poisoned here.
pub struct Inputs {
    pub images: PoisonedFolder,
    /// The label of the target class.
    pub target: u32,
    pub preview: Option<RgbImage>,
    /// The clean network that the attack was made with.
    pub surrogate: Option<Network>,
    /// How many images cannot be read and were left out.
    pub left_out: usize,
}

impl Inputs {
    /// `earlier`: a run that has begun, to poison as then.
    ///
    /// # Errors
    /// All that is wrong with the data or the attack.
    pub fn load(settings: &Settings, spec: &Spec, earlier: Option<&RunFolder>, global: &Global) -> Result<Inputs> {
        if let Some(dir) = &settings.poisoned {
            let options = LoadOptions { limit_per_class: None, skip_unreadable: false, ..settings.load_options() };
            let (images, remarks) = PoisonedFolder::read(dir, spec, &options, settings.target_mode, &settings.target)?;
            note(&remarks, images.poisoned.data.len() + images.test.len());
            let target = settings.target.label(&images.test.classes)?;
            return Ok(Inputs { images, target, preview: None, surrogate: None, left_out: 0 });
        }
        let Settings { target_mode: mode, seed, image_size: size, .. } = *settings;
        let entry = attacks::find(&settings.attack)?;
        let clean = noted(data::load(spec, &settings.load_options())?);
        let target = settings.target.label(&clean.train.classes)?;
        let options = settings.poison_options(target);
        options.check(&clean.train)?;
        let surrogate = if entry.needs_surrogate {
            let kept = earlier.map(|folder| folder.path(SURROGATE));
            let checkpoint = kept.as_deref().or(settings.surrogate.as_deref());
            Some(NetworkSurrogate::make(settings, &clean.train, checkpoint, global)?)
        } else {
            None
        };
        let help = surrogate.as_ref().map(|surrogate| Help { surrogate, clean: &clean.train, mode, target });
        let attack = entry.build(&Blueprint { size, seed, options: &settings.options, help })?;
        let poisoned = match earlier {
            Some(folder) => Poisoned::from_manifest(&clean.train, attack.as_ref(), seed, &folder.read(POISON)?)?,
            None => attacks::poison(&clean.train, attack.as_ref(), &options)?,
        };
        let triggered = triggered_test(&clean.test, attack.as_ref(), mode, target);
        drop(attack);
        let preview = Some(contact_sheet(&clean.train, &poisoned));
        let images = PoisonedFolder { poisoned, test: clean.test, triggered: Some(triggered) };
        let (surrogate, left_out) = (surrogate.map(|s| s.network), clean.remarks.left_out.len());
        Ok(Inputs { images, target, preview, surrogate, left_out })
    }
}

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
        eprintln!("left out {} of {of} images that cannot be read; the first: {}", left_out.len(), shown(first));
    }
    notices.iter().for_each(|notice| eprintln!("{notice}"));
}

/// Says which class is the target, once nothing is left to be refused.
pub(super) fn announce_target(label: u32, mode: TargetMode, classes: &[String]) {
    if let Some(class) = classes.get(label as usize).filter(|_| mode != TargetMode::AllToAll) {
        eprintln!("target: class {label}, `{class}`");
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
