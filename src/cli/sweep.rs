//! `dau sweep`: every combination of some settings, and their table.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use clap::Args;
use serde_json::json;
use toml::Table;

use super::flags::Flags;
use super::layers::resolve;
use super::lost::is_loss;
use super::progress::Progress;
use super::run::{begin, prepare, stages};
use super::{Global, Refuse, print, print_json};
use crate::attacks;
use crate::defenses::options_of;
use crate::experiment::sweep::{Cell, Sweep, record, rows};
use crate::experiment::{Asked, BACKDOORED, Protocol, Record, StoreError};
use crate::files::write_atomic;
use crate::gpu::Precision;
use crate::kernel::Kernels;
use crate::report::{as_csv, as_markdown, sweep_page};
use crate::train::{EpochRecord, Observer, TrainError};

#[derive(Args, Clone, Debug)]
pub struct SweepArgs {
    /// What to vary, and where to: see sweeps/quick.toml. Given again, it goes on
    #[arg(value_name = "SWEEP.toml")]
    file: PathBuf,
    /// Do one cell only, by its number from 0 on: for the tasks of a job array
    #[arg(long, value_name = "N")]
    cell: Option<usize>,
    /// List the cells, and which have ended; do nothing
    #[arg(long)]
    list: bool,
    /// Print a Slurm job array, one cell a task; `dau sweep SWEEP.toml --list` gathers its table
    #[arg(long)]
    slurm: bool,
    /// Begin cells anew that were asked otherwise before; their old folders are kept
    #[arg(long)]
    pub(super) force: bool,
}

/// A cell, ready to be done.
struct Job {
    cell: Cell,
    protocol: Protocol,
    /// The folder of the network that all cells share which differ in their defense alone.
    victim: PathBuf,
}

/// The tables, in the sweep's folder.
const TABLE: [&str; 4] = ["table.md", "table.csv", "table.json", "report.html"];

pub fn run(args: &SweepArgs, global: &Global) -> Result<()> {
    let sweep = Sweep::read(&args.file).refuse()?;
    let jobs = jobs(&sweep).refuse()?;
    if args.slurm {
        return print(&job_array(args, jobs.len()));
    }
    let chosen: Vec<&Job> = match args.cell {
        None => jobs.iter().collect(),
        Some(n) => vec![jobs.get(n).ok_or_else(|| anyhow!("--cell {n}: there are {} cells, from 0 on", jobs.len())).refuse()?],
    };
    let mut failed = BTreeMap::new();
    if !args.list {
        fs::create_dir_all(&sweep.out).map_err(|e| anyhow!("cannot make {}: {e}", sweep.out.display())).refuse()?;
        failed = all(&chosen, args, global)?;
    }
    let (found, damaged) = ended(&jobs);
    failed.extend(damaged);
    if args.list {
        for (n, job) in jobs.iter().enumerate() {
            let has = if found.iter().any(|(cell, _)| *cell == job.cell) { "ended" } else { "-" };
            say!("{n:5} {has:6} {}", shown(&job.cell));
        }
    }
    let table = rows(&found);
    let texts = [as_markdown(&table), as_csv(&table)?, serde_json::to_string_pretty(&table)? + "\n", sweep_page(&table)?];
    if sweep.out.is_dir() && args.cell.is_none() {
        for (file, text) in TABLE.iter().zip(&texts) {
            write_atomic(&sweep.out.join(file), text.as_bytes())?;
        }
    }
    if global.json {
        print_json(&json!({ "rows": table, "cells": jobs.len(), "ended": found.len(), "failed": failed }))?;
    } else {
        print(&texts[0])?;
    }
    for (cell, why) in &failed {
        say!("failed: {cell}: {why}");
    }
    say!("{} of {} cells have ended; tables: {}", found.len(), jobs.len(), sweep.out.join(TABLE[0]).display());
    ensure!(failed.is_empty(), "{} of {} cells failed; the same command tries them again", failed.len(), chosen.len());
    Ok(())
}

