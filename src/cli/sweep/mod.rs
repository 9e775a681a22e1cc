//! `dau sweep`: every combination of some settings, and their table.

mod cell;
mod children;
mod job;
mod slurm;
mod time_left;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use clap::Args;
use serde_json::{Map, Value, json};

use self::cell::{held, one_by_one};
use self::job::{Job, State, jobs};
use self::time_left::{span, time_left};
use super::{Global, Refuse, print, print_json};
use crate::experiment::comparison::{Comparison, compare};
use crate::experiment::sweep::{Sweep, SweepRow, record, rows};
use crate::experiment::{Figures, IMPLANTED, Record};
use crate::files::write_atomic;
use crate::report::{as_csv, as_markdown, sweep_page};
use crate::train::Silent;

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
    /// Do so many cells at once, each in a process of its own, shared out over the adapters [default: one after the other in this process]
    #[arg(long, value_name = "N", conflicts_with_all = ["cell", "list", "table", "slurm"])]
    jobs: Option<NonZeroU8>,
    /// Do one cell only, by its number from 0 on: for the tasks of a job array
    #[arg(long, value_name = "N", conflicts_with_all = ["list", "table", "slurm"])]
    cell: Option<usize>,
    /// List the cells, how far each is, and why it failed; do nothing
    #[arg(long, conflicts_with_all = ["table", "slurm"])]
    list: bool,
    /// Make the tables of what has ended; do no cell
    #[arg(long, conflicts_with = "slurm")]
    table: bool,
    /// Submit a Slurm job array, one task a cell that has not ended; what sbatch is to be told goes behind --
    #[arg(long)]
    slurm: bool,
    /// Print the job array, and submit nothing
    #[arg(long, requires = "slurm")]
    dry_run: bool,
    /// As in --slurm -- --partition=gpu --time=8:00:00. Without --gres or --gpus a task has one GPU
    #[arg(last = true, value_name = "SBATCH ARGUMENTS", requires = "slurm")]
    sbatch: Vec<String>,
    /// Stop when stdin ends, and leave the tables to the process at its other end
    #[arg(long, hide = true, requires = "cell")]
    leashed: bool,
    /// Begin cells anew that were begun and have not ended
    #[arg(long)]
    pub(super) force: bool,
}

/// The tables, in the sweep's folder.
const TABLE: [&str; 4] = ["table.md", "table.csv", "table.json", "report.html"];

/// The sweep that a folder holds.
const SWEEP: &str = "sweep.toml";

pub fn run(args: &SweepArgs, global: &Global) -> Result<()> {
    let sweep = Sweep::read(&args.file).refuse()?;
    let jobs = jobs(&sweep).map_err(|e| anyhow!("{}: {e}", args.file.display())).refuse()?;
    if args.list {
        return list(&jobs, global);
    }
    if args.slurm {
        return slurm::submit(&sweep, &jobs, args, global);
    }
    let chosen: Vec<&Job> = match args.cell {
        None => jobs.iter().collect(),
        Some(n) => vec![jobs.get(n).ok_or_else(|| anyhow!("--cell {n}: there are {} cells, from 0 on", jobs.len())).refuse()?],
    };
    take_folder(&sweep, &jobs, args).refuse()?;
    let mut failed = match args.jobs {
        _ if args.table => BTreeMap::new(),
        Some(at_once) => children::all(&sweep.out, &jobs, at_once.get().into(), args, global)?,
        None => one_by_one(&sweep.out, &jobs, &chosen, args, &slurm::on_this_node(args, global))?,
    };
    if !args.leashed {
        let Tables { comparison, rows, markdown, ended, damaged } = tables(&sweep.out, &jobs)?;
        failed.extend(damaged);
        let ended = ended.len();
        if global.json {
            print_json(
                &json!({ "comparison": comparison, "rows": rows, "cells": jobs.len(), "ended": ended, "failed": failed }),
            )?;
        } else {
            print(&markdown)?;
        }
        let weak = rows.iter().filter(|row| row.implanted < row.seeds).count();
        if weak > 0 {
            say!(
                "warning: in {weak} of {} rows an attack did not implant in every run (undefended ASR below {IMPLANTED} %, or not \
                 much more than without the trigger): they say little",
                rows.len()
            );
        }
        for (cell, why) in &failed {
            say!("failed: {cell}: {why}");
        }
        say!("{ended} of {} cells have ended; tables: {}", jobs.len(), sweep.out.join(TABLE[0]).display());
    }
    ensure!(failed.is_empty(), "{} of {} cells failed; the same command tries them again", failed.len(), chosen.len());
    Ok(())
}

/// Says what each cell is and how far.
fn list(jobs: &[Job], global: &Global) -> Result<()> {
    let states: Vec<(&Job, State)> = jobs.iter().map(|job| (job, job.state())).collect();
    let why = |state: &State| match state {
        State::Failed(why) | State::Damaged(why) => Some(why.clone()),
        _ => None,
    };
    if global.json {
        let cell = |(job, state): &(&Job, State)| json!({ "cell": job.cell.axes, "state": state.name(), "why": why(state), "folder": job.protocol.out });
        return print_json(&states.iter().map(cell).collect::<Vec<_>>());
    }
    let line = |(job, state): &(&Job, State)| {
        let why = why(state).map_or(String::new(), |why| format!(": {}", crate::data::shown(&why)));
        format!("{:5} {:8} {}{why}\n", job.number, state.name(), job.cell)
    };
    print(&states.iter().map(line).collect::<String>())?;
    let count = |name: &str| states.iter().filter(|(_, state)| state.name() == name).count();
    let numbers = ["ended", "running", "failed", "damaged", "stopped"].map(|name| (count(name), name));
    let numbers: Vec<String> = numbers.iter().filter(|(n, _)| *n > 0).map(|(n, name)| format!("{n} {name}")).collect();
    say!("{} cells{}{}", jobs.len(), if numbers.is_empty() { "" } else { ": " }, numbers.join(", "));
    let left: Vec<&Job> = states.iter().filter(|(_, state)| !matches!(state, State::Ended(_))).map(|(job, _)| *job).collect();
    say_time_left(&ended(jobs).0, &left);
    Ok(())
}

