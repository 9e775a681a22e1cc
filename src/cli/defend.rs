//! `dau defend`: images of unknown provenance in, a clean network and a verdict in words out.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::declared_flags::{DauDetectOptions, DauPurifyOptions, DeclaredFlags};
use super::flags::{DataFlags, Flags, OUTPUT, TrainingFlags};
use super::own::{load, root, settings, share, show, shown_again};
use super::progress::Progress;
use super::run::store_of;
use super::{Global, Refuse, announce, host};
use crate::data::Splits;
use crate::defenses::dau::{FINDINGS, Findings};
use crate::experiment::evaluate::Count;
use crate::experiment::{COMMIT, DatasetFacts, Experiment, REPORT, RESULTS, Store, UNDEFENDED, open_for, seconds};
use crate::report::{Verdict, defend_page, defended_groups, write_findings};
use crate::train::Network;

/// Arguments of `dau defend`.
#[derive(Args, Clone, Debug)]
pub struct DefendArgs {
    /// Settings from a TOML file with these flags' names as keys
    #[arg(long, value_name = "FILE.toml", help_heading = "Settings")]
    config: Option<PathBuf>,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    training: TrainingFlags,
    #[command(flatten)]
    detect: DeclaredFlags<DauDetectOptions>,
    #[command(flatten)]
    purify: DeclaredFlags<DauPurifyOptions>,
    /// Where to write the networks, suspects.csv, suspects.png, scores.svg, verdict.txt, results.json and report.html [default:
    /// runs/defend and a code for the settings]
    #[arg(long, value_name = "DIR", help_heading = OUTPUT)]
    out: Option<PathBuf>,
    /// Begin anew where the folder holds a run; the old folder is kept beside it
    #[arg(long, help_heading = OUTPUT)]
    pub(super) force: bool,
}

pub fn run(args: &DefendArgs, global: &Global) -> Result<()> {
    let DefendArgs { config, data, training, detect, purify, out, force } = args.clone();
    let (detect, purify) = (DeclaredFlags::new(detect.options), DeclaredFlags::new(purify.options));
    let flags = Flags { config, data, training, detect, purify, out, force, ..Flags::default() };
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
    let adapter = kernels.describe();
    let store = store_of(&settings.out, &asked, Some(&kernels), earlier).refuse()?;
    if shown_again(&store, global)? {
        return Ok(());
    }

    let experiment = Experiment::new(&settings, &kernels, &train, &store, &progress)?;
    let network = experiment.victim(UNDEFENDED)?;
    experiment.detect(&network)?;
    let findings: Findings = store.read_json(FINDINGS)?;
    let verdict = Verdict::new(&train, &findings);
    write_findings(&store, &train, root(&settings), &findings, &verdict)?;
    let flagged: Vec<usize> = (0..train.len()).filter(|&i| findings.split.flagged[i]).collect();
    let flagged = train.subset(&flagged);
    let given = |network: &Network, stage: &str| -> Result<Count> {
        if flagged.is_empty() { Ok(Count { hits: 0, of: 0 }) } else { experiment.accuracy(network, &flagged, stage) }
    };
    let given_before = given(&network, "flagged undefended")?;
    let before = experiment.accuracy(&network, &test, "test undefended")?;
    let seen = experiment.projection(&network, defended_groups(&train, &findings.split), settings.seed)?;
    // With nothing flagged the network stays as it was trained.
    let network = experiment.purify(&network, &findings.split)?;
    let given_after = given(&network, "flagged defended")?;
    let after = experiment.accuracy(&network, &test, "test defended")?;

    let changed = if verdict.flagged > 0 { "after unlearning" } else { "it is the trained network, unchanged" };
    let mut words = verdict.text() + "\n";
    if given_before.of > 0 {
        words += &format!(
            "Of the {} flagged images {} get the label that they were given from the network as trained, {} from defended.safetensors.\n",
            given_before.of, given_before.hits, given_after.hits
        );
    }
    words += &format!(
        "Accuracy on {} images that were not trained on: {:.2} % as trained; {:.2} % for defended.safetensors, {changed}.\n\
         These {} were not looked for poison: if some are poisoned, the accuracy counts their false labels. `dau scan` of the same folder looks at all images.\n",
        test.len(),
        before.percent(),
        after.percent(),
        test.len(),
    );
    let results = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "commit": COMMIT,
        "dataset": DatasetFacts { name: train.name.clone(), train: train.len(), test: test.len(), left_out: remarks.left_out.len(), checksum: train.fingerprint() },
        "classes": train.classes,
        "verdict": verdict,
        "words": words,
        "undefended": share(before),
        "defended": share(after),
        "flagged given their label": {"undefended": given_before, "defended": given_after},
        "seconds": seconds(&store.read_run()?.1.stages),
        "adapter": adapter,
        "kernels": kernels.choices(),
        "seed": settings.seed,
        "config": settings.without_poisoning()?,
    });
    store.write(REPORT, defend_page(&store, &words, &seen, &results)?.as_bytes())?;
    store.write(RESULTS, (serde_json::to_string_pretty(&results)? + "\n").as_bytes())?;
    show(&words, &results, &store, global)
}
