//! Backdoor attacks on images, to make the poisoned data that a defense is tried on.
//!
//! An attack stamps a trigger on an image; whose images and which new labels is the protocol's business ([`poison`]).
//! To add one: a file here, which declares its options too, and a line in [`ATTACKS`].

mod adap_blend;
mod adap_patch;
mod additive;
mod badnets;
mod blended;
mod bpp;
mod ctrl;
mod error;
mod ftrojan;
#[cfg(test)]
mod golden;
mod lc;
mod lf;
mod poison;
mod preview;
mod protocol;
mod sig;
mod surrogate;
mod tact;
mod target;
mod trojannn;
mod wanet;

pub use error::AttackError;
pub use poison::{Poisoned, Role, TriggeredTest, poison, triggered_test};
pub use preview::contact_sheet;
pub use protocol::{Aim, Draw, PoisonOptions, Source, TargetMode};
pub use surrogate::{Pull, Response, Surrogate};
pub use target::Target;

use crate::data::Dataset;
use crate::options::{OptionError, OptionSpec, Options};
use crate::rng::{shuffle, stream};
use rand_chacha::ChaCha8Rng;

/// A trigger in image space, for RGB images `[size, size, 3]` of the size that it was built for.
pub trait Attack: Send + Sync {
    /// Stamps the trigger on one image.
    fn apply(&self, image: &mut [u8]);

    /// Stamps a poisoned training image, where it is another stamp than that of test images; `place` poisoned ones lie before it.
    fn apply_in_training(&self, image: &mut [u8], _place: usize, _rng: &mut ChaCha8Rng) {
        self.apply(image);
    }

    /// What poisoned training images undergo before the trigger; their labels are still the true ones.
    ///
    /// # Errors
    /// The surrogate's.
    fn disguise(&self, _images: &mut Dataset) -> Result<(), AttackError> {
        Ok(())
    }

    /// Negatives for each poisoned image: images that are changed as the trigger would, or nearly, and keep their label, so that
    /// nothing else sets the backdoor off, or it leaves less to be seen.
    fn negatives(&self) -> f64 {
        0.0
    }

    /// Makes `image` a negative; `other` is another clean training image, `place` negatives lie before it.
    fn negative(&self, _image: &mut [u8], _other: &[u8], _place: usize, _rng: &mut ChaCha8Rng) {}
}

/// What an attack is built for.
pub struct Blueprint<'a> {
    /// Height and width of the images, pixels.
    pub size: usize,
    /// For triggers that are drawn at random.
    pub seed: u64,
    /// What was chosen; an option that is not among them has its default.
    pub options: &'a Options,
    /// For the attacks that need it.
    pub help: Option<Help<'a>>,
}

/// What an attack that is made with a clean network's gradients works with.
#[derive(Clone, Copy)]
pub struct Help<'a> {
    /// The clean network.
    pub surrogate: &'a dyn Surrogate,
    /// Training images.
    pub clean: &'a Dataset,
    /// What the trigger is to do.
    pub aim: &'a Aim,
}

impl<'a> Blueprint<'a> {
    /// The help that `attack` cannot do without.
    fn help(&self, attack: &'static str) -> Result<Help<'a>, AttackError> {
        self.help.ok_or(AttackError::NeedsSurrogate { attack })
    }
}

impl Help<'_> {
    /// At most `n` of the clean images that the trigger is to do something to, drawn by the seed.
    fn sample(&self, n: usize, seed: u64, purpose: &str) -> Dataset {
        let (from, classes) = (self.clean, self.clean.classes.len());
        let mut order: Vec<usize> = (0..from.len()).filter(|&i| self.aim.concerns(from.labels[i], classes)).collect();
        shuffle(&mut stream(seed, purpose), &mut order);
        order.truncate(n);
        from.subset(&order)
    }
}

/// An attack as it is listed.
pub struct AttackEntry {
    /// As it is spelt in messages; upper and lower case are the same where one is asked for.
    pub name: &'static str,
    /// One line for help texts.
    pub summary: &'static str,
    /// What can be chosen about it.
    pub options: &'static [OptionSpec],
    /// How it is usually run.
    pub mode: TargetMode,
    /// Whether it is made with a clean network's gradients: [`Blueprint::help`].
    pub needs_surrogate: bool,
    build: for<'a> fn(&Blueprint<'a>) -> Result<Box<dyn Attack + 'a>, AttackError>,
}

/// The attacks that `dau` knows.
pub static ATTACKS: &[AttackEntry] = &[
    badnets::ENTRY,
    blended::ENTRY,
    sig::ENTRY,
    wanet::ENTRY,
    bpp::ENTRY,
    ftrojan::ENTRY,
    ctrl::ENTRY,
    lc::ENTRY,
    trojannn::ENTRY,
    lf::ENTRY,
    adap_blend::ENTRY,
    adap_patch::ENTRY,
    tact::ENTRY,
];

