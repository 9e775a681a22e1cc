//! `dau defend`: images of unknown provenance in, a clean network and a verdict in words out.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::flags::{DataFlags, Flags, StageOneFlags, StageTwoFlags, TrainingFlags};
use super::job::open_for;
use super::own::{accuracy, load, record, root, settings, share};
use super::progress::Progress;
use super::{Global, Refuse, print, print_json};
use crate::data::Splits;
use crate::defenses::dau::{scan, unlearn};
use crate::report::{DEFENDED, DatasetFacts, Part, RESULTS, RunFolder, UNDEFENDED, Verdict, seconds, write_findings};
use crate::train::{Network, fit};

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
    /// Where to write the networks, suspects.csv, suspects.png, scores.svg, verdict.txt and results.json [default: runs/defend]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(args: &DefendArgs, global: &Global) -> Result<()> {
    let DefendArgs { config, data, training, stage_one, stage_two, out } = args.clone();
    let flags = Flags { config, data, training, stage_one, stage_two, out, ..Flags::default() };
    let settings = settings(&flags, "runs/defend").refuse()?;
    RunFolder::vet(&settings.out).refuse()?;
    let Splits { train, test, remarks } = load(&settings, false).refuse()?;
    let kernels = open_for(&settings, &settings.model_spec(&train), global).refuse()?;
    let folder = RunFolder::create(&settings.out).refuse()?;
    let table = settings.without_poisoning()?;
    record(&folder, &table, &kernels.gpu().describe(), &[])?;

    let progress = Progress::of(Part::AntiLearning, &folder);
    let network = Network::new(&kernels, &settings.model_spec(&train), &settings.normalisation()?, settings.seed)?;
    fit(&kernels, &network, &train, &settings.train_config(), &progress, |_| Ok(()))?;
    network.save(&folder.path(UNDEFENDED))?;
    let findings = scan(&kernels, &network, &train, &settings.stage_one_config(), &progress)?;
    let mut stages = progress.finish()?;
    let verdict = Verdict::new(&train, &findings);
    write_findings(&folder, &train, root(&settings), &findings, &verdict)?;

    let progress = Progress::of(Part::Test, &folder);
    let before = accuracy(&kernels, &network, &test, settings.batch, &progress, "test undefended")?;
    stages.extend(progress.finish()?);
    // With nothing flagged the network stays as it was trained.
    let progress = Progress::of(Part::Unlearning, &folder);
    unlearn(&kernels, &network, &train, &findings.split, &settings.unlearn_config(), &progress)?;
    stages.extend(progress.finish()?);
    network.save(&folder.path(DEFENDED))?;
    let progress = Progress::of(Part::Test, &folder);
    let after = accuracy(&kernels, &network, &test, settings.batch, &progress, "test defended")?;
    stages.extend(progress.finish()?);
    record(&folder, &table, &kernels.gpu().describe(), &stages)?;

    let results = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "dataset": DatasetFacts { name: train.name.clone(), train: train.len(), test: test.len(), left_out: remarks.left_out.len() },
        "classes": train.classes,
        "verdict": verdict,
        "undefended": share(before),
        "defended": share(after),
        "seconds": seconds(&stages),
        "adapter": kernels.gpu().describe(),
        "seed": settings.seed,
        "config": table,
    });
    folder.write(RESULTS, (serde_json::to_string_pretty(&results)? + "\n").as_bytes())?;
    let changed = if verdict.flagged > 0 { "after unlearning" } else { "it is the trained network, unchanged" };
    let words = format!(
        "{}\nAccuracy on {} images that were not trained on: {:.2} % as trained; {:.2} % for defended.safetensors, {changed}.\n",
        verdict.text(),
        test.len(),
        before.percent(),
        after.percent()
    );
    show(&words, &results, &folder, global)
}

/// Words on stdout, or JSON there and the words on stderr; then where the files are.
pub(super) fn show(words: &str, results: &Value, folder: &RunFolder, global: &Global) -> Result<()> {
    if global.json {
        eprint!("{words}");
        print_json(results)?;
    } else {
        print(words)?;
    }
    eprintln!("done; files: {}", folder.root().display());
    Ok(())
}
