//! The poisoning protocol, all-to-one: which training images get the trigger and the target's label, and which test images
//! show whether the backdoor works.

use super::{Attack, AttackError};
use crate::data::Dataset;
use crate::rng::{shuffle, stream};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

const HEADER: &str = "index,old_label,new_label";

/// From which images the poisoned ones are drawn.
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
    /// The class that triggered images are to be taken for.
    pub target: u32,
    /// Which images; a smaller rate draws among those of a larger one.
    pub seed: u64,
    pub draw: Draw,
}

/// A poisoned training set and the truth about it, which only metrics may see.
#[derive(Clone, Debug)]
pub struct Poisoned {
    pub data: Dataset,
    /// `[N]`: who carries the trigger.
    pub is_poison: Vec<bool>,
    /// `[N]`: the labels before.
    pub original_labels: Vec<u32>,
}

/// Test images with the trigger and their true labels; none is of the target class.
#[derive(Clone, Debug)]
pub struct TriggeredTest {
    pub data: Dataset,
    pub target: u32,
}

/// Stamps the trigger on round(rate N) images and gives them the target's label.
///
/// # Errors
/// A rate outside 0..=1, that rounds to no sample, or that the images to draw from cannot hold; a target class that does
/// not exist.
pub fn poison(clean: &Dataset, attack: &dyn Attack, options: &PoisonOptions) -> Result<Poisoned, AttackError> {
    let PoisonOptions { rate, target, seed, draw } = *options;
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
    let (pool, mut chosen): (_, Vec<usize>) = match draw {
        Draw::All => ("all classes", (0..images).collect()),
        Draw::NonTarget => ("the classes other than the target", (0..images).filter(|&i| clean.labels[i] != target).collect()),
    };
    if wanted > chosen.len() {
        return Err(AttackError::TooMany { rate, wanted, images, pool, fits: chosen.len() });
    }
    shuffle(&mut stream(seed, "poison"), &mut chosen);
    let relabelled = chosen[..wanted].iter().map(|&i| (i, target));
    Ok(Poisoned::new(clean, attack, relabelled))
}

impl Poisoned {
    fn new(clean: &Dataset, attack: &dyn Attack, relabelled: impl Iterator<Item = (usize, u32)>) -> Poisoned {
        let mut data = clean.clone();
        let mut is_poison = vec![false; clean.len()];
        for (i, label) in relabelled {
            is_poison[i] = true;
            data.labels[i] = label;
        }
        stamp(&mut data, attack, &is_poison);
        Poisoned { data, is_poison, original_labels: clean.labels.clone() }
    }

    /// The poisoned images as CSV: `index,old_label,new_label`, by index.
    pub fn manifest_csv(&self) -> String {
        let mut csv = format!("{HEADER}\n");
        for i in (0..self.data.len()).filter(|&i| self.is_poison[i]) {
            // Writing to a String cannot fail.
            let _ = writeln!(csv, "{i},{},{}", self.original_labels[i], self.data.labels[i]);
        }
        csv
    }

    /// Makes the poisoned set again from the clean one and [`Poisoned::manifest_csv`].
    ///
    /// # Errors
    /// A manifest that is damaged or was made from other images; the message names the line.
    pub fn from_manifest(clean: &Dataset, attack: &dyn Attack, csv: &str) -> Result<Poisoned, AttackError> {
        let fail = |line, why| Err(AttackError::Manifest { line, why });
        let mut lines = (1..).zip(csv.lines());
        if lines.next().map(|(_, header)| header) != Some(HEADER) {
            return fail(1, format!("expected `{HEADER}`"));
        }
        let mut relabelled: Vec<(usize, u32)> = Vec::new();
        for (line, text) in lines {
            let numbers: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
            let Ok(&[index, old, new]) = numbers.as_deref() else {
                return fail(line, format!("expected three numbers, found `{text}`"));
            };
            let i = index as usize;
            if relabelled.last().is_some_and(|(last, _)| i <= *last) {
                return fail(line, format!("index {i} is not above the one before"));
            }
            match clean.labels.get(i) {
                None => return fail(line, format!("index {i}, but there are {} images", clean.len())),
                Some(label) if *label != old => return fail(line, format!("image {i} has label {label}, not {old}")),
                Some(_) if new as usize >= clean.classes.len() => {
                    return fail(line, format!("label {new}, but there are {} classes", clean.classes.len()));
                }
                Some(_) => relabelled.push((i, new)),
            }
        }
        if relabelled.is_empty() {
            return fail(2, "no poisoned image is listed".into());
        }
        Ok(Poisoned::new(clean, attack, relabelled.into_iter()))
    }

    /// Share of wrong labels, 0..=1: less than the poison rate where a poisoned image had the target's label already.
    pub fn dirty_rate(&self) -> f64 {
        let wrong = self.data.labels.iter().zip(&self.original_labels).filter(|(new, old)| new != old).count();
        wrong as f64 / self.data.len().max(1) as f64
    }
}

/// The test images whose true class is not the target, with the trigger: a model that calls them the target has the
/// backdoor (attack success rate), one that gives their label has not (robust accuracy).
pub fn triggered_test(test: &Dataset, attack: &dyn Attack, target: u32) -> TriggeredTest {
    let others: Vec<usize> = (0..test.len()).filter(|&i| test.labels[i] != target).collect();
    let mut data = test.subset(&others);
    stamp(&mut data, attack, &vec![true; others.len()]);
    TriggeredTest { data, target }
}

/// Applies the trigger to the images marked in `who`.
fn stamp(data: &mut Dataset, attack: &dyn Attack, who: &[bool]) {
    let (size, bytes) = (data.size, data.image_bytes());
    let images = data.pixels.par_chunks_exact_mut(bytes).zip(who);
    images.filter(|(_, marked)| **marked).for_each(|(image, _)| attack.apply(image, size));
}
