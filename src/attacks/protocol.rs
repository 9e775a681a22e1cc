//! Whose images are poisoned, and which labels the attacker wants.

use super::AttackError;
use crate::data::Dataset;
use crate::rng::{shuffle, stream};
use serde::{Deserialize, Serialize};

/// What the trigger is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetMode {
    /// Images of all classes are to be taken for the target class.
    #[default]
    AllToOne,
    /// Images of class y are to be taken for class (y + 1) mod K.
    AllToAll,
    /// As all-to-one, but only images of the target class are poisoned, so that no label is wrong.
    CleanLabel,
}

/// From which images the poisoned ones are drawn, all-to-one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Draw {
    /// All classes, as BackdoorBench does: some poisoned images carry the target's label already.
    #[default]
    All,
    /// All classes but the target: every poisoned image is mislabelled.
    NonTarget,
}

/// How much to poison, and whose label to give.
#[derive(Clone, Debug)]
pub struct PoisonOptions {
    /// Share of all training images, 0..=1; round(rate N) images are poisoned.
    pub rate: f64,
    /// Which labels poisoned images get; clean-label also limits whose images are poisoned.
    pub mode: TargetMode,
    /// The class that triggered images are to be taken for; all-to-all has no use for it.
    pub target: u32,
    /// Which images; a smaller rate draws among those of a larger one.
    pub seed: u64,
    /// From which classes; all but [`Draw::All`] is for all-to-one.
    pub draw: Draw,
}

impl TargetMode {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            TargetMode::AllToOne => "all-to-one",
            TargetMode::AllToAll => "all-to-all",
            TargetMode::CleanLabel => "clean-label",
        }
    }

    /// The label that the attacker wants for a triggered image of class `label`.
    pub fn goal(self, label: u32, target: u32, classes: usize) -> u32 {
        match self {
            TargetMode::AllToAll => (label + 1) % classes as u32,
            TargetMode::AllToOne | TargetMode::CleanLabel => target,
        }
    }

    /// Whether triggered test images of class `label` count: those whose true label is not what the attacker wants anyway.
    pub fn tests(self, label: u32, target: u32) -> bool {
        self == TargetMode::AllToAll || label != target
    }
}

impl PoisonOptions {
    /// Refuses what [`super::poison`] would refuse, before anything is spent on the attack.
    ///
    /// # Errors
    /// As [`super::poison`], but for negatives that do not fit.
    pub fn check(&self, clean: &Dataset) -> Result<(), AttackError> {
        self.choose(clean).map(drop)
    }

    /// The images to poison.
    ///
    /// # Errors
    /// A rate outside 0..=1, that rounds to no sample, or that the images to draw from cannot hold; a target class that does
    /// not exist; a draw that does not go with the mode.
    pub(super) fn choose(&self, clean: &Dataset) -> Result<Vec<usize>, AttackError> {
        let PoisonOptions { rate, mode, target, seed, draw } = *self;
        let (images, classes) = (clean.len(), clean.classes.len());
        if !(0.0..=1.0).contains(&rate) {
            return Err(AttackError::Rate { rate });
        }
        if target as usize >= classes {
            return Err(AttackError::Target { target, classes });
        }
        let wanted = (rate * images as f64).round() as usize;
        if wanted == 0 {
            return Err(AttackError::NoSample { rate, images });
        }
        let (pool, among): (_, fn(u32, u32) -> bool) = match (mode, draw) {
            (TargetMode::AllToOne | TargetMode::AllToAll, Draw::All) => ("all classes hold", |_, _| true),
            (TargetMode::AllToOne, Draw::NonTarget) => {
                ("the classes other than the target hold", |label, target| label != target)
            }
            (TargetMode::CleanLabel, Draw::All) => ("the target class holds", |label, target| label == target),
            (TargetMode::AllToAll, Draw::NonTarget) => {
                return Err(AttackError::Draw { mode: mode.name(), from: "all classes" });
            }
            (TargetMode::CleanLabel, Draw::NonTarget) => {
                return Err(AttackError::Draw { mode: mode.name(), from: "the target class" });
            }
        };
        let mut chosen: Vec<usize> = (0..images).filter(|&i| among(clean.labels[i], target)).collect();
        if wanted > chosen.len() {
            return Err(AttackError::TooMany { rate, wanted, images, pool, fits: chosen.len() });
        }
        shuffle(&mut stream(seed, "poison"), &mut chosen);
        chosen.truncate(wanted);
        Ok(chosen)
    }

    /// round(`ratio` x poisoned) of the images that are not poisoned.
    ///
    /// # Errors
    /// More than are left.
    pub(super) fn choose_negatives(&self, poisoned: &[usize], images: usize, ratio: f64) -> Result<Vec<usize>, AttackError> {
        let wanted = (ratio * poisoned.len() as f64).round() as usize;
        let mut is_left = vec![true; images];
        for &i in poisoned {
            is_left[i] = false;
        }
        let mut left: Vec<usize> = (0..images).filter(|&i| is_left[i]).collect();
        if wanted > left.len() {
            return Err(AttackError::Negatives { wanted, poisoned: poisoned.len(), left: left.len(), images });
        }
        shuffle(&mut stream(self.seed, "negatives"), &mut left);
        left.truncate(wanted);
        Ok(left)
    }
}
