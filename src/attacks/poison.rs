//! Poisoned training sets, their record as CSV, and the test images that show whether a backdoor works.

use super::{Aim, Attack, AttackError, PoisonOptions};
use crate::data::Dataset;
use crate::rng::stream;
use rand::RngExt;
use rayon::prelude::*;
use std::fmt::Write;

const HEADER: &str = "index,original_label,given_label,role";

/// What was done to a training image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Left as it was.
    Clean,
    /// Carries the trigger, with the label that the attacker gives.
    Poisoned,
    /// Changed as the trigger would, or nearly, with its true label.
    Negative,
}

/// A poisoned training set and the truth about it, which only metrics may see.
#[derive(Clone, Debug)]
pub struct Poisoned {
    /// The images as the attacker leaves them, with the labels that the attacker gives.
    pub data: Dataset,
    /// `[N]`
    pub roles: Vec<Role>,
    /// `[N]`: the labels before, where they are known.
    pub original_labels: Option<Vec<u32>>,
}

/// Test images with the trigger; those whose true label the attacker wants anyway are not among them.
#[derive(Clone, Debug)]
pub struct TriggeredTest {
    /// With their true labels.
    pub data: Dataset,
    /// `[N]`: the labels that the attacker wants; none where any wrong one will do.
    pub goal: Option<Vec<u32>>,
}

impl Role {
    /// Its name in a record.
    pub fn name(self) -> &'static str {
        match self {
            Role::Clean => "clean",
            Role::Poisoned => "poisoned",
            Role::Negative => "negative",
        }
    }

    /// The role called `name`.
    pub fn find(name: &str) -> Option<Role> {
        [Role::Clean, Role::Poisoned, Role::Negative].into_iter().find(|role| role.name() == name)
    }
}

/// Stamps the trigger on round(rate N) images and gives them the labels that the attacker wants; with an attack that has
/// negatives, makes these too.
///
/// # Errors
/// A rate outside 0..=1, that rounds to no sample, or that the images to draw from cannot hold; a class that does not exist.
pub fn poison(clean: &Dataset, attack: &dyn Attack, options: &PoisonOptions) -> Result<Poisoned, AttackError> {
    let poisoned = options.choose(clean)?;
    let negatives = options.choose_negatives(&poisoned, clean, attack.negatives())?;
    let mut labels = clean.labels.clone();
    let mut roles = vec![Role::Clean; clean.len()];
    for i in poisoned {
        roles[i] = Role::Poisoned;
        let mut rng = stream(options.seed, &format!("label {i}"));
        labels[i] = options.aim.given(clean.labels[i], clean.classes.len(), &mut rng);
    }
    for i in negatives {
        roles[i] = Role::Negative;
    }
    Poisoned::new(clean, attack, options.seed, labels, roles)
}

impl Poisoned {
    fn new(clean: &Dataset, attack: &dyn Attack, seed: u64, labels: Vec<u32>, roles: Vec<Role>) -> Result<Poisoned, AttackError> {
        let mut data = Dataset { labels, ..clean.clone() };
        let bytes = data.image_bytes();
        let chosen: Vec<usize> = (0..clean.len()).filter(|&i| roles[i] == Role::Poisoned).collect();
        let mut disguised = clean.subset(&chosen);
        attack.disguise(&mut disguised)?;
        for (from, to) in chosen.into_iter().enumerate() {
            data.image_mut(to).copy_from_slice(disguised.image(from));
        }
        let mut counts = [0; 3];
        let place = |role: &Role| {
            let count: &mut usize = &mut counts[*role as usize];
            *count += 1;
            *count - 1
        };
        let places: Vec<usize> = roles.iter().map(place).collect();
        data.pixels.par_chunks_exact_mut(bytes).enumerate().for_each(|(i, image)| match roles[i] {
            Role::Clean => {}
            // A stream of its own for each image: what one draws does not hang on how many there are.
            Role::Poisoned => attack.apply_in_training(image, places[i], &mut stream(seed, &format!("poisoned {i}"))),
            Role::Negative => {
                let mut rng = stream(seed, &format!("negative {i}"));
                let other = (i + rng.random_range(1..clean.len().max(2))) % clean.len();
                attack.negative(image, clean.image(other), places[i], &mut rng);
            }
        });
        Ok(Poisoned { data, roles, original_labels: Some(clean.labels.clone()) })
    }

