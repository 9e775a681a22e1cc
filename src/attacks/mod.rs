//! Backdoor attacks on images, to make the poisoned data that a defense is tried on.
//!
//! An attack only stamps a trigger on an image; whose images and which new labels is the protocol's business
//! ([`poison`]). To add one: a file here and a line in [`ATTACKS`].

mod badnets;
mod blended;
mod error;
mod poison;
mod preview;

pub use error::AttackError;
pub use poison::{Draw, PoisonOptions, Poisoned, TriggeredTest, poison, triggered_test};
pub use preview::contact_sheet;

/// A trigger in image space.
pub trait Attack: Send + Sync {
    fn name(&self) -> &'static str;

    /// Every option it has, with the value in force; the seed is the caller's.
    fn options(&self) -> AttackOptions;

    /// Stamps the trigger on one RGB image `[size, size, 3]`, of the size that the attack was built for.
    fn apply(&self, image: &mut [u8], size: usize);
}

/// What can be chosen about an attack; an attack refuses an option that it does not know.
#[derive(Clone, Debug, Default)]
pub struct AttackOptions {
    /// For triggers that are drawn at random.
    pub seed: u64,
    /// BadNets: `white` or `grid`.
    pub pattern: Option<String>,
    /// Blended: weight of the picture, above 0, at most 1.
    pub alpha: Option<f32>,
    /// BadNets: side of the patch in pixels.
    pub patch: Option<usize>,
}

impl AttackOptions {
    /// An error if an option is given that is not among `known`.
    fn only(&self, attack: &'static str, known: &'static [&'static str]) -> Result<(), AttackError> {
        let given = [("pattern", self.pattern.is_some()), ("alpha", self.alpha.is_some()), ("patch", self.patch.is_some())];
        match given.into_iter().find(|(option, given)| *given && !known.contains(option)) {
            Some((option, _)) => Err(AttackError::UnknownOption { attack, option, known: known.join(", ") }),
            None => Ok(()),
        }
    }
}

/// Builds an attack for images of so many pixels a side.
pub type Build = fn(&AttackOptions, usize) -> Result<Box<dyn Attack>, AttackError>;

/// An attack as it is listed.
pub struct AttackEntry {
    pub name: &'static str,
    /// One line for help texts.
    pub summary: &'static str,
    pub build: Build,
}

/// The attacks that `dau` knows.
pub static ATTACKS: &[AttackEntry] = &[badnets::ENTRY, blended::ENTRY];

/// Builds the attack called `name` (upper and lower case are the same) for images of `size` pixels a side.
///
/// # Errors
/// An unknown name (the message lists the attacks), an option that the attack does not know, a value out of range.
pub fn find(name: &str, options: &AttackOptions, size: usize) -> Result<Box<dyn Attack>, AttackError> {
    match ATTACKS.iter().find(|entry| entry.name.eq_ignore_ascii_case(name)) {
        Some(entry) => (entry.build)(options, size),
        None => {
            let known: Vec<_> = ATTACKS.iter().map(|entry| entry.name).collect();
            Err(AttackError::UnknownAttack { name: name.into(), known: known.join(", ") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attack_is_found_in_any_case_and_an_unknown_one_answered_with_the_list() {
        for entry in ATTACKS {
            let attack = find(&entry.name.to_uppercase(), &AttackOptions::default(), 16).expect(entry.name);
            assert_eq!(attack.name(), entry.name);
        }
        let message = find("SIG", &AttackOptions::default(), 16).err().expect("not known").to_string();
        assert_eq!(message, "unknown attack `SIG`; known are BadNets, Blended");
    }

    #[test]
    fn refuses_an_option_of_another_attack() {
        let alpha = AttackOptions { alpha: Some(0.1), ..Default::default() };
        let message = find("BadNets", &alpha, 16).err().expect("unknown option").to_string();
        assert_eq!(message, "BadNets has no option `alpha`; it takes pattern, patch");
        let patch = AttackOptions { patch: Some(3), ..Default::default() };
        assert!(matches!(find("Blended", &patch, 16), Err(AttackError::UnknownOption { option: "patch", .. })));
    }
}
