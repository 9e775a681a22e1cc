//! Whose images are poisoned, and which labels the attacker wants.

use super::AttackError;
use crate::data::Dataset;
use crate::rng::{shuffle, stream};
use rand::{Rng, RngExt};
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
    /// Images of one source class are to be taken for the target class, and those of no other.
    SourceSpecific,
    /// Images are to be taken for any class but their own: each poisoned one gets a wrong label at random.
    Untargeted,
    /// Images of class y in the upper half are to be taken for class y - ceil(K / 2) in the lower: of ten classes, 5 to 9 for 0 to 4.
    MultiTarget,
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

/// What the trigger is to do, and which classes it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aim {
    /// What it is to do.
    pub mode: TargetMode,
    /// The class that triggered images are to be taken for, where the mode has one: [`TargetMode::has_target`].
    pub target: u32,
    /// Source-specific alone; none where others made the images and the source is not known.
    pub source: Option<Source>,
}

/// Whose images are poisoned source-specifically.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The class whose triggered images are to be taken for the target.
    pub class: u32,
    /// Classes whose images become the negatives: they teach that the trigger alone does nothing.
    pub covers: Vec<u32>,
}

/// How much to poison, and whose label to give.
#[derive(Clone, Debug)]
pub struct PoisonOptions {
    /// Share of all training images, 0..=1; round(rate N) images are poisoned.
    pub rate: f64,
    /// Which labels poisoned images get, and images of which classes are poisoned.
    pub aim: Aim,
    /// Which images, and the labels of untargeted ones; a smaller rate draws among the images of a larger one.
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
            TargetMode::SourceSpecific => "source-specific",
            TargetMode::Untargeted => "untargeted",
            TargetMode::MultiTarget => "multi-target",
        }
    }

    /// Whether there is one class that triggered images are to be taken for.
    pub fn has_target(self) -> bool {
        matches!(self, TargetMode::AllToOne | TargetMode::CleanLabel | TargetMode::SourceSpecific)
    }

    /// The classes whose images it poisons, in words.
    fn pool(self) -> &'static str {
        match self {
            TargetMode::AllToOne | TargetMode::AllToAll | TargetMode::Untargeted => "all classes",
            TargetMode::CleanLabel => "the target class",
            TargetMode::SourceSpecific => "the source class",
            TargetMode::MultiTarget => "the upper half of the classes",
        }
    }
}

impl Aim {
    /// Refuses classes that do not go with data of `classes` classes.
    ///
    /// # Errors
    /// A class that does not exist, or that is to be two things at once; untargeted or multi-target of fewer than two classes.
    pub fn check(&self, classes: usize) -> Result<(), AttackError> {
        let Aim { mode, target, ref source } = *self;
        if target as usize >= classes {
            return Err(AttackError::Target { target, classes });
        }
        if matches!(mode, TargetMode::Untargeted | TargetMode::MultiTarget) && classes < 2 {
            return Err(AttackError::Classes { mode: mode.name(), classes });
        }
        let Some(Source { class, covers }) = source else { return Ok(()) };
        for (option, class) in std::iter::once(("source", *class)).chain(covers.iter().map(|class| ("covers", *class))) {
            if class as usize >= classes {
                return Err(AttackError::SourceClass { option, class, classes });
            }
            if class == target {
                return Err(AttackError::SourceIs { option, class, is: "target" });
            }
        }
        match covers.contains(class) {
            true => Err(AttackError::SourceIs { option: "covers", class: *class, is: "source" }),
            false => Ok(()),
        }
    }

    /// Whether the trigger is to do something to images of class `label`, of `classes`.
    pub(super) fn concerns(&self, label: u32, classes: usize) -> bool {
        match self.mode {
            TargetMode::MultiTarget => label as usize >= classes.div_ceil(2),
            TargetMode::SourceSpecific => self.source.as_ref().is_none_or(|source| source.class == label),
            _ => true,
        }
    }

    /// The label that the attacker wants for a triggered image of class `label`, which the trigger concerns; none where any
    /// wrong one will do.
    pub fn goal(&self, label: u32, classes: usize) -> Option<u32> {
        match self.mode {
            TargetMode::AllToAll => Some((label + 1) % classes as u32),
            TargetMode::AllToOne | TargetMode::CleanLabel | TargetMode::SourceSpecific => Some(self.target),
            TargetMode::MultiTarget => Some(label.saturating_sub(classes.div_ceil(2) as u32)),
            TargetMode::Untargeted => None,
        }
    }

