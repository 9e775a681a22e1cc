//! Every setting of a job, in layers: the dataset's defaults, `--config FILE.toml`, flags. The later layer wins.
//!
//! A new setting is a field of [`Flags`], a field of [`Settings`] and its value in `defaults`; a test sees to it.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::flags::{Flags, read_config};
use super::inputs::poisoned_as;
use crate::attacks::{self, ATTACKS, AttackOptions, Draw, PoisonOptions, TargetMode};
use crate::data::{LoadOptions, Spec};
use crate::defenses::dau::{AntiLearnConfig, DiscriminatorConfig, Prefilter, UnlearnConfig, UnlearnLoss};
use crate::gpu::Precision;
use crate::nn::MODELS;
use crate::train::{SgdConfig, TrainConfig};

/// Every setting of a job, resolved.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Settings {
    pub dataset: String,
    pub data: Option<PathBuf>,
    pub image_size: usize,
    pub limit_per_class: Option<usize>,
    pub seed: u64,
    /// Images that are poisoned already; then the attack's name is only reported.
    pub poisoned: Option<PathBuf>,
    pub attack: String,
    /// The attack's options; it refuses what it does not know, and so any key that is no setting.
    #[serde(flatten)]
    pub options: AttackOptions,
    pub target_mode: TargetMode,
    pub target: u32,
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
    pub crop_pad: u32,
    pub flip: bool,
    pub prefilter: Prefilter,
    pub prefilter_share: f64,
    pub burn_in: f64,
    pub rounds: usize,
    pub within_class: bool,
    pub unlearn_loss: UnlearnLoss,
    pub unlearn_steps: usize,
    pub unlearn_lr: f64,
    pub unlearn_batch_clean: usize,
    pub unlearn_batch_poison: usize,
    pub unlearn_lambda: f64,
    pub out: PathBuf,
}

/// Settings, and which of them the user gave.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub settings: Settings,
    /// What the file and the flags say, in the settings' spelling.
    pub given: Table,
}

/// Lays the dataset's defaults, `preset`, the configuration file and the flags over each other.
///
/// # Errors
/// A file that cannot be read, an unknown key or name, a value of the wrong type or out of range.
pub fn resolve(preset: &Table, flags: &Flags) -> Result<Resolved> {
    let mut given = preset.clone();
    let mut source = "the command line".to_string();
    if let Some(path) = &flags.config {
        given.extend(read_config(path)?);
        source = path.display().to_string();
    }
    let flags = Table::try_from(flags).map_err(|e| anyhow!("{}", one_line(&e)))?;
    given.extend(flags.clone());
    let poisoned = given.get("poisoned").and_then(Value::as_str).map(PathBuf::from);
    if let Some(dir) = &poisoned {
        let recorded = poisoned_as(dir, &given, &flags)?;
        given.extend(recorded);
    }

    let spec = match given.get("dataset") {
        Some(Value::String(name)) => Spec::find(name)?,
        Some(other) => bail!("{source}: dataset must be a name, got {other}"),
        None => Spec::find(Spec::names()[0])?,
    };
    if given.contains_key("dataset") {
        given.insert("dataset".into(), spec.name.clone().into());
    }

    let mut all = to_table(&Settings::defaults(&spec))?;
    all.extend(given.clone());
    let mut settings: Settings = all.try_into().map_err(|e: toml::de::Error| anyhow!("{source}: {}", one_line(&e)))?;
    match attacks::find(&settings.attack) {
        Ok(entry) => {
            settings.attack = entry.name.into();
            settings.options = entry.complete(&settings.options)?;
            if !given.contains_key("target_mode") {
                settings.target_mode = entry.mode;
            }
        }
        // Another tool's images may be of an attack that we do not know.
        Err(_) if poisoned.is_some() => {}
        Err(unknown) => return Err(unknown.into()),
    }
    // The data set's width is in channels.
    if let (false, Some(model)) = (given.contains_key("width"), MODELS.iter().find(|m| m.name == settings.model)) {
        settings.width = (settings.width / model.unit).max(1);
    }
    if !given.contains_key("out") {
        settings.out = settings.default_out();
    }
    settings.check()?;
    // As `Settings` spells them: `lr = 1` becomes 1.0.
    let spelled = to_table(&settings)?;
    for (key, value) in given.iter_mut() {
        if let Some(spelled) = spelled.get(key) {
            *value = spelled.clone();
        }
    }
    Ok(Resolved { settings, given })
}

