//! `dau run`: the three parts one after the other.

use std::path::Path;

use anyhow::Result;
use toml::Table;

use super::flags::Flags;
use super::inputs::note_left_out;
use super::layers::resolve;
use super::progress::Progress;
use super::{Global, Refuse, announce, host, print, print_json};
use crate::experiment::{Experiment, IMPLANTED, Protocol, Record, Store};
use crate::report::render;

pub fn run(flags: &Flags, global: &Global) -> Result<()> {
    let protocol = resolve(&Table::new(), flags).refuse()?.protocol;
    let out = protocol.out.clone();
    show(&whole_job(protocol, global)?, &out, global)
}

/// Each part takes from the store what the one before left there, as the subtasks do.
pub(super) fn whole_job(protocol: Protocol, global: &Global) -> Result<Record> {
    Store::vet(&protocol.out).refuse()?;
    let progress = Progress::new();
    let experiment = prepare(protocol, None, global, &progress).refuse()?;
    let store = Store::create(&experiment.protocol.out).refuse()?;
    experiment.anti_learning(&store, &progress)?;
    experiment.unlearning(&store, experiment.stage_one(&store)?, &progress)?;
    experiment.test(&store, experiment.stage_two(&store)?, &progress)
}

/// Checks all inputs, and says what was left out and which adapter is used.
///
/// # Errors
/// As [`Experiment::prepare`].
pub(super) fn prepare(protocol: Protocol, earlier: Option<&Store>, global: &Global, progress: &Progress) -> Result<Experiment> {
    let experiment = Experiment::prepare(protocol, earlier, &host(&|precision| global.open(precision), progress))?;
    let images = &experiment.images;
    note_left_out(&images.left_out, images.folder.poisoned.data.len() + images.folder.test.len());
    announce(&experiment.kernels);
    Ok(experiment)
}

/// Shows an experiment's figures: JSON on stdout and nothing else there, or the table; the outcome in a word on stderr.
///
/// # Errors
/// A stdout that refuses.
pub fn show(results: &Record, folder: &Path, global: &Global) -> Result<()> {
    if global.json {
        eprint!("{}", render(results));
        print_json(results)?;
    } else {
        print(&render(results))?;
    }
    let but = match (results.implanted, results.undefended.asr) {
        (Some(false), Some(asr)) => format!(", but the attack did not implant (undefended ASR {asr:.2} %, below {IMPLANTED} %)"),
        (None, _) => ", without triggered test images: whether the attack implanted is not known".into(),
        _ => String::new(),
    };
    eprintln!("done{but}; files: {}", folder.display());
    Ok(())
}
