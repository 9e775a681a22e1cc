//! `dau scan`: the verdict on a training set, by its images alone or with the network that was trained on it; nothing is trained.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;

use super::declared_flags::{DauDetectOptions, DeclaredFlags};
use super::flags::{DataFlags, Flags, OUTPUT};
use super::own::{fits, keep_apart, known_by, load, root, settings, show, shown_again};
use super::progress::Progress;
use super::run::store_of;
use super::{Global, Refuse, announce};
use crate::data::Splits;
use crate::defenses::dau::{FINDINGS, Findings, examine};
use crate::experiment::{Asked, COMMIT, DatasetFacts, Experiment, Protocol, RESULTS, Recorder, Store, Subtask, seconds};
use crate::gpu::Precision;
use crate::kernel::Kernels;
use crate::report::{Verdict, write_findings};
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
    detect: DeclaredFlags<DauDetectOptions>,
    /// Where to write suspects.csv, suspects.png, scores.svg, verdict.txt and results.json [default: runs/scan and a code for the
    /// settings]
    #[arg(long, value_name = "DIR", help_heading = OUTPUT)]
    out: Option<PathBuf>,
    /// Begin anew where the folder holds a run; the old folder is kept beside it
    #[arg(long, help_heading = OUTPUT)]
    pub(super) force: bool,
}

pub fn run(args: &ScanArgs, global: &Global) -> Result<()> {
    let ScanInputs { device, settings, splits, mut asked, earlier } = inputs(args, global).refuse()?;
    let Splits { train, remarks, .. } = splits;
    asked.given.insert("checksum of the images".into(), train.fingerprint());
    let adapter = device.as_ref().map_or_else(|| "none".to_string(), |(kernels, _)| kernels.describe());
    let store = store_of(&settings.out, &asked, device.as_ref().map(|(kernels, _)| kernels), earlier).refuse()?;
    if shown_again(&store, global)? {
        return Ok(());
    }

    let progress = Progress::new();
    let findings: Findings = match &device {
        Some((kernels, network)) => {
            announce(kernels);
            Experiment::new(&settings, kernels, &train, &store, &progress)?.detect(network)?;
            store.read_json(FINDINGS)?
        }
        None => {
            let recorder = Recorder::new(&store, Subtask::AntiLearning, &progress);
            let findings = examine(&train, &recorder)?;
            recorder.finish()?;
            findings
        }
    };
    let verdict = Verdict::new(&train, &findings);
    write_findings(&store, &train, root(&settings), &findings, &verdict)?;
    let results = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "commit": COMMIT,
        "checkpoint": args.checkpoint,
        "dataset": DatasetFacts { name: train.name.clone(), train: train.len(), test: 0, left_out: remarks.left_out.len(), checksum: train.fingerprint() },
        "classes": train.classes,
        "verdict": verdict,
        "words": verdict.text(),
        "seconds": seconds(&store.read_run()?.1.stages),
        "adapter": adapter,
        "kernels": device.as_ref().map(|(kernels, _)| kernels.choices()),
        "seed": settings.seed,
        "config": settings.without_poisoning()?,
    });
    store.write(RESULTS, (serde_json::to_string_pretty(&results)? + "\n").as_bytes())?;
    show(&verdict.text(), &results, &store, global)
}

struct ScanInputs {
    /// The network on its device, if one was given.
    device: Option<(Kernels, Network)>,
    settings: Protocol,
    splits: Splits,
    asked: Asked,
    earlier: Option<Store>,
}

fn inputs(args: &ScanArgs, global: &Global) -> Result<ScanInputs> {
    let ScanArgs { checkpoint, mut data, detect, out, .. } = args.clone();
    let open = |path: &Path| -> Result<_> {
        let kernels = global.open(Precision::F32)?;
        let network = Network::load(&kernels, path)?;
        Ok((kernels, network))
    };
    let stray = detect.options.0.keys().next().filter(|_| checkpoint.is_none());
    ensure!(
        stray.is_none(),
        "--{} is about the network's part in the verdict: give --checkpoint too, or leave it out",
        stray.map(|name| name.replace('_', "-")).unwrap_or_default()
    );
    let device = checkpoint.as_deref().map(open).transpose()?;
    if let Some((_, network)) = &device {
        data.image_size = data.image_size.or(Some(network.spec.image_size));
    }
    let flags = Flags { data, detect: DeclaredFlags::new(detect.options), out, force: args.force, ..Flags::default() };
    let network = checkpoint.as_deref().map_or(Ok("none".into()), known_by)?;
    let (settings, asked) = settings(&flags, "runs/scan", [("checkpoint", network)])?;
    if let Some(path) = &checkpoint {
        keep_apart(path, &settings.out)?;
    }
    let earlier = Store::earlier(&settings.out, &asked)?;
    let splits = load(&settings, true)?;
    if let (Some((kernels, network)), Some(path)) = (&device, &checkpoint) {
        fits(kernels, network, path, &splits.train)?;
    }
    Ok(ScanInputs { device, settings, splits, asked, earlier })
}
