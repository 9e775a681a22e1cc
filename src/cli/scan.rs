//! `dau scan`: the verdict on the training set of a network that is there already; nothing is trained.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;

use super::defend::show;
use super::flags::{DataFlags, Flags, StageOneFlags};
use super::own::{fits, load, record, root, settings};
use super::progress::Progress;
use super::settings::Settings;
use super::{Global, Refuse, announce};
use crate::data::Splits;
use crate::defenses::dau::{Prefilter, scan};
use crate::gpu::Precision;
use crate::kernel::Kernels;
use crate::report::{DatasetFacts, Part, RESULTS, RunFolder, Verdict, seconds, write_findings};
use crate::train::Network;

/// Arguments of `dau scan`.
#[derive(Args, Clone, Debug)]
pub struct ScanArgs {
    /// The network: a safetensors file as `dau run` writes them
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    stage_one: StageOneFlags,
    /// Where to write suspects.csv, suspects.png, scores.svg, verdict.txt and results.json [default: runs/scan]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(args: &ScanArgs, global: &Global) -> Result<()> {
    let (kernels, network, settings, Splits { train, left_out, .. }) = inputs(args, global).refuse()?;
    announce(&kernels);
    let folder = RunFolder::create(&settings.out).refuse()?;

    let progress = Progress::of(Part::AntiLearning, &folder);
    let findings = scan(&kernels, &network, &train, &settings.anti_learn_config(), &progress)?;
    let stages = progress.finish()?;
    let verdict = Verdict::new(&train, &findings, settings.prefilter, settings.confirm);
    write_findings(&folder, &train, root(&settings), &findings, &verdict)?;
    let table = settings.without_poisoning()?;
    record(&folder, &table, &kernels, &stages)?;
    let results = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "checkpoint": args.checkpoint,
        "dataset": DatasetFacts { name: train.name.clone(), train: train.len(), test: 0, left_out: left_out.len() },
        "classes": train.classes,
        "verdict": verdict,
        "seconds": seconds(&stages),
        "adapter": kernels.gpu().describe(),
        "seed": settings.seed,
        "config": table,
    });
    folder.write(RESULTS, (serde_json::to_string_pretty(&results)? + "\n").as_bytes())?;
    show(&verdict.text(), &results, &folder, global)
}

fn inputs(args: &ScanArgs, global: &Global) -> Result<(Kernels, Network, Settings, Splits)> {
    let ScanArgs { checkpoint, data, stage_one, out } = args.clone();
    let kernels = global.open(Precision::F32)?;
    let network = Network::load(&kernels, &checkpoint)?;
    let data = DataFlags { image_size: data.image_size.or(Some(network.spec.image_size)), ..data };
    let settings = settings(&Flags { data, stage_one, out, ..Flags::default() }, "runs/scan")?;
    ensure!(
        settings.prefilter == Prefilter::Ridge,
        "--prefilter loss goes by the order of learning, which a finished network does not tell: leave it out, or dau defend"
    );
    RunFolder::vet(&settings.out)?;
    let splits = load(&settings)?;
    fits(&kernels, &network, &checkpoint, &splits.train)?;
    Ok((kernels, network, settings, splits))
}
