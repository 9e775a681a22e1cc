//! A sweep as job arrays of Slurm: one cell a task.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, anyhow, bail, ensure};
use serde_json::json;

use super::super::{Global, Refuse, print, print_json};
use super::job::{Job, LOGS, State};
use super::{SweepArgs, take_folder};
use crate::experiment::sweep::Sweep;
use crate::gpu;

/// Slurm's own default of `MaxArraySize`: indices are below it.
const ARRAY: usize = 1001;

/// So many seconds before its time is up, a task is told.
const NOTICE: u32 = 120;

/// Submits what has not ended, or prints what would be submitted.
///
/// # Errors
/// No cell that is left, no `sbatch`, what `sbatch` refuses.
pub fn submit(sweep: &Sweep, jobs: &[Job], args: &SweepArgs, global: &Global) -> Result<()> {
    let left: Vec<usize> = jobs.iter().filter(|job| !matches!(job.state(), State::Ended(_))).map(|job| job.number).collect();
    if left.is_empty() {
        return Err(anyhow!("all {} cells have ended: there is nothing for a job to do", jobs.len())).refuse();
    }
    if !args.dry_run {
        let there = Command::new("sbatch").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        there
            .map_err(|e| {
                anyhow!("cannot start sbatch: {e}; give the command where Slurm is installed, or print the job with --dry-run")
            })
            .refuse()?;
    }
    take_folder(sweep, jobs, args).refuse()?;
    let logs = sweep.out.join(LOGS);
    fs::create_dir_all(&logs).map_err(|e| anyhow!("cannot make {}: {e}", logs.display()))?;
    let scripts: Vec<String> =
        blocks(&left, longest_array()).iter().map(|(first, tasks)| script(&logs, args, global, *first, tasks)).collect();
    if args.dry_run {
        return print(&scripts.join("\n# The next array is a job of its own.\n"));
    }
    let mut submitted = Vec::new();
    for script in &scripts {
        submitted.push(sbatch(script).map_err(|e| match submitted.as_slice() {
            [] => e,
            some => anyhow!("{e}; jobs {} were submitted before", some.join(", ")),
        })?);
    }
    say!(
        "submitted as job {}: {} of {} cells, one a task. dau sweep {} --list says how far they are",
        submitted.join(", "),
        left.len(),
        jobs.len(),
        args.file.display()
    );
    if global.json { print_json(&json!({ "jobs": submitted, "cells": left })) } else { Ok(()) }
}

/// Gives a script to `sbatch`; the job's number.
fn sbatch(script: &str) -> Result<String> {
    let failed = |e: std::io::Error| anyhow!("cannot start sbatch: {e}");
    let mut sbatch = Command::new("sbatch");
    sbatch.arg("--parsable").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = sbatch.spawn().map_err(failed)?;
    if let Some(mut stdin) = process.stdin.take() {
        // One that has gone away says why.
        let _ = stdin.write_all(script.as_bytes());
    }
    let done = process.wait_with_output().map_err(failed)?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("sbatch: error: ", "").trim().replace('\n', "; ");
    ensure!(
        done.status.success(),
        "sbatch refuses the job: {}. Arguments for sbatch go behind --, as in --slurm -- --partition=gpu --time=8:00:00 --gres=gpu:1",
        said(&done.stderr)
    );
    // JOB, or JOB;CLUSTER.
    match said(&done.stdout).split(';').next() {
        Some(job) if !job.is_empty() => Ok(job.to_string()),
        _ => bail!("sbatch named no job"),
    }
}

/// How many tasks an array may have here.
fn longest_array() -> usize {
    let config = Command::new("scontrol").args(["show", "config"]).stderr(Stdio::null()).output();
    let config = config.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let size =
        config.lines().find_map(|line| line.strip_prefix("MaxArraySize")?.trim_start_matches([' ', '=']).trim().parse().ok());
    size.filter(|size| *size > 0).unwrap_or(ARRAY)
}

/// Cells by arrays of indices below `size`: what is to be added to an index, and the indices.
fn blocks(cells: &[usize], size: usize) -> Vec<(usize, Vec<usize>)> {
    let mut blocks: Vec<(usize, Vec<usize>)> = Vec::new();
    for cell in cells {
        let (first, task) = (cell / size * size, cell % size);
        match blocks.last_mut() {
            Some((known, tasks)) if *known == first => tasks.push(task),
            _ => blocks.push((first, vec![task])),
        }
    }
    blocks
}

/// `0-3,7`.
fn ranges(indices: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for index in indices {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => ranges.push((*index, *index)),
        }
    }
    let shown = |(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(shown).collect::<Vec<_>>().join(",")
}

