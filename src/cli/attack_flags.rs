//! Flags for the attacks: the options that each of [`ATTACKS`] declares become flags of the same names.

use clap::error::Result as Parsed;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use serde::Serialize;

use super::flags::word;
use crate::attacks::{ATTACKS, AttackOption, AttackOptions, Kind, OptionValue, Target, TargetMode};

/// Which trigger, and whose label it stands for.
#[derive(Args, Serialize, Clone, Debug, Default)]
pub struct AttackFlags {
    #[arg(long, value_name = "NAME", help = format!("{} [default: {}]", names(), ATTACKS[0].name))]
    pub attack: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    pub options: OptionFlags,
    /// What triggered images are to be taken for: all-to-one (the target), all-to-all (the next class) or clean-label (the
    /// target, only its own images being poisoned) [default: the attack's]
    #[arg(long, value_name = "MODE", value_parser = word::<TargetMode>)]
    pub target_mode: Option<TargetMode>,
    /// The class that triggered images are to be taken for, its number or its name [default: 0]
    #[arg(long, value_name = "CLASS", value_parser = word::<Target>)]
    pub target: Option<Target>,
}

fn names() -> String {
    ATTACKS.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ")
}

/// The attacks' options that were given.
#[derive(Serialize, Clone, Debug, Default)]
#[serde(transparent)]
pub struct OptionFlags(pub AttackOptions);

/// Every option's name once, with the attacks that have it.
fn by_name() -> Vec<(&'static str, Vec<(&'static str, &'static AttackOption)>)> {
    let mut found: Vec<(&str, Vec<_>)> = Vec::new();
    for (entry, option) in ATTACKS.iter().flat_map(|entry| entry.options.iter().map(move |option| (entry, option))) {
        let owner = (entry.name, option);
        match found.iter_mut().find(|(name, _)| *name == option.name) {
            Some((_, owners)) => owners.push(owner),
            None => found.push((option.name, vec![owner])),
        }
    }
    found
}

impl Args for OptionFlags {
    fn augment_args(command: Command) -> Command {
        by_name().into_iter().fold(command, |command, (name, owners)| {
            let help = |(attack, option): &(&str, &AttackOption)| format!("{attack}: {} [{}]", option.help, option.default());
            let option = owners[0].1; // a test of the attacks says that all take the same kind
            let value = match option.kind {
                Kind::Flag { .. } => "BOOL",
                Kind::Number { .. } => "NUMBER",
                Kind::Word { .. } => "NAME",
            };
            let help = owners.iter().map(help).collect::<Vec<_>>().join("; ");
            let parser = move |text: &str| option.parse(text);
            let arg = Arg::new(name).long(name).value_name(value).help(help).allow_negative_numbers(true).value_parser(parser);
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for OptionFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Parsed<OptionFlags> {
        let given = |name: &str| matches.get_one::<OptionValue>(name).map(|value| (name.to_string(), value.clone()));
        Ok(OptionFlags(AttackOptions(by_name().into_iter().filter_map(|(name, _)| given(name)).collect())))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Parsed<()> {
        self.0.0.extend(OptionFlags::from_arg_matches(matches)?.0.0);
        Ok(())
    }
}
