//! Every setting of a job: its default, whether its value makes sense, and what the parts are told of it.
//!
//! A new setting is a field of the command line's `Flags`, a field of [`Protocol`] and its value in `defaults`; a test sees to it.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::Asked;
use super::channels::{Channels, decimal, normalisation};
use crate::attacks::{self, ATTACKS, AttackOptions, Draw, PoisonOptions, Target, TargetMode};
use crate::data::{Dataset, LoadOptions, Spec};
use crate::defenses::dau::{Border, DiscriminatorConfig, StageOneConfig, UnlearnConfig, UnlearnLoss};
use crate::gpu::Precision;
use crate::nn::{MODELS, ModelSpec};
use crate::train::{Normalisation, SgdConfig, TrainConfig};

/// Settings, beside an attack's options, that say how images are poisoned.
pub(crate) const POISONING: [&str; 7] = ["poisoned", "attack", "target_mode", "target", "poison_rate", "draw", "surrogate"];

/// Settings, beside an attack's options, that describe images which are poisoned already.
pub(crate) const DESCRIBING: [&str; 7] = ["dataset", "image_size", "attack", "target_mode", "target", "poison_rate", "draw"];

/// Every setting of a job, resolved.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Protocol {
    pub dataset: String,
    pub data: Option<PathBuf>,
    pub image_size: usize,
    pub limit_per_class: Option<usize>,
    #[serde(default)]
    pub skip_unreadable: bool,
    pub seed: u64,
    /// Images that are poisoned already; then the attack's name is only reported.
    pub poisoned: Option<PathBuf>,
    pub attack: String,
    /// The attack's options; it refuses what it does not know, and so any key that is no setting.
    #[serde(flatten)]
    pub options: AttackOptions,
    pub target_mode: TargetMode,
    pub target: Target,
    pub poison_rate: f64,
    pub draw: Draw,
    pub surrogate: Option<PathBuf>,
    pub model: String,
    pub width: usize,
    pub epochs: usize,
    pub batch: usize,
    pub lr: f64,
    /// Runs of versions that had but one do not say.
    #[serde(default)]
    pub precision: Precision,
    pub momentum: f64,
    pub weight_decay: f64,
    pub mean: Channels,
    pub std: Channels,
    pub crop_pad: u32,
    pub flip: bool,
    pub border: Border,
    pub prefilter_share: f64,
    pub rounds: usize,
    pub unlearn_loss: UnlearnLoss,
    pub unlearn_steps: usize,
    pub unlearn_lr: f64,
    pub unlearn_batch_clean: usize,
    pub unlearn_batch_poison: usize,
    pub unlearn_lambda: f64,
    /// Runs of versions that never did do not say.
    #[serde(default)]
    pub unlearn_restore: bool,
    pub out: PathBuf,
}

pub(crate) fn to_table(settings: &Protocol) -> Result<Table> {
    Table::try_from(settings).map_err(|e| anyhow!("{}", one_line(&e)))
}

