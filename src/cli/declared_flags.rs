//! The options that attacks and defenses declare, as flags of the same names.

use std::fmt;
use std::marker::PhantomData;
use std::sync::LazyLock;

use clap::error::Result as Parsed;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use serde::Serialize;

use crate::attacks::ATTACKS;
use crate::data::Spec;
use crate::defenses::dau::Dau;
use crate::defenses::{DEFENSES, Defense};
use crate::experiment::TRAINING_OPTIONS;
use crate::options::{Kind, OptionSpec, OptionValue, Options};

/// Whose options, and what they are for.
pub trait Declared {
    const HEADING: &'static str;

    /// Each option with the name of who declares it.
    fn all() -> Vec<(&'static str, &'static OptionSpec)>;

    /// The declarer whose name need not be said.
    const PLAIN: &'static str = "";
}

/// Of all attacks.
pub enum AttackOptions {}

impl Declared for AttackOptions {
    const HEADING: &'static str = super::flags::ATTACK;

    fn all() -> Vec<(&'static str, &'static OptionSpec)> {
        ATTACKS.iter().flat_map(|entry| entry.options.iter().map(|option| (entry.name, option))).collect()
    }
}

/// Of training.
pub enum TrainingOptions {}

impl Declared for TrainingOptions {
    const HEADING: &'static str = super::flags::TRAINING;

    fn all() -> Vec<(&'static str, &'static OptionSpec)> {
        TRAINING_OPTIONS.iter().map(|option| (Self::PLAIN, option)).collect()
    }
}

fn owned(
    defense: &'static dyn Defense,
    options: &'static [OptionSpec],
) -> impl Iterator<Item = (&'static str, &'static OptionSpec)> {
    options.iter().map(|option| (defense.name(), option))
}

/// Of all defenses, for finding poisoned images.
pub enum DetectOptions {}

impl Declared for DetectOptions {
    const HEADING: &'static str = "Stage 1, finding the poisoned images";
    const PLAIN: &'static str = "DAU";

    fn all() -> Vec<(&'static str, &'static OptionSpec)> {
        DEFENSES.iter().flat_map(|defense| owned(*defense, defense.detect_options())).collect()
    }
}

/// Of all defenses, for making a clean network.
pub enum PurifyOptions {}

impl Declared for PurifyOptions {
    const HEADING: &'static str = "Stage 2, making a clean network";
    const PLAIN: &'static str = "DAU";

    fn all() -> Vec<(&'static str, &'static OptionSpec)> {
        DEFENSES.iter().flat_map(|defense| owned(*defense, defense.purify_options())).collect()
    }
}

/// DAU's, for finding poisoned images.
pub enum DauDetectOptions {}

impl Declared for DauDetectOptions {
    const HEADING: &'static str = DetectOptions::HEADING;
    const PLAIN: &'static str = "DAU";

    fn all() -> Vec<(&'static str, &'static OptionSpec)> {
        owned(&Dau, Dau.detect_options()).collect()
    }
}

/// DAU's, for making a clean network.
pub enum DauPurifyOptions {}

impl Declared for DauPurifyOptions {
    const HEADING: &'static str = PurifyOptions::HEADING;
    const PLAIN: &'static str = "DAU";

    fn all() -> Vec<(&'static str, &'static OptionSpec)> {
        owned(&Dau, Dau.purify_options()).collect()
    }
}

/// The options that were given.
#[derive(Serialize)]
#[serde(transparent)]
pub struct DeclaredFlags<D> {
    pub options: Options,
    #[serde(skip)]
    whose: PhantomData<D>,
}

impl<D> DeclaredFlags<D> {
    pub fn new(options: Options) -> DeclaredFlags<D> {
        DeclaredFlags { options, whose: PhantomData }
    }
}

impl<D> Clone for DeclaredFlags<D> {
    fn clone(&self) -> DeclaredFlags<D> {
        DeclaredFlags::new(self.options.clone())
    }
}

impl<D> Default for DeclaredFlags<D> {
    fn default() -> DeclaredFlags<D> {
        DeclaredFlags::new(Options::default())
    }
}

impl<D> fmt::Debug for DeclaredFlags<D> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.options.fmt(f)
    }
}

/// Every option's name once, with those who declare it.
fn by_name<D: Declared>() -> Vec<(&'static str, Vec<(&'static str, &'static OptionSpec)>)> {
    let mut found: Vec<(&str, Vec<_>)> = Vec::new();
    for owner in D::all() {
        let name = owner.1.name;
        match found.iter_mut().find(|(known, _)| *known == name) {
            Some((_, owners)) => owners.push(owner),
            None => found.push((name, vec![owner])),
        }
    }
    found
}

/// An option's default, and the data sets that have another.
fn defaults(option: &OptionSpec) -> String {
    static SPECS: LazyLock<Vec<Spec>> =
        LazyLock::new(|| Spec::names().into_iter().filter_map(|name| Spec::find(name).ok()).collect());
    let usual = option.default();
    let own = |spec: &Spec| Some(format!("{} of {}", spec.options.0.get(option.name).filter(|own| **own != usual)?, spec.name));
    std::iter::once(usual.to_string()).chain(SPECS.iter().filter_map(own)).collect::<Vec<_>>().join(", ")
}

impl<D: Declared> Args for DeclaredFlags<D> {
    fn augment_args(command: Command) -> Command {
        by_name::<D>().into_iter().fold(command, |command, (name, owners)| {
            let help = |(owner, option): &(&str, &OptionSpec)| {
                let text = format!("{} [default: {}]", option.help, defaults(option));
                let (first, rest) = text.split_at(1);
                if *owner == D::PLAIN { first.to_uppercase() + rest } else { format!("{owner}: {text}") }
            };
            let option = owners[0].1; // tests of attacks and defenses say that all take the same kind
            let value = match option.kind {
                Kind::Flag { .. } => "BOOL",
                Kind::Number { .. } => "NUMBER",
                Kind::Word { .. } => "NAME",
                Kind::Classes { .. } => "CLASSES",
            };
            let help = owners.iter().map(help).collect::<Vec<_>>().join("; ");
            let parser = move |text: &str| option.parse(text);
            let arg = Arg::new(name).long(name.replace('_', "-")).value_name(value).help(help).help_heading(D::HEADING);
            command.arg(arg.allow_negative_numbers(true).value_parser(parser))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<D: Declared> FromArgMatches for DeclaredFlags<D> {
    fn from_arg_matches(matches: &ArgMatches) -> Parsed<DeclaredFlags<D>> {
        let given = |name: &str| matches.get_one::<OptionValue>(name).map(|value| (name.to_string(), value.clone()));
        Ok(DeclaredFlags::new(Options(by_name::<D>().into_iter().filter_map(|(name, _)| given(name)).collect())))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Parsed<()> {
        self.options.0.extend(DeclaredFlags::<D>::from_arg_matches(matches)?.options.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `datasets/digits.toml` and `datasets/folder.toml` have them.
    #[test]
    fn a_default_is_said_with_the_data_sets_that_have_another() {
        let help = DeclaredFlags::<TrainingOptions>::augment_args(Command::new("test")).render_long_help().to_string();
        assert!(help.contains("[default: 64, 16 of digits]"), "{help}");
        assert!(help.contains("[default: 0.03, 0.02 of digits, 0.01 of folder]"), "{help}");
        assert!(help.contains("[default: 0.9]"), "{help}");
    }
}