/// What `sbatch` takes: a task for each cell.
fn script(logs: &Path, args: &SweepArgs, global: &Global, first: usize, tasks: &[usize]) -> String {
    let quoted = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
    let program = std::env::current_exe().map_or_else(|_| "dau".into(), |path| path.display().to_string());
    let mut words = vec![quoted(&program), "sweep".into(), quoted(&args.file.display().to_string())];
    words.extend(global.words());
    words.extend(args.force.then(|| "--force".into()));
    if let Some(adapter) = &global.adapter {
        words.extend(["--adapter".into(), quoted(adapter)]);
    }
    let own_gpus =
        args.sbatch.iter().any(|word| word.starts_with("--gres") || word.starts_with("--gpus") || word.starts_with("-G"));
    let mut asked = if own_gpus { String::new() } else { "#SBATCH --gres=gpu:1\n".to_string() };
    if !args.sbatch.is_empty() {
        let words: Vec<String> = args.sbatch.iter().map(|word| quoted(word)).collect();
        asked += &format!("#SBATCH {}\n", words.join(" "));
    }
    let cell = if first == 0 { "$SLURM_ARRAY_TASK_ID".into() } else { format!("$((SLURM_ARRAY_TASK_ID + {first}))") };
    // Slurm takes a % for the beginning of a pattern.
    let log = format!("{}/slurm-%A_%a.log", logs.display().to_string().replace('%', "%%"));
    let (log, tasks, command) = (quoted(&log), ranges(tasks), words.join(" "));
    format!(
        r#"#!/bin/sh
#SBATCH --job-name=dau-sweep
#SBATCH --array={tasks}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={log}
#SBATCH --signal=B:USR1@{NOTICE}
{asked}# {NOTICE} seconds before its time is up the cell saves, and its task goes back into the queue. What ends a job tells dau itself.
again=
trap 'again=yes; kill -TERM $cell' USR1
trap : TERM
cpus=${{SLURM_CPUS_ON_NODE:-1}}
export LP_NUM_THREADS=$((2 * cpus)) RAYON_NUM_THREADS=$cpus
{command} --cell "{cell}" &
cell=$!
wait $cell; code=$?
# A signal ends a wait early.
while kill -0 $cell 2>/dev/null; do wait $cell; code=$?; done
if [ -n "$again" ] && [ $code -gt 128 ]; then exec scontrol requeue "$SLURM_JOB_ID"; fi
exit $code
"#
    )
}

/// The flags of a task: where several adapters are to be seen on its node, and none is asked for, those of its own.
pub fn on_this_node(args: &SweepArgs, global: &Global) -> Global {
    let given = |name: &str| std::env::var(name).ok();
    let mut global = global.clone();
    if let (Some(task), Some(_), None) = (given("SLURM_ARRAY_TASK_ID"), args.cell, &global.adapter) {
        let infos: Vec<_> = gpu::list(global.choice().backend).into_iter().map(|row| row.info).collect();
        let (adapters, gpus) = (gpu::alike(&infos), given("SLURM_JOB_GPUS"));
        if let (Some(index), true) = (adapters.get(share(adapters.len(), gpus.as_deref(), &task)), adapters.len() > 1) {
            let gpus = gpus.map_or(String::new(), |gpus| format!(", SLURM_JOB_GPUS={gpus}"));
            say!("task {task}{gpus}: adapter {index} of {}, {}", adapters.len(), infos[*index].name);
            global.adapter = Some(index.to_string());
        }
    }
    global
}

/// Which of `seen` adapters is a task's. Vulkan heeds no `CUDA_VISIBLE_DEVICES`: where Slurm hides other tasks' devices from it, no more are
/// seen than it has `gpus`, and where it does not, its own is that of the same number. Without any, tasks take turns.
fn share(seen: usize, gpus: Option<&str>, task: &str) -> usize {
    let gpus: Vec<usize> = gpus.unwrap_or_default().split(',').filter_map(|gpu| gpu.trim().parse().ok()).collect();
    match gpus.first() {
        Some(_) if seen <= gpus.len() => 0,
        Some(gpu) if *gpu < seen => *gpu,
        _ => task.parse::<usize>().unwrap_or(0) % seen.max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_split_into_arrays_that_slurm_takes() {
        assert_eq!(blocks(&[0, 1, 5], 1001), [(0, vec![0, 1, 5])]);
        assert_eq!(blocks(&[2, 7, 8, 9, 31], 8), [(0, vec![2, 7]), (8, vec![0, 1]), (24, vec![7])]);
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
    }

    #[test]
    fn tasks_of_a_node_share_its_adapters_out() {
        // Hidden by Slurm: the one that is seen, whatever its number on the node.
        assert_eq!(share(1, Some("3"), "9"), 0);
        assert_eq!(share(2, Some("6,7"), "9"), 0);
        // Not hidden: that number.
        assert_eq!(share(4, Some("3"), "9"), 3);
        // A number that nothing here has, or none.
        assert_eq!(share(4, Some("6"), "9"), 1);
        assert_eq!([4, 5, 6, 7].map(|task| share(4, None, &task.to_string())), [0, 1, 2, 3]);
    }
}
