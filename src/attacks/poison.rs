//! Poisoned training sets, their record as CSV, and the test images that show whether a backdoor works.

use super::{Aim, Attack, AttackError, PoisonOptions};
use crate::data::Dataset;
use crate::rng::stream;
use rand::RngExt;
use rayon::prelude::*;
use std::fmt::Write;

const HEADER: &str = "index,original_label,given_label,role";
/// Where several attacks poisoned, a further column has the number of the one that changed the image, from 1.
const OF_SEVERAL: &str = "index,original_label,given_label,role,attack";

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
    /// `[N]`: the number of the attack that changed the image, from 0; of no meaning where none did.
    pub attack: Vec<usize>,
    /// `[N]`: the labels before, where they are known.
    pub original_labels: Option<Vec<u32>>,
}

/// Test images with the trigger; those whose true label the attacker wants anyway are not among them. Of several attacks, one after
/// another: an image is there once for each.
#[derive(Clone, Debug)]
pub struct TriggeredTest {
    /// With their true labels.
    pub data: Dataset,
    /// `[N]`: the label that the attacker wants; none where any wrong one will do.
    pub goal: Vec<Option<u32>>,
    /// `[N]`: the number of the attack whose trigger the image has, from 0.
    pub attack: Vec<usize>,
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
    Poisoned::by_nobody(clean).and(clean, attack, options)
}

impl Poisoned {
    /// Every image as it is.
    pub fn by_nobody(clean: &Dataset) -> Poisoned {
        let (roles, attack) = (vec![Role::Clean; clean.len()], vec![0; clean.len()]);
        Poisoned { data: clean.clone(), roles, attack, original_labels: Some(clean.labels.clone()) }
    }

    /// How many attacks have changed images.
    pub fn attacks(&self) -> usize {
        let changed = (0..self.data.len()).filter(|&i| self.roles[i] != Role::Clean);
        changed.map(|i| self.attack[i] + 1).max().unwrap_or(0)
    }

    /// The same with the images of a further attack, drawn from those that no attack before has changed.
    ///
    /// # Errors
    /// As [`poison`].
    pub fn and(mut self, clean: &Dataset, attack: &dyn Attack, options: &PoisonOptions) -> Result<Poisoned, AttackError> {
        let (number, taken): (_, Vec<bool>) = (self.attacks(), self.roles.iter().map(|role| *role != Role::Clean).collect());
        let poisoned = options.choose(clean, &taken)?;
        let negatives = options.choose_negatives(&poisoned, clean, attack.negatives(), &taken)?;
        for i in poisoned {
            (self.roles[i], self.attack[i]) = (Role::Poisoned, number);
            let mut rng = stream(options.seed, &format!("label {i}"));
            self.data.labels[i] = options.aim.given(clean.labels[i], clean.classes.len(), &mut rng);
        }
        for i in negatives {
            (self.roles[i], self.attack[i]) = (Role::Negative, number);
        }
        self.stamp(clean, number, attack, options.seed)?;
        Ok(self)
    }

    /// Changes the pixels of the images that are attack `number`'s.
    fn stamp(&mut self, clean: &Dataset, number: usize, attack: &dyn Attack, seed: u64) -> Result<(), AttackError> {
        let Poisoned { data, roles, attack: of, .. } = self;
        let bytes = data.image_bytes();
        let role = |i: usize| if of[i] == number { roles[i] } else { Role::Clean };
        let chosen: Vec<usize> = (0..clean.len()).filter(|&i| role(i) == Role::Poisoned).collect();
        let mut disguised = clean.subset(&chosen);
        attack.disguise(&mut disguised)?;
        for (from, to) in chosen.into_iter().enumerate() {
            data.image_mut(to).copy_from_slice(disguised.image(from));
        }
        let mut counts = [0; 3];
        let place = |i: usize| {
            let count: &mut usize = &mut counts[role(i) as usize];
            *count += 1;
            *count - 1
        };
        let places: Vec<usize> = (0..clean.len()).map(place).collect();
        data.pixels.par_chunks_exact_mut(bytes).enumerate().for_each(|(i, image)| match role(i) {
            Role::Clean => {}
            // A stream of its own for each image: what one draws does not hang on how many there are.
            Role::Poisoned => attack.apply_in_training(image, places[i], &mut stream(seed, &format!("poisoned {i}"))),
            Role::Negative => {
                let mut rng = stream(seed, &format!("negative {i}"));
                let other = (i + rng.random_range(1..clean.len().max(2))) % clean.len();
                attack.negative(image, clean.image(other), places[i], &mut rng);
            }
        });
        Ok(())
    }

