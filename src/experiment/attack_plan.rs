//! One attack on a training set: which, on how many images, to what end. Most sets have one, some several.

use anyhow::{Result, anyhow, bail, ensure};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::protocol::{RATE, one_line};
use crate::attacks::{self, Aim, AttackEntry, Draw, PoisonOptions, Target, TargetMode};
use crate::options::Options;
use crate::rng;

/// The settings of one attack, resolved; [`super::Protocol`] says what each means.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct AttackPlan {
    /// The attack, by name.
    pub attack: String,
    /// Its own options.
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
}

impl AttackPlan {
    /// Reads what a configuration file says of an attack beside the first; what it does not say has the attack's default.
    ///
    /// # Errors
    /// No name, or an unknown one; a key that is no setting of this attack; a value that does not do.
    pub fn read(given: &Table) -> Result<AttackPlan> {
        let mut table: Table = given.iter().map(|(key, value)| (key.replace('-', "_"), value.clone())).collect();
        let entry = match table.get("attack") {
            Some(Value::String(name)) => attacks::find(name)?,
            Some(other) => bail!("attack = {other}: give an attack's name in quotes"),
            None => bail!("it has no `attack`: give the attack's name"),
        };
        let usual = AttackPlan {
            attack: entry.name.into(),
            options: Options::default(),
            target_mode: entry.mode,
            target: Target::Label(0),
            poison_rate: RATE,
            draw: Draw::All,
        };
        for (key, value) in Table::try_from(&usual)? {
            table.entry(key).or_insert(value);
        }
        let mut plan: AttackPlan = table.try_into().map_err(|e: toml::de::Error| anyhow!("{}", one_line(&e.message())))?;
        plan.attack = entry.name.into();
        plan.options = entry.complete(&plan.options).map_err(|e| {
            anyhow!("{e}. Each attack also takes target, target_mode, poison_rate and draw; all else is the whole run's")
        })?;
        plan.check()?;
        Ok(plan)
    }

    /// # Errors
    /// An unknown attack.
    pub fn entry(&self) -> Result<&'static AttackEntry> {
        Ok(attacks::find(&self.attack)?)
    }

    /// # Errors
    /// A name, an option, a mode or a rate that does not do.
    pub(super) fn check(&self) -> Result<()> {
        self.entry()?.complete(&self.options)?;
        self.entry()?.aim(self.target_mode, 0, &self.options)?;
        let (mode, none) = (self.target_mode, self.target == Target::Label(0) || self.target_mode.has_target());
        ensure!(none, "{} attacks have no one target: leave out --target", mode.name());
        let rate = self.poison_rate;
        ensure!((0.0..=1.0).contains(&rate), "--poison-rate {rate} is outside 0..1: give a share of the images, .1 for 10 %");
        Ok(())
    }

    /// What it is to do, to images of `classes`.
    ///
    /// # Errors
    /// A class that does not exist.
    pub fn aim(&self, classes: &[String]) -> Result<Aim> {
        Ok(self.entry()?.aim(self.target_mode, self.target.label(classes)?, &self.options)?)
    }

    /// How much it poisons, to the end `aim`; its triggers and draws are by `seed`.
    pub fn poison_options(&self, aim: &Aim, seed: u64) -> PoisonOptions {
        PoisonOptions { rate: self.poison_rate, aim: aim.clone(), seed, draw: self.draw }
    }
}

/// The seed of attack `number`, from 0, of an experiment: the experiment's own for the first, so that what further attacks do leaves it alone.
pub(super) fn seed_of(seed: u64, number: usize) -> u64 {
    if number == 0 { seed } else { rng::stream(seed, &format!("attack {number}")).random() }
}
