//! What can be given: flags, and the same names as keys of a configuration file.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail, ensure};
use clap::Args;
use serde::Serialize;
use serde::de::{DeserializeOwned, IntoDeserializer};
use toml::Table;

use super::attack_flags::AttackFlags;
use super::declared_flags::{DeclaredFlags, DetectOptions, PurifyOptions, TrainingOptions};
use crate::attacks::Draw;
use crate::defenses::DEFENSES;
use crate::experiment::Channels;
use crate::experiment::protocol::ALSO;
use crate::gpu::Precision;

/// The table of `run.toml` that is no setting; a run folder's `run.toml` can be given as `--config`.
const NO_SETTING: &str = "run";

/// Headings in `--help`, beside those of the stages.
pub(super) const ATTACK: &str = "Attack";
const DEFENSE: &str = "Defense";
const DATA: &str = "Data";
pub(super) const TRAINING: &str = "Training (a data set may have other defaults)";
pub(super) const OUTPUT: &str = "Output";

/// Which images.
#[derive(Args, Serialize, Clone, Debug, Default)]
#[command(next_help_heading = DATA)]
pub struct DataFlags {
    /// digits, CIFAR-10, CIFAR-100, GTSRB, Tiny-ImageNet or folder [default: digits; of defend, scan and unlearn: folder]
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
    /// Where the dataset lies
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Resize images to so many pixels a side
    #[arg(long, value_name = "PIXELS", value_parser = whole)]
    pub image_size: Option<usize>,
    /// Go on without image files that cannot be read
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skip_unreadable: bool,
    /// Keep at most so many training images of each class
    #[arg(long, value_name = "N", value_parser = whole)]
    pub limit_per_class: Option<usize>,
    /// Of everything random [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=LARGEST))]
    pub seed: Option<u64>,
}

/// What is poisoned, and how.
#[derive(Args, Serialize, Clone, Debug, Default)]
#[command(next_help_heading = ATTACK)]
pub struct PoisonFlags {
    #[command(flatten)]
    #[serde(flatten)]
    pub attack: AttackFlags,
    /// Share of the training images to poison, 0..1 [default: 0.1]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub poison_rate: Option<f64>,
    /// All-to-one: poison images of all classes, or of the non-target ones: all or non-target [default: all]
    #[arg(long, value_name = "FROM", value_parser = word::<Draw>)]
    pub draw: Option<Draw>,
    /// Checkpoint of a clean network, for attacks made with its gradients [default: one is trained on the clean data]
    #[arg(long, value_name = "FILE")]
    pub surrogate: Option<PathBuf>,
}

/// Everything that can be set on the command line; what is not given is left to the layers below.
#[derive(Args, Serialize, Clone, Debug, Default)]
pub struct Flags {
    /// Settings from a TOML file with these flags' names as keys
    #[arg(long, value_name = "FILE.toml", help_heading = "Settings")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    pub data: DataFlags,
    #[command(flatten)]
    #[serde(flatten)]
    pub poison: PoisonFlags,
    /// Images that are poisoned already, a folder as `dau poison` writes it: nothing is poisoned then
    #[arg(long, value_name = "DIR", help_heading = ATTACK)]
    pub poisoned: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    pub training: TrainingFlags,
    #[arg(long, value_name = "NAME", help = defenses(), help_heading = DEFENSE)]
    pub defense: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    pub detect: DeclaredFlags<DetectOptions>,
    #[command(flatten)]
    #[serde(flatten)]
    pub purify: DeclaredFlags<PurifyOptions>,
    /// For measuring how a defense bears poor filtering: this share of the flagged images changes places with images that are not flagged,
    /// before a clean network is made [default: 0]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, help_heading = DEFENSE)]
    pub corrupt_split: Option<f64>,
    /// Run folder; a run that was stopped there goes on [default: runs/DATASET-ATTACK-SEED, and of `run` a code for its settings]
    #[arg(long, value_name = "DIR", help_heading = OUTPUT)]
    pub out: Option<PathBuf>,
    /// Begin anew where the folder holds a run; the old folder is kept beside it
    #[arg(long, help_heading = OUTPUT)]
    #[serde(skip)]
    pub force: bool,
}

