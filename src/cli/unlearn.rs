//! `dau unlearn`: stage 2 alone, for a network with a backdoor and samples that are known to be bad.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;
use serde_json::json;

use super::declared_flags::{DauPurifyOptions, DeclaredFlags};
use super::flags::{DataFlags, Flags, OUTPUT};
use super::inputs::{image_cache, note};
use super::own::{fits, keep_apart, known_by, load, root, settings, share, show, shown_again};
use super::predict::class_names;
use super::progress::Progress;
use super::run::store_of;
use super::{Global, Refuse, announce};
use crate::data::{Dataset, LoadOptions, Spec, load_classes};
use crate::defenses::Split;
use crate::defenses::dau::UnlearnConfig;
use crate::experiment::{Asked, CLASSES, COMMIT, Experiment, Protocol, RESULTS, Store, seconds};
use crate::gpu::Precision;
use crate::kernel::Kernels;
use crate::nn::ModelSpec;
use crate::report::parse_suspects;
use crate::train::{Network, check_batch};

/// Arguments of `dau unlearn`.
#[derive(Args, Clone, Debug)]
pub struct UnlearnArgs {
    /// The network: a safetensors file as `dau run` writes them
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// The bad samples: a list of images in --data, a path a line or a suspects.csv; or a folder of images, <given label>/*
    #[arg(long, value_name = "LIST|DIR")]
    suspects: PathBuf,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    purify: DeclaredFlags<DauPurifyOptions>,
    /// Where to write defended.safetensors and results.json [default: runs/unlearn and a code for the settings]
    #[arg(long, value_name = "DIR", help_heading = OUTPUT)]
    out: Option<PathBuf>,
    /// Begin anew where the folder holds a run; the old folder is kept beside it
    #[arg(long, help_heading = OUTPUT)]
    pub(super) force: bool,
}

/// What to forget and what to keep.
struct Samples {
    data: Dataset,
    bad: Vec<bool>,
    /// Images that are in neither.
    test: Option<Dataset>,
}

pub fn run(args: &UnlearnArgs, global: &Global) -> Result<()> {
    let UnlearnInputs { kernels, network, settings, samples, mut asked, earlier } = inputs(args, global).refuse()?;
    let Samples { data, bad, test } = samples;
    let suspects = data.subset(&(0..data.len()).filter(|&i| bad[i]).collect::<Vec<_>>());
    let clean = data.len() - suspects.len();
    let config = UnlearnConfig::of(&settings.defense_options(), &settings.train_config());
    check_batch(&kernels, &network.spec, config.batch()).refuse()?;
    announce(&kernels);
    asked.given.extend([
        ("checksum of the images".into(), data.fingerprint()),
        ("checksum of the suspects".into(), suspects.fingerprint()),
    ]);
    let store = store_of(&settings.out, &asked, Some(&kernels), earlier).refuse()?;
    if shown_again(&store, global)? {
        return Ok(());
    }

    let progress = Progress::new();
    let experiment = Experiment::new(&settings, &kernels, &data, &store, &progress)?;
    let measure = |network: &Network, stage: &str| {
        let kept = experiment.accuracy(network, &suspects, &format!("{stage}, suspects"))?;
        let test = test.as_ref().map(|test| experiment.accuracy(network, test, stage));
        Ok::<_, anyhow::Error>((kept, test.transpose()?))
    };
    let (kept_before, before) = measure(&network, "test before")?;
    let split = Split { score: bad.iter().map(|b| f32::from(u8::from(*b))).collect(), flagged: bad };
    let network = experiment.purify(&network, &split)?;
    store.write(CLASSES, (data.classes.join("\n") + "\n").as_bytes())?;
    let (kept, after) = measure(&network, "test after")?;

    let mut words = format!(
        "Of {} suspects {:.1} % got their given label before, {:.1} % now.\n",
        suspects.len(),
        kept_before.percent(),
        kept.percent()
    );
    match (before, after) {
        (Some(before), Some(after)) => {
            words += &format!(
                "Accuracy on {} images that were not trained on: {:.2} % before, {:.2} % now.\n",
                after.of,
                before.percent(),
                after.percent()
            );
        }
        _ => words += "Without clean images accuracy is not known, and much of it may be lost: give --data if you have any.\n",
    }
    let results = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "commit": COMMIT,
        "checkpoint": args.checkpoint,
        "suspects": suspects.len(),
        "clean": clean,
        "words": words,
        "before": {"kept": kept_before.percent(), "test": before.map(share)},
        "after": {"kept": kept.percent(), "test": after.map(share)},
        "seconds": seconds(&store.read_run()?.1.stages),
        "adapter": kernels.gpu().describe(),
        "kernels": kernels.choices(),
        "seed": settings.seed,
        "config": settings.without_poisoning()?,
    });
    store.write(RESULTS, (serde_json::to_string_pretty(&results)? + "\n").as_bytes())?;
    show(&words, &results, &store, global)
}