pub(crate) fn one_line(e: &impl ToString) -> String {
    e.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Protocol {
    pub(crate) fn defaults(spec: &Spec) -> Protocol {
        Protocol {
            dataset: spec.name.clone(),
            data: None,
            image_size: spec.image_size,
            limit_per_class: None,
            skip_unreadable: false,
            seed: 0,
            poisoned: None,
            attack: ATTACKS[0].name.into(),
            options: AttackOptions::default(),
            target_mode: TargetMode::default(),
            target: Target::Label(0),
            poison_rate: 0.1,
            draw: Draw::All,
            surrogate: None,
            model: MODELS[0].name.into(),
            width: spec.train.width,
            epochs: spec.train.epochs,
            batch: spec.train.batch,
            lr: spec.train.lr,
            precision: Precision::F32,
            momentum: 0.9,
            weight_decay: decimal(spec.train.weight_decay),
            mean: spec.mean.into(),
            std: spec.std.into(),
            crop_pad: spec.crop_pad,
            flip: spec.flip,
            border: Border::default(),
            prefilter_share: 0.01,
            rounds: 4,
            unlearn_loss: UnlearnLoss::Cce,
            unlearn_steps: spec.unlearn.steps,
            unlearn_lr: spec.unlearn.lr,
            unlearn_batch_clean: spec.unlearn.batch_clean,
            unlearn_batch_poison: spec.unlearn.batch_poison,
            unlearn_lambda: 1.0,
            unlearn_restore: true,
            out: PathBuf::new(),
        }
    }

    /// `runs/cifar-10-badnets-0`.
    pub(crate) fn default_out(&self) -> PathBuf {
        let name = format!("{}-{}-{}", self.dataset, self.attack, self.seed).to_lowercase();
        Path::new("runs").join(name.replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
    }

    /// Reads settings back from a run's `run.toml`.
    ///
    /// # Errors
    /// A missing or unknown key, a value out of range.
    pub fn from_run(mut table: Table, path: &Path) -> Result<Protocol> {
        // Runs of versions that had but the dataset's normalisation do not say.
        if let Some(spec) = table.get("dataset").and_then(Value::as_str).and_then(|name| Spec::find(name).ok()) {
            let defaults = to_table(&Protocol::defaults(&spec))?;
            for (key, value) in defaults.into_iter().filter(|(key, _)| ["mean", "std"].contains(&key.as_str())) {
                table.entry(key).or_insert(value);
            }
        }
        let settings: Protocol =
            table.try_into().map_err(|e: toml::de::Error| anyhow!("{}: {}", path.display(), one_line(&e)))?;
        settings.check()?;
        Ok(settings)
    }

    /// Values that no part below checks: those would run, and mean nothing.
    pub(crate) fn check(&self) -> Result<()> {
        if self.poisoned.is_none() {
            let entry = attacks::find(&self.attack)?;
            entry.complete(&self.options)?;
            let useless = self.surrogate.is_some() && !entry.needs_surrogate;
            ensure!(!useless, "{} is made without a clean network: leave out --surrogate", entry.name);
        }
        let known: Vec<&str> = MODELS.iter().map(|m| m.name).collect();
        ensure!(known.contains(&self.model.as_str()), "unknown model `{}`; known are {}", self.model, known.join(", "));
        for (name, value) in [
            ("width", self.width),
            ("epochs", self.epochs),
            ("batch", self.batch),
            ("rounds", self.rounds),
            ("unlearn-steps", self.unlearn_steps),
            ("unlearn-batch-clean", self.unlearn_batch_clean),
            ("unlearn-batch-poison", self.unlearn_batch_poison),
        ] {
            ensure!(value > 0, "--{name} 0 does not do: give at least 1");
        }
        for (name, value) in [("lr", self.lr), ("unlearn-lr", self.unlearn_lr)] {
            ensure!(value.is_finite() && value > 0.0, "--{name} {value} does not do: give a number above 0");
        }
        for (name, value) in [("weight-decay", self.weight_decay), ("unlearn-lambda", self.unlearn_lambda)] {
            ensure!(value.is_finite() && value >= 0.0, "--{name} {value} does not do: give 0 or more");
        }
        self.normalisation()?;
        let momentum = self.momentum;
        ensure!((0.0..1.0).contains(&momentum), "--momentum {momentum} does not do: give a share from 0 to below 1");
        let share = self.prefilter_share;
        ensure!(share > 0.0 && share < 1.0, "--prefilter-share {share} does not do: give a share between 0 and 1");
        let rate = self.poison_rate;
        ensure!((0.0..=1.0).contains(&rate), "--poison-rate {rate} is outside 0..1: give a share of the images, .1 for 10 %");
        let (pad, size) = (self.crop_pad as usize, self.image_size);
        ensure!(pad < size.max(1), "--crop-pad {pad} does not do for images of {size} pixels: give less than that");
        Ok(())
    }

    /// How its images are loaded; `cache`: where decoded images are kept for the next start.
    pub fn load_options(&self, cache: Option<PathBuf>) -> LoadOptions {
        LoadOptions {
            dir: self.data.clone(),
            image_size: Some(self.image_size),
            limit_per_class: self.limit_per_class,
            seed: self.seed,
            skip_unreadable: self.skip_unreadable,
            train_only: false,
            cache,
        }
    }

    /// # Errors
    /// Numbers that do not normalise.
    pub fn normalisation(&self) -> Result<Normalisation> {
        normalisation(self.mean, self.std)
    }

    /// `target` is the label that [`Protocol::target`] stands for.
    pub fn poison_options(&self, target: u32) -> PoisonOptions {
        let (rate, mode, draw) = (self.poison_rate, self.target_mode, self.draw);
        PoisonOptions { rate, mode, target, seed: self.seed, draw }
    }

    /// Those that say how images were poisoned, for [`POISON_SETTINGS`].
    ///
    /// # Errors
    /// Settings that TOML cannot hold.
    pub fn poisoning(&self) -> Result<Table> {
        let mut table = to_table(self)?;
        table.retain(|key, _| DESCRIBING.contains(&key) || self.options.0.contains_key(key));
        Ok(table)
    }

    /// Those of a job that poisons nothing.
    ///
    /// # Errors
    /// Settings that TOML cannot hold.
    pub fn without_poisoning(&self) -> Result<Table> {
        let mut table = to_table(self)?;
        table.retain(|key, _| !(POISONING.contains(&key) || self.options.0.contains_key(key)));
        Ok(table)
    }

    pub fn model_spec(&self, data: &Dataset) -> ModelSpec {
        ModelSpec { name: self.model.clone(), width: self.width, classes: data.classes.len(), image_size: data.size }
    }

    pub fn train_config(&self) -> TrainConfig {
        let (epochs, batch, lr) = (self.epochs, self.batch, self.lr);
        TrainConfig { epochs, batch, lr, sgd: self.sgd(), seed: self.seed }
    }

    pub fn stage_one_config(&self) -> StageOneConfig {
        StageOneConfig {
            batch: self.batch,
            seed: self.seed,
            border: self.border,
            prefilter_share: self.prefilter_share,
            discriminator: DiscriminatorConfig { rounds: self.rounds, ..Default::default() },
        }
    }

    pub fn unlearn_config(&self) -> UnlearnConfig {
        UnlearnConfig {
            steps: self.unlearn_steps,
            lr: self.unlearn_lr,
            batch_clean: self.unlearn_batch_clean,
            batch_poison: self.unlearn_batch_poison,
            lambda: self.unlearn_lambda as f32,
            loss: self.unlearn_loss,
            restore: self.unlearn_restore,
            sgd: self.sgd(),
            seed: self.seed,
        }
    }

    fn sgd(&self) -> SgdConfig {
        SgdConfig {
            momentum: self.momentum as f32,
            nesterov: self.momentum > 0.0,
            weight_decay: self.weight_decay as f32,
            crop_pad: self.crop_pad,
            flip: self.flip,
        }
    }
}

impl Asked {
    /// What an experiment is asked, as far as its settings say it.
    ///
    /// # Errors
    /// Settings that TOML cannot hold.
    pub fn of(protocol: &Protocol) -> Result<Asked> {
        Ok(Asked { settings: to_table(protocol)?, ..Asked::default() })
    }
}