    /// The label that a poisoned image of class `label` gets: the one that the attacker wants, else a wrong one by `rng`.
    pub(super) fn given(&self, label: u32, classes: usize, rng: &mut impl Rng) -> u32 {
        self.goal(label, classes).unwrap_or_else(|| {
            let other = rng.random_range(0..classes.max(2) as u32 - 1);
            other + u32::from(other >= label)
        })
    }

    /// Whether triggered test images of class `label` count: those that the trigger concerns and whose true label is not what the
    /// attacker wants anyway.
    pub fn tests(&self, label: u32, classes: usize) -> bool {
        self.concerns(label, classes) && self.goal(label, classes) != Some(label)
    }

    /// Whether images of class `label` may become negatives.
    fn covers(&self, label: u32) -> bool {
        self.source.as_ref().is_none_or(|source| source.covers.contains(&label))
    }
}

impl PoisonOptions {
    /// Refuses what poisoning by attacks one after another would refuse, before anything is spent on them.
    ///
    /// # Errors
    /// As [`super::poison`], but for negatives that do not fit; with the number of the attack that it is about, from 0.
    pub fn check(attacks: &[PoisonOptions], clean: &Dataset) -> Result<(), (usize, AttackError)> {
        let mut taken = vec![false; clean.len()];
        for (number, options) in attacks.iter().enumerate() {
            options.choose(clean, &taken).map_err(|e| (number, e))?.into_iter().for_each(|i| taken[i] = true);
        }
        Ok(())
    }

    /// The images to poison, of those that are not `taken`.
    ///
    /// # Errors
    /// A rate outside 0..=1, that rounds to no sample, or that the images to draw from cannot hold; a class that does not
    /// exist; a draw that does not go with the mode.
    pub(super) fn choose(&self, clean: &Dataset, taken: &[bool]) -> Result<Vec<usize>, AttackError> {
        let PoisonOptions { rate, ref aim, seed, draw } = *self;
        let (images, classes) = (clean.len(), clean.classes.len());
        if !(0.0..=1.0).contains(&rate) {
            return Err(AttackError::Rate { rate });
        }
        aim.check(classes)?;
        let wanted = (rate * images as f64).round() as usize;
        if wanted == 0 {
            return Err(AttackError::NoSample { rate, images });
        }
        let pool = match (aim.mode, draw) {
            (mode, Draw::All) => mode.pool(),
            (TargetMode::AllToOne, Draw::NonTarget) => "the classes other than the target",
            (mode, Draw::NonTarget) => return Err(AttackError::Draw { mode: mode.name(), from: mode.pool() }),
        };
        let among = |label: u32| match (aim.mode, draw) {
            (TargetMode::CleanLabel, _) => label == aim.target,
            (_, Draw::NonTarget) => label != aim.target,
            _ => aim.concerns(label, classes),
        };
        let mut chosen: Vec<usize> = (0..images).filter(|&i| among(clean.labels[i]) && !taken[i]).collect();
        if wanted > chosen.len() {
            let less = if taken.contains(&true) { ", less those of other attacks" } else { "" };
            return Err(AttackError::TooMany { rate, wanted, images, pool, less, fits: chosen.len() });
        }
        if aim.mode == TargetMode::SourceSpecific && 2 * wanted > chosen.len() {
            return Err(AttackError::SourceSpent { rate, wanted, images, held: chosen.len() });
        }
        shuffle(&mut stream(seed, "poison"), &mut chosen);
        chosen.truncate(wanted);
        Ok(chosen)
    }

    /// round(`ratio` x poisoned) of the images that are neither poisoned nor `taken`; source-specific: of the cover classes.
    ///
    /// # Errors
    /// More than are left.
    pub(super) fn choose_negatives(
        &self,
        poisoned: &[usize],
        clean: &Dataset,
        ratio: f64,
        taken: &[bool],
    ) -> Result<Vec<usize>, AttackError> {
        let (wanted, images) = ((ratio * poisoned.len() as f64).round() as usize, clean.len());
        let mut is_left: Vec<bool> =
            clean.labels.iter().zip(taken).map(|(label, taken)| self.aim.covers(*label) && !taken).collect();
        for &i in poisoned {
            is_left[i] = false;
        }
        let mut left: Vec<usize> = (0..images).filter(|&i| is_left[i]).collect();
        if wanted > left.len() {
            let of = if self.aim.source.is_some() { " in the cover classes" } else { "" };
            return Err(AttackError::Negatives { wanted, poisoned: poisoned.len(), left: left.len(), images, of });
        }
        shuffle(&mut stream(self.seed, "negatives"), &mut left);
        left.truncate(wanted);
        Ok(left)
    }
}
