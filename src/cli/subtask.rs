//! `dau --subtask anti_learning|unlearning|test`, the original's command line: one part of the job at a time, sharing a run
//! folder.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;
use toml::Table;

use super::flags::{Flags, word};
use super::layers::{agree, resolve};
use super::progress::Progress;
use super::run::{begin, prepare, say_what_is_there, show, tested};
use super::{Global, Refuse};
use crate::defenses::SCRATCH;
use crate::experiment::{
    BACKDOORED, DEFENDED, INSPECTION, POISON, Protocol, REPORT, RESULTS, RUN, Store, Subtask, UNDEFENDED_TEST,
};

const FLAG: &str = "--subtask";

/// Arguments of the three subtasks.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "dau --subtask <anti_learning|unlearning|test> [OPTIONS]")]
pub struct SubtaskArgs {
    /// anti_learning, unlearning or test
    #[arg(long, value_name = "PART", value_parser = word::<Subtask>)]
    subtask: Subtask,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// `dau --subtask x ...` as `dau subtask --subtask x ...`, so that it is a subcommand like any other.
pub(super) fn as_subcommand(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    let given = |a: &OsString| a.to_str().is_some_and(|a| a == FLAG || a.starts_with("--subtask="));
    if args.iter().skip(1).any(given) && args.get(1).is_none_or(|first| first != "subtask") {
        args.insert(1, "subtask".into());
    }
    args
}

pub fn run(args: &SubtaskArgs, global: &Global) -> Result<()> {
    let resolved = resolve(&Table::new(), &args.flags).refuse()?;
    let out = resolved.protocol.out.clone();
    let progress = Progress::new();
    let open = global.opener();
    let force = args.flags.force;
    if args.subtask == Subtask::AntiLearning {
        let (experiment, store) = begin(resolved.protocol, force, &open, &progress)?;
        experiment.anti_learning(&store, &progress)?;
        say!("next: {}", command(Subtask::Unlearning));
        return Ok(());
    }

    inputs(&out, args.subtask, &[(RUN, Subtask::AntiLearning)]).refuse()?;
    let store = Store::open(&out).refuse()?;
    let (stored, _) = store.read_run().refuse()?;
    let mut protocol = Protocol::from_run(stored, &store.path(RUN)).refuse()?;
    agree(&resolved.given, &protocol, &out).refuse()?;
    let left = [
        (POISON, Subtask::AntiLearning),
        (protocol.end_of_stage_one().refuse()?, Subtask::AntiLearning),
        (BACKDOORED, Subtask::AntiLearning),
        (DEFENDED, Subtask::Unlearning),
    ];
    inputs(&out, args.subtask, &left).refuse()?;
    protocol.out = out.clone();
    let experiment = prepare(protocol, Some(&store), &open, &progress).refuse()?;
    if force {
        let files = if args.subtask == Subtask::Unlearning {
            &[DEFENDED, SCRATCH, RESULTS, UNDEFENDED_TEST, INSPECTION, REPORT][..]
        } else {
            &[RESULTS, UNDEFENDED_TEST, INSPECTION, REPORT]
        };
        store.undo(files, args.subtask)?;
    }
    if args.subtask == Subtask::Unlearning {
        if store.has(DEFENDED) {
            say!("{} holds what this part made: --force makes it again in its place", out.display());
        }
        let input = experiment.stage_one(&store).refuse()?;
        experiment.unlearning(&store, input, &progress)?;
        say!("next: {}", command(Subtask::Test));
        Ok(())
    } else {
        if store.has(RESULTS) {
            say_what_is_there(&store, RESULTS, "in its place");
        }
        let input = experiment.stage_two(&store).refuse()?;
        show(&tested(&experiment, &store, input, &progress)?, &out, global)
    }
}

/// Whether the parts before `part` have left these files, each of which is named with its maker; else says which part to run first.
fn inputs(folder: &Path, part: Subtask, left: &[(&str, Subtask)]) -> Result<()> {
    match left.iter().find(|(file, maker)| *maker < part && !folder.join(file).is_file()) {
        Some((file, maker)) => {
            bail!(
                "--subtask {} needs {}, which is not there; run first: {}",
                part.name(),
                folder.join(file).display(),
                command(*maker)
            )
        }
        None => Ok(()),
    }
}

/// The command line as it was given, but for another part.
fn command(part: Subtask) -> String {
    let mut words = vec!["dau".to_string()];
    let mut args = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned());
    while let Some(arg) = args.next() {
        match arg.strip_prefix(FLAG) {
            Some("") => {
                args.next();
                words.extend([FLAG.to_string(), part.name().to_string()]);
            }
            Some(value) if value.starts_with('=') => words.push(format!("{FLAG}={}", part.name())),
            _ => words.push(quoted(&arg)),
        }
    }
    words.join(" ")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_=./,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(args: &[&str]) -> String {
        let args = as_subcommand(std::iter::once("dau").chain(args.iter().copied()).map(OsString::from));
        args.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_originals_command_line_becomes_a_subcommand() {
        assert_eq!(converted(&["--subtask", "test", "--dataset", "x"]), "dau subtask --subtask test --dataset x");
        assert_eq!(converted(&["--adapter", "0", "--subtask=test"]), "dau subtask --adapter 0 --subtask=test");
        assert_eq!(converted(&["run", "--dataset", "x"]), "dau run --dataset x");
    }

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        assert_eq!(quoted("CIFAR-10"), "CIFAR-10");
        assert_eq!(quoted("my data"), "'my data'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
