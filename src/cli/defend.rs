//! `dau defend`: images of unknown provenance in, a clean network and a verdict in words out.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::flags::{DataFlags, Flags, StageOneFlags, StageTwoFlags, TrainingFlags};
use super::own::{accuracy, load, root, settings, share, show, shown_again};
use super::progress::Progress;
use super::run::store_of;
use super::{Global, Refuse, announce, host};
use crate::data::Splits;
use crate::experiment::{
    DatasetFacts, Part, RESULTS, Recorder, Store, UNDEFENDED, open_for, searched, seconds, trained, unlearned,
};
use crate::report::{Verdict, write_findings};

/// Arguments of `dau defend`.
#[derive(Args, Clone, Debug)]
pub struct DefendArgs {
    /// Settings from a TOML file with these flags' names as keys
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    training: TrainingFlags,
    #[command(flatten)]
    stage_one: StageOneFlags,
    #[command(flatten)]
    stage_two: StageTwoFlags,
    /// Where to write the networks, suspects.csv, suspects.png, scores.svg, verdict.txt and results.json [default: runs/defend
    /// and a code for the settings]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Begin anew where the folder holds a run; the old folder is kept beside it
    #[arg(long)]
    force: bool,
}

pub fn run(args: &DefendArgs, global: &Global) -> Result<()> {
    let DefendArgs { config, data, training, stage_one, stage_two, out, force } = args.clone();
    let flags = Flags { config, data, training, stage_one, stage_two, out, force, ..Flags::default() };
    let (settings, mut asked) = settings(&flags, "runs/defend", []).refuse()?;
    let earlier = Store::earlier(&settings.out, &asked).refuse()?;
    let Splits { train, test, remarks } = load(&settings, false).refuse()?;
    let progress = Progress::new();
    let open = |precision| global.open(precision);
    let model = settings.model_spec(&train);
    let kernels = open_for(&settings, &model, &host(&open, &progress)).refuse()?;
    announce(&kernels);
    asked.given.extend([
        ("checksum of the images".into(), train.fingerprint()),
        ("checksum of the test images".into(), test.fingerprint()),
    ]);
    let adapter = kernels.gpu().describe();
    let store = store_of(&settings.out, &asked, Some(&kernels), earlier).refuse()?;
    if shown_again(&store, global)? {
        return Ok(());
    }

    let recorder = Recorder::new(Part::AntiLearning, &store, &progress);
    let network = trained(&kernels, &settings, &model, &train, &store, UNDEFENDED, &recorder)?;
    let findings = searched(&kernels, &settings, &network, &train, &store, &recorder)?;
    recorder.finish()?;
    let verdict = Verdict::new(&train, &findings);
    write_findings(&store, &train, root(&settings), &findings, &verdict)?;

    let recorder = Recorder::new(Part::Test, &store, &progress);
    let before = accuracy(&kernels, &network, &test, settings.batch, &recorder, "test undefended")?;
    recorder.finish()?;
    // With nothing flagged the network stays as it was trained.
    let recorder = Recorder::new(Part::Unlearning, &store, &progress);
    let network = unlearned(&kernels, &settings.unlearn_config(), network, &train, &findings.split, &store, &recorder)?;
    recorder.finish()?;
    let recorder = Recorder::new(Part::Test, &store, &progress);
    let after = accuracy(&kernels, &network, &test, settings.batch, &recorder, "test defended")?;
    recorder.finish()?;

    let changed = if verdict.flagged > 0 { "after unlearning" } else { "it is the trained network, unchanged" };
    let words = format!(
        "{}\nAccuracy on {} images that were not trained on: {:.2} % as trained; {:.2} % for defended.safetensors, {changed}.\n",
        verdict.text(),
        test.len(),
        before.percent(),
        after.percent()
    );
    let results = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "dataset": DatasetFacts { name: train.name.clone(), train: train.len(), test: test.len(), left_out: remarks.left_out.len() },
        "classes": train.classes,
        "verdict": verdict,
        "words": words,
        "undefended": share(before),
        "defended": share(after),
        "seconds": seconds(&store.read_run()?.1.stages),
        "adapter": adapter,
        "seed": settings.seed,
        "config": settings.without_poisoning()?,
    });
    store.write(RESULTS, (serde_json::to_string_pretty(&results)? + "\n").as_bytes())?;
    show(&words, &results, &store, global)
}
