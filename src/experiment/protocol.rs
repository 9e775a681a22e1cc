//! Every setting of a job: its default, whether its value makes sense, and what the parts are told of it.
//!
//! A setting of training, of an attack or of a defense is declared where it belongs, as an option (`training.rs`, `attacks`, `defenses`). Any other is a
//! field of the command line's `Flags`, a field of [`Protocol`] and its value in `defaults`; a test sees to it.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::channels::{Channels, normalisation};
use super::training::{BATCH, CROP_PAD, EPOCHS, FLIP, LR, MOMENTUM, RESERVE, TRAINING_OPTIONS, WEIGHT_DECAY, WIDTH};
use super::{Asked, AttackPlan, EVIDENCE, SPLIT, TRAIN};
use crate::attacks::{ATTACKS, Draw, Target, TargetMode};
use crate::data::{DataError, Dataset, LoadOptions, Spec};
use crate::defenses::{self, DEFENSES, Defense, options_of};
use crate::gpu::Precision;
use crate::nn::{MODELS, ModelSpec};
use crate::ops::LossKind;
use crate::options::Options;
use crate::train::{Normalisation, SgdConfig, TrainConfig};

/// Settings, beside an attack's options, of a simulation: how images are poisoned, and how a verdict is made worse.
pub(crate) const SIMULATING: [&str; 9] =
    ["poisoned", "attack", "target_mode", "target", "poison_rate", "draw", ALSO, "surrogate", CORRUPT_SPLIT];

/// Further attacks on the same set.
pub(crate) const ALSO: &str = "also";

/// What a network that is trained on all images has nothing to do with.
pub(crate) const CORRUPT_SPLIT: &str = "corrupt_split";

/// Settings, beside an attack's options, that describe images which are poisoned already.
pub(crate) const DESCRIBING: [&str; 8] =
    ["dataset", "image_size", "attack", "target_mode", "target", "poison_rate", "draw", ALSO];

/// Share of the training images that an attack poisons unless another is chosen: BackdoorBench's.
pub(super) const RATE: f64 = 0.1;

/// Share of the training images that is set aside for a defense that needs clean ones, unless another is chosen: BackdoorBench's.
pub(crate) const RESERVED: f64 = 0.05;

