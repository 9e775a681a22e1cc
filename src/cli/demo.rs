//! `dau demo`: the whole job on the built-in digits, and what to look at.

use anyhow::Result;
use toml::toml;

use super::flags::Flags;
use super::layers::resolve;
use super::run::{show, whole_job};
use super::{Global, Refuse};
use crate::experiment::{PREVIEW, Record, SplitFigures};

pub fn run(flags: &Flags, global: &Global) -> Result<()> {
    let preset = toml! { out = "runs/demo" };
    let protocol = resolve(&preset, flags).refuse()?.protocol;
    let out = protocol.out.clone();
    let results = whole_job(protocol, flags.force, global)?;
    show(&results, &out, global)?;
    let shares = (results.undefended.asr, results.defended.asr, results.defended.ra);
    if let (true, (Some(before), Some(after), Some(ra)), Some(split)) = (results.warnings.is_empty(), shares, &results.split) {
        say!("\n{}", guidance(&results, split, [before, after, ra], &out.join(PREVIEW).display().to_string()));
    }
    say!("\nNext: dau run --dataset CIFAR-10 --data DIR --attack BadNets; --dataset folder for your own images; dau run --help");
    Ok(())
}

/// `asr` before and after, and `ra` after the defense, percent.
fn guidance(r: &Record, split: &SplitFigures, [before, after, ra]: [f64; 3], preview: &str) -> String {
    format!(
        "\
What happened: {} of {} training images got a trigger and the label `{}` ({preview} shows some).
The network trained on them calls {:.1} % of triggered test images `{}` (ASR), and is right on {:.1} % of clean ones (ACC).
Stage 1 flagged {} training images without being told, {:.1} % of them rightly; stage 2 had the network unlearn them:
now ASR is {:.1} %, ACC {:.1} %, and {:.1} % of triggered images get their true label (RA).",
        r.poison.count,
        r.dataset.train,
        r.poison.target_name,
        before,
        r.poison.target_name,
        r.undefended.acc,
        split.flagged,
        split.precision.unwrap_or_default(),
        after,
        r.defended.acc,
        ra,
    )
}