/// Makes the sweep's folder, or takes that of the file as it was: cells have folders of their own, so that no change harms what is there.
///
/// # Errors
/// A number of a cell, where the file has changed since: whoever gives it, a task in a queue for instance, has it of the file as it was.
fn take_folder(sweep: &Sweep, jobs: &[Job], args: &SweepArgs) -> Result<()> {
    let (file, folder, path) = (args.file.display(), sweep.out.display(), sweep.out.join(SWEEP));
    let changed = path.is_file() && Sweep::read(&path).and_then(|earlier| earlier.cells()).ok() != Some(sweep.cells()?);
    if let (true, Some(number)) = (changed, args.cell) {
        bail!(
            "{file} has other cells than {}, with which {folder} was last used, so that --cell {number} may be another cell now; \
             `dau sweep {file} --table` makes the folder that of the file as it is, and --list has its numbers",
            path.display()
        );
    }
    if changed {
        let own = |name: &OsStr| jobs.iter().any(|job| job.protocol.out.file_name() == Some(name));
        let begun = fs::read_dir(sweep.out.join("cells")).map_or_else(|_| Vec::new(), |cells| cells.flatten().collect());
        let others = begun.iter().filter(|cell| !own(&cell.file_name())).count();
        say!(
            "{file} has changed since {folder} was last used: {} of the cells there are its own; {others} are not, stay as they are, and \
             are in no table",
            begun.len() - others
        );
    }
    fs::create_dir_all(&sweep.out).map_err(|e| anyhow!("cannot make {folder}: {e}"))?;
    let text = fs::read(&args.file)?;
    if fs::read(&path).is_ok_and(|earlier| earlier == text) { Ok(()) } else { Ok(write_atomic(&path, &text)?) }
}

/// What has ended.
struct Tables<'a> {
    comparison: Option<Comparison>,
    rows: Vec<SweepRow>,
    markdown: String,
    ended: Vec<(&'a Job, Record)>,
    /// The cells whose records cannot be read, and why.
    damaged: BTreeMap<String, String>,
}

/// Writes the tables of what has ended.
///
/// # Errors
/// A disk that refuses.
fn tables<'a>(out: &Path, jobs: &'a [Job]) -> Result<Tables<'a>> {
    // One process at a time, so that none replaces a table by an older one.
    let _held = held(&out.join("table"), &Silent)?;
    let (ended, damaged) = ended(jobs);
    let rows = rows(ended.iter().map(|(job, record)| (&job.cell, record)));
    let comparison = compare(ended.iter().map(|(job, record)| (&job.cell, record)));
    let markdown = as_markdown(comparison.as_ref(), &rows);
    let json = serde_json::to_string_pretty(&json!({ "comparison": comparison, "rows": rows }))? + "\n";
    let page = sweep_page(comparison.as_ref(), &rows)?;
    for (file, text) in TABLE.iter().zip([&markdown, &as_csv(&rows)?, &json, &page]) {
        write_atomic(&out.join(file), text.as_bytes())?;
    }
    Ok(Tables { comparison, rows, markdown, ended, damaged })
}

/// What has ended; and what is damaged.
fn ended(jobs: &[Job]) -> (Vec<(&Job, Record)>, BTreeMap<String, String>) {
    let (mut found, mut damaged) = (Vec::new(), BTreeMap::new());
    for job in jobs {
        match record(&job.protocol.out) {
            Ok(Some(record)) => found.push((job, record)),
            Ok(None) => {}
            Err(error) => drop(damaged.insert(job.cell.to_string(), error.to_string())),
        }
    }
    (found, damaged)
}

/// The defense of each cell that has ended, and its seconds.
fn seconds<'a>(ended: &'a [(&Job, Record)]) -> impl Iterator<Item = (&'a str, &'a Map<String, Value>)> {
    ended.iter().map(|(_, record)| (record.defense.as_str(), &record.seconds))
}

/// Says that other processes are at all that is left.
fn say_waiting(cells: usize) {
    say!("other processes are at the last {cells} cells: waiting for them");
}

/// Says how long the cells that are `left` take one after the other.
fn say_time_left(ended: &[(&Job, Record)], left: &[&Job]) {
    let left: Vec<(&Job, Duration)> = left.iter().map(|job| (*job, Duration::ZERO)).collect();
    if let Some(time) = time_left(seconds(ended), &left, 1).filter(|_| !left.is_empty()) {
        say!("about {} left", span(time));
    }
}

fn in_a_line(found: &Record) -> String {
    let percent = |share: Option<f64>| share.map_or("-".into(), |share| format!("{share:.1}"));
    let of = |f: &Figures| [Some(f.acc), f.asr, f.ra].map(percent).join(" / ");
    format!("ACC / ASR / RA {} to {}, DER {}", of(&found.undefended), of(&found.defended), percent(found.der))
}
