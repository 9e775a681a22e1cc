//! `dau scan`: the verdict on a training set, by its images alone or with the network that was trained on it; nothing is trained.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::defend::show;
use super::flags::{DataFlags, Flags, StageOneFlags};
use super::own::{fits, keep_apart, load, record, root, settings};
use super::progress::Progress;
use super::settings::Settings;
use super::{Global, Refuse, announce};
use crate::data::Splits;
use crate::defenses::dau::{examine, scan};
use crate::gpu::Precision;
use crate::kernel::Kernels;
use crate::report::{DatasetFacts, Part, RESULTS, RunFolder, Verdict, seconds, write_findings};
use crate::train::Network;

/// Arguments of `dau scan`.
#[derive(Args, Clone, Debug)]
pub struct ScanArgs {
    /// The network that was trained on the images, a safetensors file: it draws the border between poisoned and clean more sharply. Without
    /// one the images alone are looked at, which needs no GPU
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    stage_one: StageOneFlags,
    /// Where to write suspects.csv, suspects.png, scores.svg, verdict.txt and results.json [default: runs/scan]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(args: &ScanArgs, global: &Global) -> Result<()> {
    let (device, settings, Splits { train, remarks, .. }) = inputs(args, global).refuse()?;
    let folder = RunFolder::create(&settings.out).refuse()?;

    let progress = Progress::of(Part::AntiLearning, &folder);
    let findings = match &device {
        Some((kernels, network)) => {
            announce(kernels);
            scan(kernels, network, &train, &settings.stage_one_config(), &progress)?
        }
        None => examine(&train, &progress)?,
    };
    let stages = progress.finish()?;
    let verdict = Verdict::new(&train, &findings);
    write_findings(&folder, &train, root(&settings), &findings, &verdict)?;
    let table = settings.without_poisoning()?;
    let adapter = device.as_ref().map_or_else(|| "none".to_string(), |(kernels, _)| kernels.gpu().describe());
    record(&folder, &table, &adapter, &stages)?;
    let results = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "checkpoint": args.checkpoint,
        "dataset": DatasetFacts { name: train.name.clone(), train: train.len(), test: 0, left_out: remarks.left_out.len() },
        "classes": train.classes,
        "verdict": verdict,
        "seconds": seconds(&stages),
        "adapter": adapter,
        "seed": settings.seed,
        "config": table,
    });
    folder.write(RESULTS, (serde_json::to_string_pretty(&results)? + "\n").as_bytes())?;
    show(&verdict.text(), &results, &folder, global)
}

/// A network on its device, if one was given; the settings; the images.
type ScanInputs = (Option<(Kernels, Network)>, Settings, Splits);

fn inputs(args: &ScanArgs, global: &Global) -> Result<ScanInputs> {
    let ScanArgs { checkpoint, mut data, stage_one, out } = args.clone();
    let open = |path: &Path| -> Result<_> {
        let kernels = global.open(Precision::F32)?;
        let network = Network::load(&kernels, path)?;
        Ok((kernels, network))
    };
    let device = checkpoint.as_deref().map(open).transpose()?;
    if let Some((_, network)) = &device {
        data.image_size = data.image_size.or(Some(network.spec.image_size));
    }
    let settings = settings(&Flags { data, stage_one, out, ..Flags::default() }, "runs/scan")?;
    RunFolder::vet(&settings.out)?;
    if let Some(path) = &checkpoint {
        keep_apart(path, &settings.out)?;
    }
    let splits = load(&settings, true)?;
    if let (Some((kernels, network)), Some(path)) = (&device, &checkpoint) {
        fits(kernels, network, path, &splits.train)?;
    }
    Ok((device, settings, splits))
}
