//! What `defend`, `scan` and `unlearn` share: images of unknown provenance, and no ground truth.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use serde_json::Value;
use toml::toml;

use super::flags::Flags;
use super::inputs::{image_cache, noted};
use super::layers::resolve;
use super::{Global, print, print_json};
use crate::attacks::ATTACKS;
use crate::data::{self, DataError, Dataset, LoadOptions, Spec, Splits};
use crate::defenses::Defense;
use crate::defenses::dau::Dau;
use crate::experiment::Protocol;
use crate::experiment::evaluate::Count;
use crate::experiment::protocol::SIMULATING;
use crate::experiment::{Asked, RESULTS, Store};
use crate::kernel::Kernels;
use crate::nn::ModelSpec;
use crate::train::Network;

/// Settings for a folder of images, which nobody poisons here, and what is asked with them and what is `given` beside. Without `--out` the
/// run's folder is `prefix` and a code.
///
/// # Errors
/// As [`resolve`], or a setting of poisoning; a defense that gives no verdict.
pub(super) fn settings<const N: usize>(flags: &Flags, prefix: &str, given: [(&str, String); N]) -> Result<(Protocol, Asked)> {
    let resolved = resolve(&toml! { dataset = "folder" }, flags)?;
    let options = ATTACKS.iter().flat_map(|entry| entry.options).map(|option| option.name);
    let stray = SIMULATING.into_iter().chain(options).find(|key| resolved.given.contains_key(*key));
    ensure!(stray.is_none(), "nothing is poisoned here: leave out `{}`", stray.unwrap_or_default());
    let mut settings = resolved.protocol;
    let verdicts = Dau.name();
    ensure!(
        settings.defense == verdicts,
        "whether there is a backdoor is said in words of what {verdicts} looks for, and {} does not look for it: leave out `defense`, or \
         compare the two with `dau run`",
        settings.defense
    );
    let given = given.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    let mut asked = Asked { settings: settings.without_poisoning()?, given, force: flags.force };
    if !resolved.given.contains_key("out") {
        settings.out = asked.own_folder(Path::new(prefix));
        asked.settings = settings.without_poisoning()?;
    }
    Ok((settings, asked))
}

/// Loads the images, the training images alone if nothing is tested; a data set that is built in lends a folder given with `--data` its
/// settings.
///
/// # Errors
/// See [`data::load`].
pub(super) fn load(settings: &Protocol, train_only: bool) -> Result<Splits> {
    let spec = Spec::find(&settings.dataset)?;
    let options = LoadOptions { train_only, ..settings.load_options(image_cache()) };
    match (data::load(&spec, &options), &settings.data) {
        (Err(DataError::TakesNoDir { .. }), Some(dir)) => Ok(noted(data::load_folder(&spec, dir, &options)?)),
        (loaded, _) => Ok(noted(loaded?)),
    }
}

/// Refuses images that `network`, which lies in `checkpoint`, does not take: of another size or of other classes.
///
/// # Errors
/// Both sizes, or the tensor that differs with both shapes.
pub(super) fn fits(kernels: &Kernels, network: &Network, checkpoint: &Path, data: &Dataset) -> Result<()> {
    let (have, want) = (data.size, network.spec.image_size);
    ensure!(have == want, "{} takes images of {want} pixels, not {have}: drop --image-size", checkpoint.display());
    if data.classes.len() != network.spec.classes {
        Network::load_as(kernels, checkpoint, &ModelSpec { classes: data.classes.len(), ..network.spec.clone() })?;
    }
    Ok(())
}

/// Refuses an output folder that holds an input: a run folder is emptied before it is written.
///
/// # Errors
/// Both places.
pub(super) fn keep_apart(input: &Path, out: &Path) -> Result<()> {
    let inside = match (input.canonicalize(), out.canonicalize()) {
        (Ok(input), Ok(out)) => input.starts_with(out),
        _ => false,
    };
    ensure!(!inside, "--out {} holds {}, which is needed: choose another --out", out.display(), input.display());
    Ok(())
}

/// Where the images lie, for paths below it.
pub(super) fn root(settings: &Protocol) -> &Path {
    settings.data.as_deref().unwrap_or(Path::new(""))
}

/// A count as `results.json` has it: percent, and what it is a share of.
pub(super) fn share(count: Count) -> serde_json::Value {
    serde_json::json!({"acc": count.percent(), "counts": {"acc": [count.hits, count.of]}})
}

/// What a file is known by: its path and a checksum of what it holds.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn known_by(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| anyhow!("cannot read {}: {e}", path.display()))?;
    Ok(format!("{} ({:08x})", path.display(), crc32fast::hash(&bytes)))
}

/// Shows what a run that has ended here found; whether there is one.
///
/// # Errors
/// A file that is missing or damaged, a stdout that refuses.
pub(super) fn shown_again(store: &Store, global: &Global) -> Result<bool> {
    if store.has(RESULTS) {
        let results: Value = store.read_json(RESULTS)?;
        show(results["words"].as_str().unwrap_or_default(), &results, store, global)?;
    }
    Ok(store.has(RESULTS))
}

/// Words on stdout, or JSON there and the words on stderr; then where the files are.
pub(super) fn show(words: &str, results: &Value, store: &Store, global: &Global) -> Result<()> {
    if global.json {
        say!("{}", words.trim_end());
        print_json(results)?;
    } else {
        print(words)?;
    }
    say!("done; files: {}", store.root().display());
    Ok(())
}