/// Which network, and how it is trained.
#[derive(Args, Serialize, Clone, Debug, Default)]
#[command(next_help_heading = TRAINING)]
pub struct TrainingFlags {
    /// Network: resnet18, resnet34, preact-resnet18, wrn-16, wrn-28 or wrn-40 [default: resnet18]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    pub options: DeclaredFlags<TrainingOptions>,
    /// f32, or on matrix units, where the adapter has them: mixed multiplies in f16 in convolutions, split in pairs of f16, about as precise as f32 [default: f32]
    #[arg(long, value_name = "NAME", value_parser = word::<Precision>)]
    pub precision: Option<Precision>,
    /// Normalisation: mean of pixels in 0..1, a number or one each for red, green, blue [default: the dataset's; 0 for none]
    #[arg(long, value_name = "MEAN", value_parser = word::<Channels>, allow_negative_numbers = true)]
    pub mean: Option<Channels>,
    /// Normalisation: standard deviation of pixels in 0..1, a number or three [default: the dataset's; 1 for none]
    #[arg(long, value_name = "STD", value_parser = word::<Channels>, allow_negative_numbers = true)]
    pub std: Option<Channels>,
}

/// `--defense`'s help.
fn defenses() -> String {
    let each: Vec<String> = DEFENSES.iter().map(|defense| format!("{}: {}", defense.name(), defense.summary())).collect();
    format!("{} [default: {}]", each.join("; "), DEFENSES[0].name())
}

/// The keys that a configuration file may have: the flags' names, and the list of further attacks, which no flag describes.
pub(super) fn known_keys() -> Vec<String> {
    let command = Flags::augment_args(clap::Command::new("keys"));
    command
        .get_arguments()
        .map(|arg| arg.get_id().to_string())
        .filter(|key| !["config", "force"].contains(&key.as_str()))
        .chain([ALSO.to_string()])
        .collect()
}

pub(super) fn read_config(path: &Path) -> Result<Table> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| anyhow!("cannot read {shown}: {e}"))?;
    let table: Table = toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        anyhow!("{shown}, line {line}: {}", e.message())
    })?;
    let known = known_keys();
    let mut config = Table::new();
    for (key, value) in table {
        if key == NO_SETTING && value.is_table() {
            continue;
        }
        let name = known_as(&key, &known).map_err(|e| anyhow!("{shown}: {e}"))?;
        ensure!(config.insert(name.clone(), value).is_none(), "{shown}: `{name}` is given twice");
    }
    Ok(config)
}

/// How near a known key must be to be named: `epoch` is near `epochs`, `json` is near nothing.
const NEAR: f64 = 0.8;

/// A key in the settings' spelling.
///
/// # Errors
/// A key that is none of `known`, with the nearest one.
pub(super) fn known_as(key: &str, known: &[String]) -> Result<String> {
    let name = key.replace('-', "_");
    if known.contains(&name) {
        return Ok(name);
    }
    let near = known.iter().map(|known| (strsim::jaro_winkler(&name, known), known)).filter(|(near, _)| *near >= NEAR);
    match near.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((_, nearest)) => bail!("unknown key `{key}`; the nearest known one is `{nearest}`"),
        None => bail!("unknown key `{key}`; keys are the flags of `dau run --help`, with `_` for `-`"),
    }
}

/// The largest whole number that a configuration file can hold.
const LARGEST: u64 = i64::MAX as u64;

/// Parses a whole number that a configuration file can hold.
fn whole(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| format!("`{text}` is no whole number from 0 to {LARGEST}"))?;
    if number as u64 > LARGEST { Err(format!("{number} is above {LARGEST}")) } else { Ok(number) }
}

/// Parses a flag's value as serde does in a file: one spelling for both.
pub(super) fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let parsed: Result<T, serde::de::value::Error> = T::deserialize(text.into_deserializer());
    parsed.map_err(|e| e.to_string())
}