struct UnlearnInputs {
    kernels: Kernels,
    network: Network,
    settings: Protocol,
    samples: Samples,
    asked: Asked,
    earlier: Option<Store>,
}

fn inputs(args: &UnlearnArgs, global: &Global) -> Result<UnlearnInputs> {
    let UnlearnArgs { checkpoint, suspects, data, purify, out, force } = args.clone();
    let kernels = global.open(Precision::F32)?;
    let network = Network::load(&kernels, &checkpoint)?;
    let ModelSpec { classes, image_size, .. } = network.spec;
    let known = data.data.is_some() || data.dataset.is_some();
    let data = DataFlags { image_size: data.image_size.or(Some(image_size)), ..data };
    let given = [("checkpoint", known_by(&checkpoint)?), ("suspects at", suspects.display().to_string())];
    let flags = Flags { data, purify: DeclaredFlags::new(purify.options), out, force, ..Flags::default() };
    let (settings, asked) = settings(&flags, "runs/unlearn", given)?;
    keep_apart(&checkpoint, &settings.out)?;
    keep_apart(&suspects, &settings.out)?;
    let earlier = Store::earlier(&settings.out, &asked)?;
    let splits = if known { Some(load(&settings, false)?) } else { None };
    if let Some(splits) = &splits {
        fits(&kernels, &network, &checkpoint, &splits.train)?;
    }
    let samples = if suspects.is_dir() {
        let names = match &splits {
            Some(splits) => splits.train.classes.clone(),
            None => class_names(&checkpoint, classes)?,
        };
        let spec = Spec::find(&settings.dataset)?;
        let options = LoadOptions { image_size: Some(image_size), limit_per_class: None, ..settings.load_options(image_cache()) };
        let (bad, remarks) = load_classes(&spec, &suspects, &options, &names).map_err(|e| {
            anyhow!("{e}; the folders in {} are to be called as the classes are: {}", suspects.display(), names.join(", "))
        })?;
        note(&remarks, bad.len());
        match splits {
            Some(splits) => beside(bad, &splits.train, Some(splits.test)),
            None => Samples { bad: vec![true; bad.len()], data: bad, test: None },
        }
    } else {
        let splits = splits.ok_or_else(|| {
            anyhow!("{} is a list of images: say where they lie with --data DIR, or give a folder", suspects.display())
        })?;
        let text = std::fs::read_to_string(&suspects).map_err(|e| anyhow!("cannot read {}: {e}", suspects.display()))?;
        let [bad, aside] = parse_suspects(&text, &suspects, [&splits.train, &splits.test], root(&settings))?;
        // What is bad is no test of accuracy.
        let fair: Vec<usize> = (0..splits.test.len()).filter(|&i| !aside[i]).collect();
        Samples { bad, data: splits.train, test: Some(splits.test.subset(&fair)) }
    };
    Ok(UnlearnInputs { kernels, network, settings, samples, asked, earlier })
}

/// The bad images and those of `train` that are none of them: a copy with the same label would be learned as clean.
fn beside(bad: Dataset, train: &Dataset, test: Option<Dataset>) -> Samples {
    let known: HashSet<(u32, &[u8])> = (0..bad.len()).map(|i| (bad.labels[i], bad.image(i))).collect();
    let clean: Vec<usize> = (0..train.len()).filter(|&i| !known.contains(&(train.labels[i], train.image(i)))).collect();
    let copies = train.len() - clean.len();
    if copies > 0 {
        say!("{copies} training images are copies of suspects: they do not count as clean");
    }
    let clean = train.subset(&clean);
    let flags = (0..bad.len() + clean.len()).map(|i| i < bad.len()).collect();
    let data = Dataset {
        pixels: [bad.pixels, clean.pixels].concat(),
        labels: [bad.labels, clean.labels].concat(),
        paths: [bad.paths, clean.paths].concat(),
        ..bad
    };
    Samples { data, bad: flags, test }
}