/// The attack called `name`; upper and lower case are the same.
///
/// # Errors
/// An unknown name; the message lists the attacks.
pub fn find(name: &str) -> Result<&'static AttackEntry, AttackError> {
    let known = || ATTACKS.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ");
    ATTACKS
        .iter()
        .find(|entry| entry.name.eq_ignore_ascii_case(name))
        .ok_or_else(|| AttackError::UnknownAttack { name: name.into(), known: known() })
}

impl AttackEntry {
    /// Every option of this attack, with the value in force if `given` is what was chosen.
    ///
    /// # Errors
    /// An option that the attack does not know, a value that it does not allow.
    pub fn complete(&self, given: &Options) -> Result<Options, AttackError> {
        Ok(given.complete(self.name, self.options)?)
    }

    /// What this attack is to do to images, of the options and the label of the target class that were chosen.
    ///
    /// # Errors
    /// A mode that does not go with the attack.
    pub fn aim(&self, mode: TargetMode, target: u32, options: &Options) -> Result<Aim, AttackError> {
        let specific = |mode| mode == TargetMode::SourceSpecific;
        match (specific(self.mode), specific(mode)) {
            (true, false) => Err(AttackError::OneMode { attack: self.name, own: self.mode.name(), mode: mode.name() }),
            (false, true) => Err(AttackError::NoSource { attack: self.name, mode: mode.name() }),
            _ => Ok(Aim { mode, target, source: specific(mode).then(|| tact::source(options)) }),
        }
    }

    /// Builds the attack.
    ///
    /// # Errors
    /// As [`AttackEntry::complete`]; what does not go with the image size; help that is missing, or the surrogate's errors.
    pub fn build<'a>(&self, blueprint: &Blueprint<'a>) -> Result<Box<dyn Attack + 'a>, AttackError> {
        self.complete(blueprint.options)?;
        (self.build)(blueprint)
    }

    fn option_value(&self, option: &'static str, value: impl ToString, allowed: String) -> AttackError {
        OptionError::Value { owner: self.name, option: option.into(), value: value.to_string(), allowed }.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::mem::discriminant;

    #[test]
    fn an_attack_is_found_in_any_case_and_an_unknown_one_answered_with_the_list() {
        for entry in ATTACKS {
            assert_eq!(find(&entry.name.to_uppercase()).expect(entry.name).name, entry.name);
        }
        let message = find("Mona").err().expect("not known").to_string();
        assert!(message.starts_with("unknown attack `Mona`; known are BadNets, Blended, SIG"), "{message}");
    }

    #[test]
    fn refuses_an_option_of_another_attack_and_a_value_of_another_kind() {
        let message =
            |attack: &str, options: Options| find(attack).expect("known").complete(&options).expect_err("refused").to_string();
        let alpha = || Options::from([("alpha", 0.1.into())]);
        assert_eq!(message("BadNets", alpha()), "BadNets has no option `alpha`; it takes pattern, patch");
        let text = Options::from([("alpha", "much".into())]);
        assert_eq!(message("Blended", text), "Blended: alpha `\"much\"` does not do: give a weight above 0, at most 1");
    }

    #[test]
    fn an_attack_that_needs_a_clean_network_says_so() {
        for entry in ATTACKS.iter().filter(|entry| entry.needs_surrogate) {
            let options = Options::default();
            let message = entry.build(&Blueprint { size: 16, seed: 0, options: &options, help: None }).err().expect("refused");
            assert!(message.to_string().starts_with(&format!("{} is made with a clean network's gradients", entry.name)));
        }
    }

    #[test]
    fn attacks_that_share_an_option_mean_the_same_kind_and_defaults_are_allowed() {
        let mut kinds = HashMap::new();
        for entry in ATTACKS {
            let options = entry.complete(&Options::default()).expect("the defaults are allowed");
            assert!(entry.complete(&options).is_ok(), "{}", entry.name);
            for option in entry.options {
                let kind = discriminant(&option.kind);
                assert_eq!(*kinds.entry(option.name).or_insert(kind), kind, "{} of {}", option.name, entry.name);
                assert!(option.name.chars().all(|c| c.is_ascii_lowercase()), "{} is no single word", option.name);
            }
        }
    }

    #[test]
    fn every_attack_changes_images_and_always_in_the_same_way() {
        for entry in ATTACKS.iter().filter(|entry| !entry.needs_surrogate) {
            for size in [16, 32, 64] {
                let options = Options::default();
                let attack = |seed| entry.build(&Blueprint { size, seed, options: &options, help: None }).expect(entry.name);
                let clean: Vec<u8> = (0..size * size * 3).map(|i| (i * 7919 % 254 + 1) as u8).collect();
                let (mut once, mut again) = (clean.clone(), clean.clone());
                attack(3).apply(&mut once);
                attack(3).apply(&mut again);
                assert!(once != clean && once == again, "{} on {size} pixels", entry.name);
            }
        }
    }
}