/// Refuses what was given now if it is not what a run began with; `out` may differ, for a folder may be moved.
///
/// # Errors
/// The first setting that differs, with both values.
pub fn agree(given: &Table, began_with: &Settings, folder: &Path) -> Result<()> {
    let stored = to_table(began_with)?;
    let shown = |value: Option<&Value>| value.map_or("nothing".to_string(), Value::to_string);
    match given.iter().find(|(key, value)| *key != "out" && stored.get(*key) != Some(value)) {
        Some((key, value)) => bail!(
            "this run began with {key} = {}, the command says {key} = {value}: leave it out, or begin again in another folder \
             than {} (--out)",
            shown(stored.get(key)),
            folder.display()
        ),
        None => Ok(()),
    }
}

fn to_table(settings: &Settings) -> Result<Table> {
    Table::try_from(settings).map_err(|e| anyhow!("{}", one_line(&e)))
}

fn one_line(e: &impl ToString) -> String {
    e.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `x` as it was written: 0.1 for 0.1f32, not 0.10000000149.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

impl Settings {
    fn defaults(spec: &Spec) -> Settings {
        Settings {
            dataset: spec.name.clone(),
            data: None,
            image_size: spec.image_size,
            limit_per_class: None,
            seed: 0,
            poisoned: None,
            attack: ATTACKS[0].name.into(),
            options: AttackOptions::default(),
            target_mode: TargetMode::default(),
            target: 0,
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
            crop_pad: spec.crop_pad,
            flip: spec.flip,
            prefilter: Prefilter::Ridge,
            prefilter_share: 0.01,
            burn_in: 0.4,
            rounds: 4,
            within_class: true,
            unlearn_loss: UnlearnLoss::Cce,
            unlearn_steps: spec.unlearn.steps,
            unlearn_lr: spec.unlearn.lr,
            unlearn_batch_clean: spec.unlearn.batch_clean,
            unlearn_batch_poison: spec.unlearn.batch_poison,
            unlearn_lambda: 1.0,
            out: PathBuf::new(),
        }
    }

    /// `runs/cifar-10-badnets-0`.
    fn default_out(&self) -> PathBuf {
        let name = format!("{}-{}-{}", self.dataset, self.attack, self.seed).to_lowercase();
        Path::new("runs").join(name.replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
    }

    /// Reads settings back from a run's `run.toml`.
    ///
    /// # Errors
    /// A missing or unknown key, a value out of range.
    pub fn from_run(table: Table, path: &Path) -> Result<Settings> {
        let settings: Settings =
            table.try_into().map_err(|e: toml::de::Error| anyhow!("{}: {}", path.display(), one_line(&e)))?;
        settings.check()?;
        Ok(settings)
    }

    /// Values that no part below checks: those would run, and mean nothing.
    fn check(&self) -> Result<()> {
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
        for (name, value) in [("momentum", self.momentum), ("burn-in", self.burn_in)] {
            ensure!((0.0..1.0).contains(&value), "--{name} {value} does not do: give a share from 0 to below 1");
        }
        let share = self.prefilter_share;
        ensure!(share > 0.0 && share < 1.0, "--prefilter-share {share} does not do: give a share between 0 and 1");
        let rate = self.poison_rate;
        ensure!((0.0..=1.0).contains(&rate), "--poison-rate {rate} is outside 0..1: give a share of the images, .1 for 10 %");
        let (pad, size) = (self.crop_pad as usize, self.image_size);
        ensure!(pad < size.max(1), "--crop-pad {pad} does not do for images of {size} pixels: give less than that");
        Ok(())
    }

    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            dir: self.data.clone(),
            image_size: Some(self.image_size),
            limit_per_class: self.limit_per_class,
            seed: self.seed,
        }
    }

    pub fn poison_options(&self) -> PoisonOptions {
        let (rate, mode, draw) = (self.poison_rate, self.target_mode, self.draw);
        PoisonOptions { rate, mode, target: self.target, seed: self.seed, draw }
    }

    /// Those that say how images were poisoned, for [`POISON_SETTINGS`].
    ///
    /// # Errors
    /// Settings that TOML cannot hold.
    pub fn poisoning(&self) -> Result<Table> {
        const KEYS: [&str; 7] = ["dataset", "image_size", "attack", "target_mode", "target", "poison_rate", "draw"];
        let mut table = to_table(self)?;
        table.retain(|key, _| KEYS.contains(&key) || self.options.0.contains_key(key));
        Ok(table)
    }

    pub fn anti_learn_config(&self) -> AntiLearnConfig {
        let (epochs, batch, lr) = (self.epochs, self.batch, self.lr);
        AntiLearnConfig {
            train: TrainConfig { epochs, batch, lr, sgd: self.sgd(), seed: self.seed },
            prefilter: self.prefilter,
            prefilter_share: self.prefilter_share,
            burn_in: self.burn_in,
            discriminator: DiscriminatorConfig { rounds: self.rounds, ..Default::default() },
            within_class: self.within_class,
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::flags::known_keys;
    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(args: &[&str]) -> Flags {
        Line::try_parse_from(std::iter::once(&"dau").chain(args)).expect("parsed").flags
    }

    fn config(text: &str) -> (tempfile::TempDir, String) {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("c.toml");
        std::fs::write(&path, text).expect("written");
        let shown = path.display().to_string();
        (place, shown)
    }

    fn refusal(args: &[&str]) -> String {
        resolve(&Table::new(), &flags(args)).expect_err("refused").to_string()
    }

    #[test]
    fn later_layers_win() {
        let (_place, path) = config("dataset = \"cifar10\"\nepochs = 7\nweight-decay = 0\nlr = 0.5\n[run]\nversion = \"1\"\n");
        let preset = toml::toml! { out = "there"
        epochs = 5 };
        let found = resolve(&preset, &flags(&["--config", &path, "--lr", "0.25", "--draw", "non-target"])).expect("resolved");
        let s = found.settings;
        assert_eq!((s.dataset.as_str(), s.epochs, s.lr, s.weight_decay), ("CIFAR-10", 7, 0.25, 0.0));
        assert_eq!((s.out.to_str(), s.draw, s.flip, s.image_size), (Some("there"), Draw::NonTarget, true, 32));
        assert_eq!(found.given["weight_decay"], Value::Float(0.0));
    }

    #[test]
    fn defaults_are_digits_and_badnets_in_their_own_folder() {
        let settings = resolve(&Table::new(), &Flags::default()).expect("resolved").settings;
        assert_eq!((settings.dataset.as_str(), settings.attack.as_str()), ("digits", "BadNets"));
        assert_eq!(settings.out, Path::new("runs/digits-badnets-0"));
        assert_eq!(settings.lr.to_string(), "0.02", "as the dataset's file has it");
    }

    #[test]
    fn an_attacks_options_and_usual_mode_are_filled_in() {
        let of = |args: &[&str]| resolve(&Table::new(), &flags(args)).expect("resolved").settings;
        let badnets = of(&["--patch", "5"]);
        assert_eq!(toml::to_string(&badnets.options).expect("toml"), "patch = 5\npattern = \"white\"\n");
        assert_eq!(badnets.target_mode, TargetMode::AllToOne);
        assert_eq!(of(&["--attack", "sig"]).target_mode, TargetMode::CleanLabel);
        assert_eq!(of(&["--attack", "sig", "--target-mode", "all-to-one"]).target_mode, TargetMode::AllToOne);
        assert_eq!(refusal(&["--surrogate", "s"]), "BadNets is made without a clean network: leave out --surrogate");
        assert_eq!(refusal(&["--attack", "sig", "--alpha", "0.1"]), "SIG has no option `alpha`; it takes strength, frequency");
    }

    #[test]
    fn settings_survive_run_toml() {
        let args = ["--attack", "blended", "--alpha", "0.1", "--limit-per-class", "9", "--unlearn-loss", "gga", "--data", "x"];
        let settings = resolve(&Table::new(), &flags(&args)).expect("resolved").settings;
        let text = toml::to_string(&settings).expect("toml");
        let table: Table = toml::from_str(&text).expect("toml");
        assert_eq!(Settings::from_run(table, Path::new("run.toml")).expect("read"), settings);
    }

    #[test]
    fn every_flag_is_a_setting_and_every_setting_a_flag() {
        let args = ["--limit-per-class", "9", "--data", "x", "--attack", "LC", "--surrogate", "s"];
        let mut settings = resolve(&Table::new(), &flags(&args)).expect("resolved").settings;
        settings.poisoned = Some("p".into());
        let options = ATTACKS.iter().flat_map(|entry| entry.options);
        settings.options = AttackOptions(options.map(|option| (option.name.to_string(), option.default())).collect());
        let mut known = known_keys();
        known.sort();
        assert_eq!(to_table(&settings).expect("table").keys().cloned().collect::<Vec<_>>(), known);
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest() {
        for (key, nearest) in [("epoch", "epochs"), ("poisonrate", "poison_rate"), ("unlearning-lr", "unlearn_lr")] {
            let (_place, path) = config(&format!("{key} = 1\n"));
            let message = refusal(&["--config", &path]);
            assert!(message.ends_with(&format!("unknown key `{key}`; the nearest known one is `{nearest}`")), "{message}");
        }
    }

    #[test]
    fn a_wrong_type_or_damaged_file_is_named() {
        let (_place, path) = config("epochs = \"many\"\n");
        let message = refusal(&["--config", &path]);
        assert!(message.starts_with(&path) && message.contains("epochs"), "{message}");
        let (_place, path) = config("epochs = 3\nlr = = 1\n");
        let message = refusal(&["--config", &path]);
        assert!(message.starts_with(&format!("{path}, line 2: ")), "{message}");
        let (_place, path) = config("batch-size = 3\nlr = nan\n");
        assert!(refusal(&["--config", &path]).contains("nearest known one is `batch`"));
    }

    #[test]
    fn values_that_mean_nothing_are_refused() {
        for (args, expected) in [
            (["--poison-rate", "1.5"], "--poison-rate 1.5 is outside 0..1"),
            (["--poison-rate", "NaN"], "--poison-rate NaN is outside 0..1"),
            (["--lr", "nan"], "--lr NaN does not do"),
            (["--lr", "-1"], "--lr -1 does not do: give a number above 0"),
            (["--epochs", "0"], "--epochs 0 does not do"),
            (["--momentum", "1"], "--momentum 1 does not do"),
            (["--crop-pad", "16"], "--crop-pad 16 does not do for images of 16 pixels"),
            (["--model", "vgg"], "unknown model `vgg`; known are resnet18"),
            (["--dataset", "mnist"], "unknown dataset `mnist`"),
        ] {
            let message = refusal(&args);
            assert!(message.starts_with(expected), "{args:?}: {message}");
        }
    }

    #[test]
    fn only_a_changed_setting_is_a_contradiction() {
        let began = resolve(&Table::new(), &flags(&["--epochs", "3"])).expect("resolved").settings;
        let now = |args: &[&str]| agree(&resolve(&Table::new(), &flags(args)).expect("resolved").given, &began, Path::new("r"));
        assert!(now(&["--attack", "badnets", "--out", "elsewhere", "--epochs", "3"]).is_ok());
        let message = now(&["--epochs", "4"]).expect_err("refused").to_string();
        assert!(message.starts_with("this run began with epochs = 3, the command says epochs = 4"), "{message}");
        assert!(
            now(&["--patch", "5"]).expect_err("refused").to_string().contains("began with patch = 3, the command says patch = 5")
        );
    }
}
