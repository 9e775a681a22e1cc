//! `dau sweep`: every combination of some settings, and their table.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use clap::Args;
use serde_json::json;
use toml::Table;

use super::flags::{Flags, known_as, known_keys};
use super::layers::resolve;
use super::lost::is_loss;
use super::progress::Progress;
use super::run::{begin, prepare, stages};
use super::{Global, Refuse, print, print_json};
use crate::attacks;
use crate::defenses::{self, options_of};
use crate::experiment::protocol::{CORRUPT_SPLIT, RESERVED};
use crate::experiment::sweep::{Cell, Sweep, record, rows};
use crate::experiment::{Asked, BACKDOORED, IMPLANTED, Protocol, RESERVE, Record, StoreError};
use crate::files::write_atomic;
use crate::gpu::Precision;
use crate::kernel::Kernels;
use crate::report::{as_csv, as_markdown, sweep_page};
use crate::train::{EpochRecord, Observer, TrainError};

const EXAMPLE: &str = "\
A sweep's file; keys are the flags of `dau run --help`, with _ for -:
  out = \"runs/my-sweep\"
  [all]                      # settings of every cell
  dataset = \"digits\"
  epochs = 6
  [vary]                     # every combination is a cell
  attack = [\"BadNets\", { name = \"thin\", attack = \"BadNets\", poison_rate = 0.02 }]
  defense = [\"DAU\", \"fine-tuning\", \"none\"]
  seed = [0, 1, 2]           # the table has their mean
Where one of the defenses needs clean images, a twentieth of them is set aside for all cells (`reserve`).";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLE)]
pub struct SweepArgs {
    /// What to vary, and where to (an example is below). Given again, it goes on
    #[arg(value_name = "SWEEP.toml")]
    file: PathBuf,
    /// Do one cell only, by its number from 0 on: for the tasks of a job array
    #[arg(long, value_name = "N")]
    cell: Option<usize>,
    /// List the cells, and which have ended; do nothing
    #[arg(long)]
    list: bool,
    /// Print a Slurm job array for sbatch, one task a cell that has not ended
    #[arg(long)]
    slurm: bool,
    /// Go on in the folder of another sweep
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

/// The sweep that a folder holds.
const SWEEP: &str = "sweep.toml";

pub fn run(args: &SweepArgs, global: &Global) -> Result<()> {
    let sweep = Sweep::read(&args.file).refuse()?;
    let jobs = jobs(&sweep).refuse()?;
    if args.slurm {
        let left: Vec<usize> = (0..jobs.len()).filter(|n| !matches!(record(&jobs[*n].protocol.out), Ok(Some(_)))).collect();
        let none = Err(anyhow!("all {} cells have ended: there is nothing for a job to do", jobs.len()));
        return if left.is_empty() { none.refuse() } else { print(&job_array(&left)) };
    }
    let chosen: Vec<&Job> = match args.cell {
        None => jobs.iter().collect(),
        Some(n) => vec![jobs.get(n).ok_or_else(|| anyhow!("--cell {n}: there are {} cells, from 0 on", jobs.len())).refuse()?],
    };
    if args.list {
        return list(&jobs, global);
    }
    take_folder(&sweep, args).refuse()?;
    let mut failed = all(&chosen, args, global)?;
    let (found, damaged) = ended(&jobs);
    failed.extend(damaged);
    let table = rows(&found);
    let texts = [as_markdown(&table), as_csv(&table)?, serde_json::to_string_pretty(&table)? + "\n", sweep_page(&table)?];
    if args.cell.is_none() {
        for (file, text) in TABLE.iter().zip(&texts) {
            write_atomic(&sweep.out.join(file), text.as_bytes())?;
        }
    }
    if global.json {
        print_json(&json!({ "rows": table, "cells": jobs.len(), "ended": found.len(), "failed": failed }))?;
    } else {
        print(&texts[0])?;
    }
    let weak = table.iter().filter(|row| row.implanted < row.seeds).count();
    if weak > 0 {
        say!(
            "warning: in {weak} of {} rows an attack did not implant in every run (undefended ASR below {IMPLANTED} %): they say little",
            table.len()
        );
    }
    for (cell, why) in &failed {
        say!("failed: {cell}: {why}");
    }
    say!("{} of {} cells have ended; tables: {}", found.len(), jobs.len(), sweep.out.join(TABLE[0]).display());
    ensure!(failed.is_empty(), "{} of {} cells failed; the same command tries them again", failed.len(), chosen.len());
    Ok(())
}

/// Says what each cell is and how far.
fn list(jobs: &[Job], global: &Global) -> Result<()> {
    let state = |job: &Job| match record(&job.protocol.out) {
        Ok(Some(_)) => "ended",
        Ok(None) if job.protocol.out.is_dir() => "begun",
        Ok(None) => "-",
        Err(_) => "damaged",
    };
    if global.json {
        let cells: Vec<_> =
            jobs.iter().map(|job| json!({ "cell": job.cell.axes, "state": state(job), "folder": job.protocol.out })).collect();
        return print_json(&cells);
    }
    let lines = jobs.iter().enumerate().map(|(n, job)| format!("{n:5} {:8} {}\n", state(job), shown(&job.cell)));
    print(&lines.collect::<String>())
}

/// Makes the sweep's folder, and refuses that of another sweep.
fn take_folder(sweep: &Sweep, args: &SweepArgs) -> Result<()> {
    let (folder, path) = (sweep.out.display(), sweep.out.join(SWEEP));
    let text = fs::read(&args.file)?;
    if let Ok(earlier) = fs::read(&path) {
        let same = earlier == text || args.force;
        ensure!(
            same,
            "{folder} holds another sweep, {}: give another `out`, or --force to go on there with cells of both",
            path.display()
        );
    }
    fs::create_dir_all(&sweep.out).map_err(|e| anyhow!("cannot make {folder}: {e}"))?;
    Ok(write_atomic(&path, &text)?)
}

/// Every cell with its settings checked.
fn jobs(sweep: &Sweep) -> Result<Vec<Job>> {
    let known = known_keys();
    let cells = sweep.cells()?;
    let preset = |cell: &Cell| -> Result<Table> {
        let spelled = |(key, value): (&String, &toml::Value)| Ok((known_as(key, &known)?, value.clone()));
        cell.settings.iter().map(spelled).collect::<Result<Table>>().map_err(|e| anyhow!("{}: {e}", shown(cell)))
    };
    let presets = cells.iter().map(preset).collect::<Result<Vec<Table>>>()?;
    // Where one defense needs clean images, all cells go without these: the others are to be compared with it.
    let needy = |preset: &Table| {
        preset
            .get("defense")
            .and_then(toml::Value::as_str)
            .and_then(|name| defenses::find(name).ok())
            .is_some_and(|d| d.needs_clean())
    };
    let reserve = presets.iter().any(needy);
    let job = |(cell, mut preset): (Cell, Table)| -> Result<Job> {
        if reserve {
            preset.entry(RESERVE.name).or_insert(RESERVED.into());
        }
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
    cells.into_iter().zip(presets).map(job).collect()
}

/// A path for what all share whose settings but the defense's, or `clean`, but the attack's too, are the same.
fn shared(prefix: &Path, protocol: &Protocol, clean: bool) -> Result<PathBuf> {
    let mut asked = Asked::of(protocol)?;
    let defense = protocol.defense()?;
    options_of(defense).for_each(|option| drop(asked.settings.remove(option.name)));
    asked.settings.retain(|key, _| !["defense", CORRUPT_SPLIT].contains(&key));
    if clean {
        asked.settings = protocol.without_poisoning()?.into_iter().filter(|(key, _)| asked.settings.contains_key(key)).collect();
    }
    Ok(asked.own_folder(prefix))
}

/// Does what has not ended, one cell after the other; those that failed, and why.
fn all(jobs: &[&Job], args: &SweepArgs, global: &Global) -> Result<BTreeMap<String, String>> {
    let progress = Progress::new();
    let watch = Watch { progress: &progress, loud: global.verbose > 0 || std::io::stderr().is_terminal() };
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
        match one(job, args.force, &open, &watch) {
            Ok(found) => say!("{} of {}: {}: {}", n + 1, left.len(), shown(&job.cell), in_a_line(&found)),
            Err(error) if matches!(error.downcast_ref(), Some(TrainError::Cancelled)) || is_loss(&error) => return Err(error),
            Err(error) if matches!(error.root_cause().downcast_ref(), Some(StoreError::Busy { .. })) => {
                say!("{} of {}: {}: another process is at it", n + 1, left.len(), shown(&job.cell));
                // The only one that was asked for has not been done.
                ensure!(args.cell.is_none(), "another process is at cell {}", shown(&job.cell));
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

/// `sbatch` takes it from stdin: one task for each cell that is `left`, with the flags of this command. A task that is requeued goes on
/// where it was.
fn job_array(left: &[usize]) -> String {
    let left: Vec<String> = left.iter().map(ToString::to_string).collect();
    let quoted = |word: String| format!("'{}'", word.replace('\'', "'\\''"));
    let program = std::env::current_exe().map_or_else(|_| "dau".into(), |path| path.display().to_string());
    let words = std::env::args().skip(1).filter(|word| word != "--slurm").map(quoted);
    let command: Vec<String> = std::iter::once(quoted(program)).chain(words).collect();
    let command = command.join(" ");
    format!(
        "#!/bin/sh\n#SBATCH --job-name=dau-sweep\n#SBATCH --array={}\n#SBATCH --requeue\n#SBATCH --gres=gpu:1\n\
         # One cell a task; the same command without --cell makes the table once they have ended.\nexec {command} --cell \"$SLURM_ARRAY_TASK_ID\"\n",
        left.join(",")
    )
}

/// Shows what a cell does on a terminal or where more is asked for, and in a log the cells alone.
struct Watch<'a> {
    progress: &'a Progress,
    loud: bool,
}

impl Observer for Watch<'_> {
    fn begin(&self, stage: &str, images: u64) {
        if self.loud {
            self.progress.begin(stage, images);
        }
    }

    fn advance(&self, images: u64) {
        if self.loud {
            self.progress.advance(images);
        }
    }

    fn epoch(&self, record: &EpochRecord) -> Result<(), TrainError> {
        if self.loud { self.progress.epoch(record) } else { Ok(()) }
    }

    fn end(&self) {
        if self.loud {
            self.progress.end();
        }
    }

    fn cancelled(&self) -> bool {
        self.progress.cancelled()
    }
}