/// Every setting of a job, resolved.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Protocol {
    /// The data set, by name.
    pub dataset: String,
    /// Where it lies.
    pub data: Option<PathBuf>,
    /// Height and width that images are resized to, pixels.
    pub image_size: usize,
    /// At most so many training images of a class.
    pub limit_per_class: Option<usize>,
    /// Leave out image files that cannot be read.
    #[serde(default)]
    pub skip_unreadable: bool,
    /// Of everything random.
    pub seed: u64,
    /// Images that are poisoned already; then the attack's name is only reported.
    pub poisoned: Option<PathBuf>,
    /// The attack, by name.
    pub attack: String,
    /// Training's options, the attack's and the defense's; they refuse what none knows, and so any key that is no setting.
    #[serde(flatten)]
    pub options: Options,
    /// What triggered images are to be taken for.
    pub target_mode: TargetMode,
    /// The class that they are to be taken for.
    pub target: Target,
    /// Share of the training images to poison, 0 to 1.
    pub poison_rate: f64,
    /// Whose images are poisoned.
    pub draw: Draw,
    /// Attacks on the same set beside that one, each on images that those before it left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<AttackPlan>,
    /// Checkpoint of a clean network, for attacks made with its gradients.
    pub surrogate: Option<PathBuf>,
    /// The architecture, by name.
    pub model: String,
    /// Runs of versions that had but one do not say.
    #[serde(default)]
    pub precision: Precision,
    /// Of pixels in 0..1, subtracted before the network sees them.
    pub mean: Channels,
    /// Of pixels in 0..1, divided by.
    pub std: Channels,
    /// The defense, by name.
    pub defense: String,
    /// Share of the flagged images that change places with images that are not flagged, before a clean network is made: for measuring.
    #[serde(default)]
    pub corrupt_split: f64,
    /// The run folder.
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
            options: spec.options.clone(),
            target_mode: TargetMode::default(),
            target: Target::Label(0),
            poison_rate: RATE,
            draw: Draw::All,
            also: Vec::new(),
            surrogate: None,
            model: MODELS[0].name.into(),
            precision: Precision::F32,
            mean: spec.mean.into(),
            std: spec.std.into(),
            defense: DEFENSES[0].name().into(),
            corrupt_split: 0.0,
            out: PathBuf::new(),
        }
    }

    /// `runs/cifar-10-badnets-0`.
    pub(crate) fn default_out(&self) -> PathBuf {
        let attacks: Vec<&str> =
            std::iter::once(&self.attack).chain(self.also.iter().map(|a| &a.attack)).map(String::as_str).collect();
        let name = format!("{}-{}-{}", self.dataset, attacks.join("-"), self.seed).to_lowercase();
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
        settings.check().map_err(|e| anyhow!("{}: {e}", path.display()))?;
        Ok(settings)
    }

    /// Values that no part below checks: those would run, and mean nothing.
    pub(crate) fn check(&self) -> Result<()> {
        if self.poisoned.is_none() {
            self.attacks().iter().try_for_each(AttackPlan::check)?;
            let useless = self.surrogate.is_some() && !self.needs_surrogate()?;
            ensure!(!useless, "{} is made without a clean network: leave out --surrogate", self.attack);
        }
        let defense = self.defense()?;
        self.defense_options().complete(defense.name(), options_of(defense))?;
        let known: Vec<&str> = MODELS.iter().map(|m| m.name).collect();
        ensure!(known.contains(&self.model.as_str()), "unknown model `{}`; known are {}", self.model, known.join(", "));
        self.training_options().complete("training", TRAINING_OPTIONS)?;
        ModelSpec::new(&self.model, self.options.count(&WIDTH), 1, self.image_size).checked()?;
        let needy = self.reserve() == 0.0 && self.poisoned.is_none() && defense.needs_clean();
        ensure!(!needy, "{} needs images that are surely clean: give --reserve a share above 0", defense.name());
        self.normalisation()?;
        ensure!(self.limit_per_class != Some(0), "{}", DataError::NoImagesKept);
        let corrupt = self.corrupt_split;
        let useless = corrupt > 0.0 && !defense.detects();
        ensure!(!useless, "{} flags no images, so that --corrupt-split has nothing to change: leave it out", defense.name());
        ensure!((0.0..=1.0).contains(&corrupt), "--corrupt-split {corrupt} is outside 0..1: give a share of the flagged images");
        let (pad, size) = (self.options.count(&CROP_PAD), self.image_size);
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

    /// The attacks, in the order in which they choose their images.
    pub fn attacks(&self) -> Vec<AttackPlan> {
        let Protocol { ref attack, target_mode, ref target, poison_rate, draw, .. } = *self;
        let (attack, options, target) = (attack.clone(), self.attack_options(), target.clone());
        let first = AttackPlan { attack, options, target_mode, target, poison_rate, draw };
        std::iter::once(first).chain(self.also.iter().cloned()).collect()
    }

    /// Whether an attack is made with a clean network's gradients.
    ///
    /// # Errors
    /// An attack that is unknown.
    pub fn needs_surrogate(&self) -> Result<bool> {
        let each: Vec<bool> = self.attacks().iter().map(|plan| Ok(plan.entry()?.needs_surrogate)).collect::<Result<_>>()?;
        Ok(each.contains(&true))
    }

    /// Those that say how images were poisoned, for [`POISON_SETTINGS`].
    ///
    /// # Errors
    /// Settings that TOML cannot hold.
    pub fn poisoning(&self) -> Result<Table> {
        let mut table = to_table(self)?;
        let options = self.attack_options();
        table.retain(|key, _| DESCRIBING.contains(&key) || options.0.contains_key(key));
        Ok(table)
    }

    /// Those of a job that poisons nothing.
    ///
    /// # Errors
    /// Settings that TOML cannot hold.
    pub fn without_poisoning(&self) -> Result<Table> {
        let mut table = to_table(self)?;
        let options = self.attack_options();
        table.retain(|key, _| !(SIMULATING.contains(&key) || options.0.contains_key(key)));
        Ok(table)
    }

    /// The network for these images.
    pub fn model_spec(&self, data: &Dataset) -> ModelSpec {
        ModelSpec::new(&self.model, self.options.count(&WIDTH), data.classes.len(), data.size)
    }

    /// The training of the network that is attacked.
    pub fn train_config(&self) -> TrainConfig {
        TrainConfig {
            stage: TRAIN.into(),
            loss: LossKind::CrossEntropy,
            epochs: self.options.count(&EPOCHS),
            batch: self.batch(),
            lr: self.options.number(&LR),
            sgd: self.sgd(),
            learns: vec![],
            rho: 0.0,
            seed: self.seed,
        }
    }

    /// Share of the training images that is set aside before any is poisoned.
    pub fn reserve(&self) -> f64 {
        self.options.number(&RESERVE)
    }

    /// Images a training step.
    pub fn batch(&self) -> usize {
        self.options.count(&BATCH)
    }

    /// # Errors
    /// A name that is unknown.
    pub fn defense(&self) -> Result<&'static dyn Defense> {
        Ok(defenses::find(&self.defense)?)
    }

    /// The file that its first stage ends with: the split, where the defense makes one.
    ///
    /// # Errors
    /// A defense that is unknown.
    pub fn end_of_stage_one(&self) -> Result<&'static str> {
        Ok(if self.defense()?.detects() { SPLIT } else { EVIDENCE })
    }

    /// Those of the options that are training's.
    pub fn training_options(&self) -> Options {
        self.options_that(|name| TRAINING_OPTIONS.iter().any(|option| option.name == name))
    }

    /// Those of the options that a defense declares.
    pub fn defense_options(&self) -> Options {
        self.options_that(|name| DEFENSES.iter().any(|defense| options_of(*defense).any(|option| option.name == name)))
    }

    /// The others: the attack's.
    pub fn attack_options(&self) -> Options {
        let [training, defense] = [self.training_options(), self.defense_options()];
        self.options_that(|name| !training.0.contains_key(name) && !defense.0.contains_key(name))
    }

    fn options_that(&self, which: impl Fn(&str) -> bool) -> Options {
        Options(self.options.0.iter().filter(|(name, _)| which(name)).map(|(n, v)| (n.clone(), v.clone())).collect())
    }

    fn sgd(&self) -> SgdConfig {
        let momentum = self.options.number(&MOMENTUM) as f32;
        SgdConfig {
            momentum,
            nesterov: momentum > 0.0,
            weight_decay: self.options.number(&WEIGHT_DECAY) as f32,
            crop_pad: self.options.count(&CROP_PAD) as u32,
            flip: self.options.flag(&FLIP),
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
