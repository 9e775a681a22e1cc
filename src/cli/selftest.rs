//! `dau selftest`: every op's cases on the chosen adapter against the CPU oracle, once for each staging and precision it offers.

use anyhow::{Result, bail};
use serde::Serialize;

use super::{Global, Refuse, print, print_json};
use crate::gpu::{AdapterChoice, Gpu, GpuError, Precision, Staging};
use crate::kernel::Kernels;
use crate::ops::{OPS, OpEntry, check};
use crate::report::columns;

const SEED: u64 = 0;

/// One op with one staging.
#[derive(Serialize)]
struct Row {
    op: &'static str,
    cases: usize,
    staging: &'static str,
    precision: Precision,
    /// Of the case that comes nearest to what is allowed it, or beyond; `None` where none ran.
    error: Option<f64>,
    allowed: Option<f64>,
    /// The cases that failed, and how.
    failures: Vec<String>,
}

pub fn run(global: &Global) -> Result<()> {
    let devices = open_each(&global.choice()).refuse()?;
    let adapter = devices[0].1.gpu().describe();
    say!("adapter: {adapter}");
    let mut rows = Vec::new();
    for (precision, kernels) in &devices {
        rows.extend(OPS.iter().map(|op| try_op(op, *precision, kernels)));
        // What failed on a device that is lost says nothing of its kernels.
        kernels.gpu().alive()?;
    }
    let failed: usize = rows.iter().map(|row| row.failures.len()).sum();
    let cases: usize = rows.iter().map(|row| row.cases).sum();
    if global.json {
        print_json(
            &serde_json::json!({"adapter": adapter, "passed": failed == 0, "cases": cases, "failed": failed, "rows": rows}),
        )?;
    } else {
        print(&table(&rows))?;
    }
    if failed > 0 {
        bail!("{failed} of {cases} cases failed on {adapter}: its results cannot be trusted; try another --backend or --adapter");
    }
    say!("all {cases} cases passed");
    Ok(())
}

/// The adapter opened with each staging that it offers, or with the one that was asked for, in each precision that it has.
fn open_each(choice: &AdapterChoice) -> Result<Vec<(Precision, Kernels)>, GpuError> {
    let wanted = choice.staging.map_or(Staging::ALL.to_vec(), |s| vec![s]);
    let precisions = |staging| match staging {
        Staging::CooperativeMatrix => vec![Precision::Mixed, Precision::Split],
        _ => vec![Precision::F32],
    };
    let mut devices = Vec::new();
    let mut refusal = None;
    for (staging, precision) in wanted.into_iter().flat_map(|staging| precisions(staging).into_iter().map(move |p| (staging, p)))
    {
        match Gpu::open(&AdapterChoice { staging: Some(staging), precision, ..choice.clone() }) {
            Ok(gpu) => devices.push((precision, Kernels::new(gpu))),
            Err(e) => {
                log::info!("without {}: {e}", staging.name());
                refusal = Some(e);
            }
        }
    }
    match refusal {
        Some(e) if devices.is_empty() => Err(e),
        _ => Ok(devices),
    }
}

fn try_op(op: &OpEntry, precision: Precision, kernels: &Kernels) -> Row {
    let cases = (op.cases)();
    let staging = kernels.gpu().caps().staging.name();
    let mut row = Row { op: op.name, cases: cases.len(), staging, precision, error: None, allowed: None, failures: Vec::new() };
    for case in &cases {
        match check(kernels, case, SEED) {
            Ok(result) => {
                // A NaN is no pass.
                if result.error.is_nan() || result.error > result.allowed {
                    row.failures.push(format!("{}: error {:.1e}, allowed {:.1e}", case.name, result.error, result.allowed));
                }
                let worse = |old: f64, allowed: f64| result.error.is_nan() || result.error / result.allowed > old / allowed;
                if row.error.zip(row.allowed).is_none_or(|(old, allowed)| worse(old, allowed)) {
                    (row.error, row.allowed) = (Some(result.error), Some(result.allowed));
                }
            }
            Err(e) => row.failures.push(format!("{}: {e}", case.name)),
        }
    }
    row
}

fn table(rows: &[Row]) -> String {
    let shown = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{x:.1e}"));
    let heading = ["op", "cases", "staging", "precision", "largest error", "allowed", "verdict"].map(String::from).to_vec();
    let lines = rows.iter().map(|row| {
        let verdict = if row.failures.is_empty() { "ok".to_string() } else { format!("{} FAILED", row.failures.len()) };
        vec![
            row.op.into(),
            row.cases.to_string(),
            row.staging.into(),
            row.precision.name().into(),
            shown(row.error),
            shown(row.allowed),
            verdict,
        ]
    });
    let mut text = columns(&std::iter::once(heading).chain(lines).collect::<Vec<_>>());
    for row in rows {
        for failure in &row.failures {
            text.push_str(&format!("FAILED {} ({}, {}): {failure}\n", row.op, row.staging, row.precision.name()));
        }
    }
    text
}