    /// `[N]`: who is poisoned; negatives are not.
    pub fn is_poison(&self) -> Vec<bool> {
        self.roles.iter().map(|role| *role == Role::Poisoned).collect()
    }

    /// How many images have this role.
    pub fn count(&self, role: Role) -> usize {
        self.roles.iter().filter(|r| **r == role).count()
    }

    /// The images that are not clean as CSV: `index,original_label,given_label,role`, by index; an original label that is
    /// not known is left empty.
    pub fn manifest_csv(&self) -> String {
        let mut csv = format!("{HEADER}\n");
        for i in (0..self.data.len()).filter(|&i| self.roles[i] != Role::Clean) {
            let original = self.original_labels.as_ref().map_or(String::new(), |labels| labels[i].to_string());
            // Writing to a String cannot fail.
            let _ = writeln!(csv, "{i},{original},{},{}", self.data.labels[i], self.roles[i].name());
        }
        csv
    }

    /// Makes the poisoned set again from the clean one, the seed of its [`PoisonOptions`] and [`Poisoned::manifest_csv`].
    ///
    /// # Errors
    /// A manifest that is damaged or was made from other images; the message names the line.
    pub fn from_manifest(clean: &Dataset, attack: &dyn Attack, seed: u64, csv: &str) -> Result<Poisoned, AttackError> {
        let fail = |line, why| Err(AttackError::Manifest { line, why });
        let mut lines = (1..).zip(csv.lines());
        if lines.next().map(|(_, header)| header) != Some(HEADER) {
            return fail(1, format!("expected `{HEADER}`"));
        }
        let mut labels = clean.labels.clone();
        let mut roles = vec![Role::Clean; clean.len()];
        let mut next = 0;
        for (line, text) in lines {
            let (numbers, role) = text.rsplit_once(',').unwrap_or((text, ""));
            let numbers: Result<Vec<u32>, _> = numbers.split(',').map(str::parse).collect();
            let (Ok(&[index, old, new]), Some(role)) = (numbers.as_deref(), Role::find(role)) else {
                return fail(line, format!("expected three numbers and a role, found `{text}`"));
            };
            let i = index as usize;
            if i < next {
                return fail(line, format!("index {i} is not above the one before"));
            }
            match clean.labels.get(i) {
                None => return fail(line, format!("index {i}, but there are {} images", clean.len())),
                Some(label) if *label != old => return fail(line, format!("image {i} has label {label}, not {old}")),
                Some(_) if new as usize >= clean.classes.len() => {
                    return fail(line, format!("label {new}, but there are {} classes", clean.classes.len()));
                }
                Some(_) => (labels[i], roles[i], next) = (new, role, i + 1),
            }
        }
        if !roles.contains(&Role::Poisoned) {
            return fail(2, "no poisoned image is listed".into());
        }
        Poisoned::new(clean, attack, seed, labels, roles)
    }

    /// Share of wrong labels, 0..=1, where the labels before are known: less than the poison rate where a poisoned image had
    /// the target's label already.
    pub fn dirty_rate(&self) -> Option<f64> {
        let before = self.original_labels.as_ref()?;
        let wrong = self.data.labels.iter().zip(before).filter(|(new, old)| new != old).count();
        Some(wrong as f64 / self.data.len().max(1) as f64)
    }
}

/// The test images with the trigger, of the classes that [`Aim::tests`]: a model that gives them the label that the attacker
/// wants has the backdoor (attack success rate), one that gives their own has not (robust accuracy).
pub fn triggered_test(test: &Dataset, attack: &dyn Attack, aim: &Aim) -> TriggeredTest {
    let tested: Vec<usize> = (0..test.len()).filter(|&i| aim.tests(test.labels[i], test.classes.len())).collect();
    let mut data = test.subset(&tested);
    let bytes = data.image_bytes();
    data.pixels.par_chunks_exact_mut(bytes).for_each(|image| attack.apply(image));
    TriggeredTest::new(data, aim)
}

impl TriggeredTest {
    /// Triggered images with their true labels, and what the attacker wants for them.
    pub fn new(data: Dataset, aim: &Aim) -> TriggeredTest {
        let goal = data.labels.iter().map(|label| aim.goal(*label, data.classes.len())).collect();
        TriggeredTest { data, goal }
    }
}
