//! `--baseline`: this run's kernels beside an earlier run's.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail, ensure};
use serde::Serialize;

use super::kernels::{Placed, Row, Timings};
use crate::report::columns;

/// An earlier run, and how much slower is still as fast.
pub struct Baseline {
    file: PathBuf,
    timings: Timings,
    percent: f64,
}

/// One kernel in both runs.
#[derive(Serialize)]
struct Ratio {
    op: String,
    shape: String,
    /// New over old: above 1 is slower.
    time: f64,
    /// New over old: above 1 is nearer to the roof.
    roof_share: f64,
    slower: bool,
}

/// This run beside an earlier one.
#[derive(Serialize)]
pub struct Comparison {
    file: PathBuf,
    adapter: String,
    same_adapter: bool,
    tolerance_percent: f64,
    ratios: Vec<Ratio>,
    /// In this run alone.
    only_new: Vec<String>,
    /// In the baseline alone.
    only_old: Vec<String>,
}

impl Baseline {
    /// An earlier run of the ops whose name holds `only`; what is slower by up to `percent` is still as fast.
    ///
    /// # Errors
    /// A file that is not what `dau bench --json` writes, a tolerance that is none, or nothing in common with `nodes`.
    pub fn read(file: &Path, percent: f64, only: Option<&str>, nodes: &[Placed]) -> Result<Baseline> {
        ensure!(percent.is_finite() && percent >= 0.0, "--tolerance {percent} does not do: give a percentage of 0 or more");
        let path = file.display();
        let text = std::fs::read_to_string(file).map_err(|e| anyhow!("--baseline {path} cannot be read: {e}"))?;
        let mut timings: Timings = serde_json::from_str(&text)
            .map_err(|e| anyhow!("--baseline {path} is not what `dau bench --json` writes (without --step): {e}"))?;
        for row in &timings.kernels {
            let (op, shape) = (&row.op, &row.shape);
            ensure!(row.us > 0.0, "--baseline {path} is damaged: {op} {shape} has us = {}", row.us);
            ensure!(row.roof_share > 0.0, "--baseline {path} is damaged: {op} {shape} has roof_share = {}", row.roof_share);
        }
        let common = nodes.iter().any(|n| timings.kernels.iter().any(|row| row.op == n.op() && row.shape == n.shape()));
        ensure!(
            common,
            "--baseline {path} has no kernel of this training step; give the same --model, --width, --batch and --op"
        );
        timings.kernels.retain(|row| only.is_none_or(|op| row.op.contains(op)));
        Ok(Baseline { file: file.into(), timings, percent })
    }

    /// The adapter that it was measured on.
    pub fn adapter(&self) -> &String {
        &self.timings.adapter
    }

    /// For each of `rows` its counterpart. An op at the same shapes is the same whatever kernels compute it now; should one be there
    /// twice, their order tells them apart.
    fn counterparts(&self, rows: &[Row]) -> Vec<Option<usize>> {
        let mut free = vec![true; self.timings.kernels.len()];
        let mut find = |row: &Row| {
            let same = |old: &Row| old.op == row.op && old.shape == row.shape;
            let found = (0..free.len()).find(|i| free[*i] && same(&self.timings.kernels[*i]))?;
            free[found] = false;
            Some(found)
        };
        rows.iter().map(&mut find).collect()
    }

    fn is_slower(&self, ratio: f64) -> bool {
        ratio > 1.0 + self.percent / 100.0
    }

    /// Those of `rows` that are slower than here, past the tolerance.
    pub fn slower(&self, rows: &[Row]) -> Vec<usize> {
        let old = self.counterparts(rows);
        let slower = |i: usize| old[i].is_some_and(|o| self.is_slower(rows[i].us / self.timings.kernels[o].us));
        (0..rows.len()).filter(|i| slower(*i)).collect()
    }

    /// Each kernel of `new` beside its counterpart here; names those that only one of both runs has.
    pub fn compare(&self, new: &Timings) -> Comparison {
        let name = |row: &Row| format!("{} {}", row.op, row.shape);
        let found = self.counterparts(&new.kernels);
        let (mut ratios, mut only_new) = (Vec::new(), Vec::new());
        for (row, old) in new.kernels.iter().zip(&found) {
            let Some(old) = old.map(|i| &self.timings.kernels[i]) else {
                only_new.push(name(row));
                continue;
            };
            let time = row.us / old.us;
            let (op, shape, roof_share) = (row.op.clone(), row.shape.clone(), row.roof_share / old.roof_share);
            ratios.push(Ratio { op, shape, time, roof_share, slower: self.is_slower(time) });
        }
        let left = |i: &usize| !found.contains(&Some(*i));
        let only_old = (0..self.timings.kernels.len()).filter(left).map(|i| name(&self.timings.kernels[i])).collect();
        Comparison {
            file: self.file.clone(),
            adapter: self.timings.adapter.clone(),
            same_adapter: self.timings.adapter == new.adapter,
            tolerance_percent: self.percent,
            ratios,
            only_new,
            only_old,
        }
    }
}

impl Comparison {
    /// As a table, for people to read.
    pub fn table(&self) -> String {
        let heading = ["op", "shapes", "time", "roof share", ""].map(String::from).to_vec();
        let lines = self.ratios.iter().map(|r| {
            let mark = if r.slower { "slower" } else { "" };
            vec![r.op.clone(), r.shape.clone(), format!("{:.2} x", r.time), format!("{:.2} x", r.roof_share), mark.into()]
        });
        let adapter = if self.same_adapter { "the same adapter" } else { "ANOTHER ADAPTER" };
        let mut text = format!("\nnew / old, {} on {adapter} ({}):\n", self.file.display(), self.adapter);
        text += &columns(&std::iter::once(heading).chain(lines).collect::<Vec<_>>());
        for (where_, names) in [("here", &self.only_new), ("in the baseline", &self.only_old)] {
            text.extend(names.iter().map(|name| format!("only {where_}: {name}\n")));
        }
        text
    }

    /// # Errors
    /// A kernel slower past the tolerance.
    pub fn judge(&self) -> Result<()> {
        let slower = self.ratios.iter().filter(|r| r.slower);
        let named: Vec<String> = slower.map(|r| format!("{} {} ({:.2} x)", r.op, r.shape, r.time)).collect();
        if named.is_empty() {
            return Ok(());
        }
        let (file, percent) = (self.file.display(), self.tolerance_percent);
        bail!("slower than in {file} by more than {percent} %: {}", named.join("; "))
    }
}
