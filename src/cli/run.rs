//! `dau run`: the three parts one after the other.

use std::path::Path;

use anyhow::Result;
use toml::Table;

use super::flags::Flags;
use super::inputs::{announce_target, note};
use super::layers::{Resolved, resolve};
use super::progress::Progress;
use super::{Global, Refuse, announce, host, print, print_json};
use crate::defenses::Split;
use crate::experiment::{Asked, IMPLANTED, POISON, Protocol, REPORT, RESULTS, Record, Simulation, Store};
use crate::gpu::Precision;
use crate::kernel::Kernels;
use crate::report::{render, run_page, sentences};
use crate::train::{Network, Observer};

pub fn run(flags: &Flags, global: &Global) -> Result<()> {
    let Resolved { mut protocol, given } = resolve(&Table::new(), flags).refuse()?;
    if !given.contains_key("out") {
        protocol.out = Asked::of(&protocol).refuse()?.own_folder(&protocol.out);
    }
    let out = protocol.out.clone();
    show(&whole_job(protocol, flags.force, global)?, &out, global)
}

/// Each part takes from the store what the one before left there, as the subtasks do; what is there is not made again.
pub(super) fn whole_job(protocol: Protocol, force: bool, global: &Global) -> Result<Record> {
    let progress = Progress::new();
    let (experiment, store) = begin(protocol, force, &global.opener(), &progress)?;
    stages(&experiment, &store, &progress)
}

/// All stages of an experiment, and their page.
pub(super) fn stages(experiment: &Simulation, store: &Store, observer: &dyn Observer) -> Result<Record> {
    experiment.anti_learning(store, observer)?;
    experiment.unlearning(store, experiment.stage_one(store)?, observer)?;
    tested(experiment, store, experiment.stage_two(store)?, observer)
}

/// The last stage, and the page of all.
pub(super) fn tested(
    experiment: &Simulation,
    store: &Store,
    networks: (Split, Network, Network),
    observer: &dyn Observer,
) -> Result<Record> {
    let shown = store.has(RESULTS) && store.has(REPORT);
    let split = networks.0.clone();
    let record = experiment.test(store, networks, observer)?;
    if !shown {
        let poison = experiment.images.folder.poisoned.is_poison();
        let page = run_page(&record, store, &poison, &split.score, &split.flagged)?;
        store.write(REPORT, page.as_bytes())?;
    }
    Ok(record)
}

/// An experiment in its own store: a new one, or the one that it goes on in.
pub(super) fn begin(
    protocol: Protocol,
    force: bool,
    open: &dyn Fn(Precision) -> Result<Kernels>,
    observer: &dyn Observer,
) -> Result<(Simulation, Store)> {
    let asked = Asked { force, ..Asked::of(&protocol).refuse()? };
    let earlier = Store::earlier(&protocol.out, &asked).refuse()?;
    let experiment = prepare(protocol, earlier.as_ref().filter(|store| store.has(POISON)), open, observer).refuse()?;
    let asked = experiment.asked(force).refuse()?;
    let store = store_of(&experiment.protocol.out, &asked, Some(&experiment.kernels), earlier).refuse()?;
    Ok((experiment, store))
}

/// The store of a run that begins, or of the `earlier` one that goes on, which is said.
///
/// # Errors
/// As [`Store::begin`].
pub(super) fn store_of(out: &Path, asked: &Asked, kernels: Option<&Kernels>, earlier: Option<Store>) -> Result<Store> {
    let goes_on = earlier.is_some();
    let adapter = kernels.map_or_else(|| "none".to_string(), |kernels| kernels.describe());
    let store = Store::begin(out, asked, &adapter, earlier)?;
    if goes_on {
        say_what_is_there(&store, RESULTS, "and keeps the old folder");
    }
    Ok(store)
}

/// Says whether a run goes on, or has ended with the file `last`; --force runs it again `and` something.
pub(super) fn say_what_is_there(store: &Store, last: &str, and: &str) {
    let folder = store.root().display();
    if store.has(last) {
        let by = store.read_run().map_or(String::new(), |(_, run)| format!(" on {}", run.adapter));
        say!("{folder} holds this run, ended: what follows was found then{by}. --force runs it again {and}");
    } else {
        say!("{folder} holds this run, not ended: it goes on");
    }
}

/// Checks all inputs, and says what was left out and which adapter is used.
///
/// # Errors
/// As [`Simulation::prepare`].
pub(super) fn prepare(
    protocol: Protocol,
    earlier: Option<&Store>,
    open: &dyn Fn(Precision) -> Result<Kernels>,
    observer: &dyn Observer,
) -> Result<Simulation> {
    let experiment = Simulation::prepare(protocol, earlier, &host(open, observer))?;
    let images = &experiment.images;
    note(&images.remarks, images.folder.poisoned.data.len() + images.folder.test.len());
    announce(&experiment.kernels);
    if let Some(reserved) = &images.reserved {
        say!("set aside as surely clean: {} images", reserved.len());
    }
    images.aims.iter().for_each(|aim| announce_target(aim, &images.folder.test.classes));
    Ok(experiment)
}

/// Shows an experiment's figures: JSON on stdout and nothing else there, or the table; the outcome in a word on stderr.
///
/// # Errors
/// A stdout that refuses.
pub fn show(results: &Record, folder: &Path, global: &Global) -> Result<()> {
    if global.json {
        say!("{}", render(results).trim_end());
        print_json(results)?;
    } else {
        print(&render(results))?;
    }
    let but = match (results.implanted, results.undefended.asr) {
        _ if results.none_implanted() => ", but none of the attacks implanted".into(),
        (Some(false), _) if !results.attacks.is_empty() => ", but not every attack implanted".into(),
        (Some(false), Some(asr)) if asr >= IMPLANTED => {
            ", but the attack did not implant: the network errs as well without the trigger".into()
        }
        (Some(false), Some(asr)) => format!(", but the attack did not implant (undefended ASR {asr:.2} %, below {IMPLANTED} %)"),
        (None, _) => ", without triggered test images: whether the attack implanted is not known".into(),
        _ => String::new(),
    };
    for sentence in sentences(results) {
        say!("{sentence}");
    }
    say!("done{but}; files: {}", folder.display());
    Ok(())
}