    /// `[N]`: who is poisoned; negatives are not.
    pub fn is_poison(&self) -> Vec<bool> {
        self.roles.iter().map(|role| *role == Role::Poisoned).collect()
    }

    /// How many images have this role.
    pub fn count(&self, role: Role) -> usize {
        self.roles.iter().filter(|r| **r == role).count()
    }

    /// The images that are not clean as CSV: `index,original_label,given_label,role`, by index, and of several attacks the number of
    /// the one that changed it, from 1; an original label that is not known is left empty.
    pub fn manifest_csv(&self) -> String {
        let several = self.attacks() > 1;
        let mut csv = format!("{}\n", if several { OF_SEVERAL } else { HEADER });
        for i in (0..self.data.len()).filter(|&i| self.roles[i] != Role::Clean) {
            let original = self.original_labels.as_ref().map_or(String::new(), |labels| labels[i].to_string());
            let number = if several { format!(",{}", self.attack[i] + 1) } else { String::new() };
            // Writing to a String cannot fail.
            let _ = writeln!(csv, "{i},{original},{},{}{number}", self.data.labels[i], self.roles[i].name());
        }
        csv
    }

    /// Makes the poisoned set again from the clean one, the attacks with the seed of their [`PoisonOptions`], and
    /// [`Poisoned::manifest_csv`].
    ///
    /// # Errors
    /// A manifest that is damaged or was made from other images or by other attacks; the message names the line.
    pub fn from_manifest(clean: &Dataset, attacks: &[(&dyn Attack, u64)], csv: &str) -> Result<Poisoned, AttackError> {
        let fail = |line, why| Err(AttackError::Manifest { line, why });
        let mut lines = (1..).zip(csv.lines());
        let header = if attacks.len() > 1 { OF_SEVERAL } else { HEADER };
        if lines.next().map(|(_, header)| header) != Some(header) {
            return fail(1, format!("expected `{header}`"));
        }
        let mut made = Poisoned::by_nobody(clean);
        let mut next = 0;
        for (line, text) in lines {
            let (row, number) = match text.rsplit_once(',') {
                Some((row, number)) if attacks.len() > 1 => (row, number.parse().unwrap_or(0)),
                _ => (text, 1),
            };
            let (numbers, role) = row.rsplit_once(',').unwrap_or((row, ""));
            let numbers: Result<Vec<u32>, _> = numbers.split(',').map(str::parse).collect();
            let (Ok(&[index, old, new]), Some(role)) = (numbers.as_deref(), Role::find(role)) else {
                return fail(line, format!("expected three numbers and a role, found `{row}`"));
            };
            let i = index as usize;
            if i < next {
                return fail(line, format!("index {i} is not above the one before"));
            }
            if !(1..=attacks.len()).contains(&number) {
                return fail(
                    line,
                    format!("expected the number of an attack at the end, 1 to {}, found `{text}`", attacks.len()),
                );
            }
            match clean.labels.get(i) {
                None => return fail(line, format!("index {i}, but there are {} images", clean.len())),
                Some(label) if *label != old => return fail(line, format!("image {i} has label {label}, not {old}")),
                Some(_) if new as usize >= clean.classes.len() => {
                    return fail(line, format!("label {new}, but there are {} classes", clean.classes.len()));
                }
                Some(_) => (made.data.labels[i], made.roles[i], made.attack[i], next) = (new, role, number - 1, i + 1),
            }
        }
        for (number, (attack, seed)) in attacks.iter().enumerate() {
            if !(0..clean.len()).any(|i| made.roles[i] == Role::Poisoned && made.attack[i] == number) {
                let of = if attacks.len() > 1 { format!(" of attack {}", number + 1) } else { String::new() };
                return fail(2, format!("no poisoned image{of} is listed"));
            }
            made.stamp(clean, number, *attack, *seed)?;
        }
        Ok(made)
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
        let attack = vec![0; data.len()];
        TriggeredTest { data, goal, attack }
    }

    /// The images of several attacks, one attack's after another's; none of none.
    pub fn of_all(each: Vec<TriggeredTest>) -> Option<TriggeredTest> {
        each.into_iter()
            .enumerate()
            .reduce(|(first, mut all), (number, TriggeredTest { data, goal, .. })| {
                all.attack.extend(vec![number; data.len()]);
                all.goal.extend(goal);
                all.data.pixels.extend(data.pixels);
                all.data.labels.extend(data.labels);
                all.data.paths.extend(data.paths);
                (first, all)
            })
            .map(|(_, all)| all)
    }

    /// Of the attack `number` alone.
    pub fn of(&self, number: usize) -> Vec<usize> {
        (0..self.data.len()).filter(|&i| self.attack[i] == number).collect()
    }
}