/// Every cell with its settings checked.
fn jobs(sweep: &Sweep) -> Result<Vec<Job>> {
    let job = |cell: Cell| -> Result<Job> {
        let spelled = |(key, value): (&String, &toml::Value)| (key.replace('-', "_"), value.clone());
        let preset: Table = cell.settings.iter().map(spelled).collect();
        let resolved = resolve(&preset, &Flags::default()).map_err(|e| anyhow!("{}: {e}", shown(&cell)))?;
        let mut protocol = resolved.protocol;
        let name: Vec<&str> = cell.axes.values().map(String::as_str).collect();
        let name = name.join("-").to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "-");
        // A clean network for attacks that are made with its gradients: one for all cells that are trained alike.
        if protocol.poisoned.is_none() && protocol.surrogate.is_none() && attacks::find(&protocol.attack)?.needs_surrogate {
            protocol.surrogate =
                Some(shared(&sweep.out.join("surrogates").join("clean"), &protocol, true)?.with_extension("safetensors"));
        }
        let victim = shared(&sweep.out.join("victims").join("network"), &protocol, false)?;
        protocol.out = Asked::of(&protocol)?.own_folder(&sweep.out.join("cells").join(name));
        Ok(Job { cell, protocol, victim })
    };
    sweep.cells()?.into_iter().map(job).collect()
}

/// A path for what all share whose settings but the defense's, or `clean`, but the attack's too, are the same.
fn shared(prefix: &Path, protocol: &Protocol, clean: bool) -> Result<PathBuf> {
    let mut asked = Asked::of(protocol)?;
    let reserve = protocol.reserve()?;
    let defense = protocol.defense()?;
    options_of(defense).for_each(|option| drop(asked.settings.remove(option.name)));
    asked.settings.remove("defense");
    asked.settings.insert("reserve".into(), reserve.into());
    if clean {
        asked.settings = protocol.without_poisoning()?.into_iter().filter(|(key, _)| asked.settings.contains_key(key)).collect();
        asked.settings.insert("reserve".into(), reserve.into());
    }
    Ok(asked.own_folder(prefix))
}

/// Does what has not ended, one cell after the other; those that failed, and why.
fn all(jobs: &[&Job], args: &SweepArgs, global: &Global) -> Result<BTreeMap<String, String>> {
    let progress = Progress::new();
    let quiet = Quiet(&progress);
    // One device for all cells: what is compiled for one is there for the next.
    let opened: RefCell<Option<(Precision, Kernels)>> = RefCell::default();
    let open = |precision: Precision| -> Result<Kernels> {
        if let Some((_, kernels)) = opened.borrow().as_ref().filter(|(known, _)| *known == precision) {
            return Ok(kernels.clone());
        }
        let kernels = global.open(precision)?;
        *opened.borrow_mut() = Some((precision, kernels.clone()));
        Ok(kernels)
    };
    let left: Vec<&&Job> = jobs.iter().filter(|job| !matches!(record(&job.protocol.out), Ok(Some(_)))).collect();
    say!("{} of {} cells are left", left.len(), jobs.len());
    let (mut failed, start) = (BTreeMap::new(), Instant::now());
    for (n, job) in left.iter().enumerate() {
        match one(job, args.force, &open, &quiet) {
            Ok(found) => say!("{} of {}: {}: {}", n + 1, left.len(), shown(&job.cell), in_a_line(&found)),
            Err(error) if matches!(error.downcast_ref(), Some(TrainError::Cancelled)) || is_loss(&error) => return Err(error),
            Err(error) if matches!(error.root_cause().downcast_ref(), Some(StoreError::Busy { .. })) => {
                say!("{} of {}: {}: another process is at it", n + 1, left.len(), shown(&job.cell));
            }
            Err(error) => {
                say!("{} of {}: {}: failed: {error}", n + 1, left.len(), shown(&job.cell));
                failed.insert(shown(&job.cell), error.to_string());
            }
        }
        let (done, rest) = ((n + 1) as u32, (left.len() - n - 1) as u32);
        if rest > 0 {
            say!("about {} left", span(start.elapsed() / done * rest));
        }
    }
    Ok(failed)
}

/// One cell, with the network that it shares: whoever comes first trains it, and others wait.
fn one(job: &Job, force: bool, open: &dyn Fn(Precision) -> Result<Kernels>, observer: &dyn Observer) -> Result<Record> {
    if let Some(surrogate) = job.protocol.surrogate.as_deref().filter(|path| !path.is_file()) {
        let _held = held(surrogate)?;
        if !surrogate.is_file() {
            let own = Protocol { surrogate: None, ..job.protocol.clone() };
            let Some(network) = prepare(own, None, open, observer)?.images.surrogate else { bail!("no surrogate was made") };
            network.save(surrogate)?;
        }
    }
    let (experiment, store) = begin(job.protocol.clone(), force, open, observer)?;
    if !store.has(BACKDOORED) {
        let network = job.victim.with_extension("safetensors");
        let _held = held(&network)?;
        if network.is_file() {
            store.write(BACKDOORED, &fs::read(&network)?)?;
        } else {
            experiment.victim(&store, observer)?;
            write_atomic(&network, &fs::read(store.path(BACKDOORED))?)?;
        }
    }
    stages(&experiment, &store, observer)
}

/// A lock beside `path`, waited for; the system lets go of it when the process ends, however it ends.
fn held(path: &Path) -> Result<File> {
    let lock = path.with_extension("lock");
    let folder = lock.parent().unwrap_or(Path::new("."));
    let failed = |e: std::io::Error| anyhow!("cannot hold {}: {e}", lock.display());
    fs::create_dir_all(folder).map_err(failed)?;
    let file = File::options().create(true).append(true).open(&lock).map_err(failed)?;
    // Some network file systems know no locks: then two may train the same network, to the same bits.
    if let Err(e) = file.lock() {
        log::warn!("cannot hold {}: {e}", lock.display());
    }
    Ok(file)
}

/// What has ended; and what is damaged.
fn ended(jobs: &[Job]) -> (Vec<(Cell, Record)>, BTreeMap<String, String>) {
    let (mut found, mut damaged) = (Vec::new(), BTreeMap::new());
    for job in jobs {
        match record(&job.protocol.out) {
            Ok(Some(record)) => found.push((job.cell.clone(), record)),
            Ok(None) => {}
            Err(error) => drop(damaged.insert(shown(&job.cell), error.to_string())),
        }
    }
    (found, damaged)
}

fn shown(cell: &Cell) -> String {
    cell.axes.iter().map(|(axis, value)| format!("{axis} {value}")).collect::<Vec<_>>().join(", ")
}

fn in_a_line(found: &Record) -> String {
    let percent = |share: Option<f64>| share.map_or("-".into(), |share| format!("{share:.1}"));
    let of = |f: &crate::experiment::Figures| [Some(f.acc), f.asr, f.ra].map(percent).join(" / ");
    format!("ACC / ASR / RA {} to {}, DER {}", of(&found.undefended), of(&found.defended), percent(found.der))
}

fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 7200 => format!("{} min", seconds / 60),
        seconds => format!("{:.1} h", seconds as f64 / 3600.0),
    }
}

/// `sbatch` takes it from stdin. A task that is requeued goes on where it was.
fn job_array(args: &SweepArgs, cells: usize) -> String {
    let file = args.file.display().to_string().replace('\'', "'\\''");
    format!(
        "#!/bin/sh\n#SBATCH --job-name=dau-sweep\n#SBATCH --array=0-{}\n#SBATCH --requeue\n#SBATCH --gres=gpu:1\n\
         # One cell a task; afterwards: dau sweep '{file}' --list\nexec dau sweep '{file}' --cell \"$SLURM_ARRAY_TASK_ID\"\n",
        cells.saturating_sub(1)
    )
}

/// Hears of a wish to stop, and shows nothing of what a single cell does.
struct Quiet<'a>(&'a Progress);

impl Observer for Quiet<'_> {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn epoch(&self, _: &EpochRecord) -> Result<(), TrainError> {
        Ok(())
    }
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}
