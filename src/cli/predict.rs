//! `dau predict`: a checkpoint's logits on a dataset, as a safetensors file; or its classes for any images, as CSV.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};
use clap::{Args, ValueEnum};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

use super::attack_flags::AttackFlags;
use super::flags::DataFlags;
use super::inputs::{announce_target, image_cache, note, noted};
use super::progress::Progress;
use super::{Global, Refuse, announce, print, print_json, writable};
use crate::attacks::{self, Aim, Blueprint, Target, TargetMode, TriggeredTest, triggered_test};
use crate::data::{self, Dataset, LoadOptions, Spec, shown};
use crate::experiment::evaluate::{Count, TriggeredClasses};
use crate::experiment::{CLASSES, cell};
use crate::files::write_atomic;
use crate::gpu::Precision;
use crate::kernel::Kernels;
use crate::nn::ModelSpec;
use crate::train::{Network, Observer, Predictions, Wanted, predict};

/// Arguments of `dau predict`.
#[derive(Args, Clone, Debug)]
pub struct PredictArgs {
    /// The network: a safetensors file as `dau run` writes them
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// Any images instead of a dataset's: all below this folder
    #[arg(long, value_name = "DIR", conflicts_with_all = ["dataset", "data", "split", "attack", "limit_per_class"])]
    images: Option<PathBuf>,
    #[command(flatten)]
    data: DataFlags,
    /// Which images
    #[arg(long, default_value = "test")]
    split: SplitName,
    #[command(flatten)]
    attack: AttackFlags,
    /// What the network must be; refuses a checkpoint of another
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Channels its first stage must have
    #[arg(long, value_name = "CHANNELS")]
    width: Option<usize>,
    /// Images at a time
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch: usize,
    /// Where to write `images` u8 [N, S, S, 3], `labels` i32 [N] and `logits` f32 [N, K]; or, in a .csv, path, label (the class
    /// that each is taken for) and confidence
    #[arg(long, value_name = "FILE.safetensors|FILE.csv")]
    out: PathBuf,
}

/// What a trigger is to do, and the label that it is to bring about for each image; none where any wrong one will do.
type Goals = (Aim, Vec<Option<u32>>);

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SplitName {
    Train,
    Test,
}

pub fn run(args: &PredictArgs, global: &Global) -> Result<()> {
    let (kernels, network, data, triggered) = inputs(args, global).refuse()?;
    announce(&kernels);
    if let Some((aim, _)) = &triggered {
        announce_target(aim, &data.classes);
    }
    let progress = Progress::new();
    let csv = is_csv(&args.out);
    let wanted: &[Wanted] = if csv { &[] } else { &[Wanted::Logits] };
    let predictions = predict(&kernels, &network, &data, args.batch, wanted, &progress, "predict")?;
    progress.end();
    let file = if csv { encode_csv(&data, &predictions)? } else { encode(&data, &predictions)? };
    write_atomic(&args.out, &file).map_err(|e| anyhow!("cannot write {}: {e}", args.out.display()))?;

    let of = data.len();
    if args.images.is_some() {
        return say_counts(&data, &predictions, &args.out, global);
    }
    let hits = predictions.class.iter().zip(&data.labels).filter(|(said, label)| said == label).count();
    let accuracy = Count { hits, of }.percent();
    let asr = |goal| TriggeredClasses { class: &predictions.class, labels: &data.labels, goal }.asr();
    let out = args.out.display();
    if global.json {
        let mut json = json!({"out": out.to_string(), "accuracy": accuracy, "counts": {"accuracy": [hits, of]}});
        if let Some(asr) = triggered.as_ref().map(|(_, goal)| asr(goal)) {
            json["asr"] = asr.percent().into();
            json["counts"]["asr"] = json!([asr.hits, asr.of]);
        }
        return print_json(&json);
    }
    let name = if triggered.is_some() { "true label (RA)" } else { "accuracy" };
    print(&format!("{}: {name} {accuracy:.2} % ({hits}/{of})\n", data.name))?;
    if let Some((aim, goal)) = &triggered {
        let (asr, any) = (asr(goal), aim.mode == TargetMode::Untargeted);
        let wanted = if any { "a wrong label" } else { "attacker's label" };
        print(&format!("{wanted} (ASR) {:.2} % ({}/{})\n", asr.percent(), asr.hits, asr.of))?;
    }
    print(&format!("{}: {out}\n", if csv { "classes" } else { "logits" }))
}

/// How many images each class was found in.
fn say_counts(data: &Dataset, predictions: &Predictions, out: &Path, global: &Global) -> Result<()> {
    let count = |class: usize| predictions.class.iter().filter(|said| **said as usize == class).count();
    let counts: Vec<(&String, usize)> = data.classes.iter().enumerate().map(|(k, name)| (name, count(k))).collect();
    if global.json {
        let counts: serde_json::Map<String, Value> = counts.into_iter().map(|(name, n)| (name.clone(), n.into())).collect();
        return print_json(&json!({"out": out.display().to_string(), "images": data.len(), "classes": counts}));
    }
    counts.iter().filter(|(_, n)| *n > 0).try_for_each(|(name, n)| print(&format!("{n:>6}  {name}\n")))?;
    print(&format!("{} images: {}\n", data.len(), out.display()))
}

fn is_csv(out: &Path) -> bool {
    out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"))
}

/// The names of a checkpoint's classes: those of [`CLASSES`] beside it, else the labels themselves.
///
/// # Errors
/// Names that are not as many as the classes.
pub(super) fn class_names(checkpoint: &Path, classes: usize) -> Result<Vec<String>> {
    let path = checkpoint.with_file_name(CLASSES);
    if !path.is_file() {
        return Ok((0..classes).map(|label| label.to_string()).collect());
    }
    let text = std::fs::read_to_string(&path).map_err(|e| anyhow!("cannot read {}: {e}", path.display()))?;
    let names: Vec<String> = text.lines().map(shown).collect();
    let (named, shown) = (names.len(), path.display());
    ensure!(named == classes, "{shown} names {named} classes, the network has {classes}: correct or remove it");
    Ok(names)
}

/// With an attack, beside the triggered images, what it is to do.
fn inputs(args: &PredictArgs, global: &Global) -> Result<(Kernels, Network, Dataset, Option<Goals>)> {
    let flags = &args.data;
    let spec = Spec::find(flags.dataset.as_deref().unwrap_or(Spec::names()[0]))?;
    ensure!(args.batch > 0, "--batch 0 does not do: give at least 1");
    writable(&args.out, &args.checkpoint)?;
    let kernels = global.open(Precision::F32)?;
    let network = Network::load(&kernels, &args.checkpoint)?;

    let options = LoadOptions {
        dir: flags.data.clone(),
        image_size: Some(flags.image_size.unwrap_or(network.spec.image_size)),
        limit_per_class: flags.limit_per_class,
        seed: flags.seed.unwrap_or(0),
        skip_unreadable: flags.skip_unreadable,
        train_only: false,
        cache: image_cache(),
    };
    if let Some(dir) = &args.images {
        let shown = args.out.display();
        ensure!(is_csv(&args.out), "images without labels go into a table: call it --out FILE.csv, not {shown}");
        let names = class_names(&args.checkpoint, network.spec.classes)?;
        let options = LoadOptions { image_size: Some(network.spec.image_size), ..options };
        let (data, remarks) = data::load_unlabelled(&spec, dir, &options, &names)?;
        note(&remarks, data.len());
        return Ok((kernels, network, data, None));
    }
    let splits = noted(data::load(&spec, &options)?);
    let data = match args.split {
        SplitName::Train => splits.train,
        SplitName::Test => splits.test,
    };
    let (data, triggered) = stamped(data, &args.attack, options.seed)?;

    let wanted = ModelSpec {
        name: args.model.clone().unwrap_or(network.spec.name.clone()),
        width: args.width.unwrap_or(network.spec.width),
        classes: data.classes.len(),
        image_size: data.size,
        stem: network.spec.stem,
    };
    let network = if wanted == network.spec { network } else { Network::load_as(&kernels, &args.checkpoint, &wanted)? };
    let (have, want) = (data.size, network.spec.image_size);
    ensure!(have == want, "{} takes images of {want} pixels, not {have}: drop --image-size", args.checkpoint.display());
    Ok((kernels, network, data, triggered))
}

/// The images as they are or, with an attack, those that show whether it works, with its trigger.
fn stamped(data: Dataset, flags: &AttackFlags, seed: u64) -> Result<(Dataset, Option<Goals>)> {
    let AttackFlags { attack, options, target_mode, target } = flags;
    let Some(name) = attack else {
        let stray = !options.options.0.is_empty() || target_mode.is_some() || target.is_some();
        ensure!(!stray, "--target, --target-mode and an attack's options describe an attack: give --attack too, or drop them");
        return Ok((data, None));
    };
    let entry = attacks::find(name)?;
    let attack = entry.build(&Blueprint { size: data.size, seed, options: &options.options, help: None })?;
    let target = target.as_ref().unwrap_or(&Target::Label(0)).label(&data.classes)?;
    let aim = entry.aim(target_mode.unwrap_or(entry.mode), target, &options.options)?;
    aim.check(data.classes.len())?;
    let TriggeredTest { data, goal, .. } = triggered_test(&data, attack.as_ref(), &aim);
    Ok((data, Some((aim, goal))))
}

/// `path,label,confidence`: what each image is taken for, and with what probability.
fn encode_csv(data: &Dataset, predictions: &Predictions) -> Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    csv.write_record(["path", "label", "confidence"])?;
    for ((path, class), confidence) in data.paths.iter().zip(&predictions.class).zip(&predictions.confidence) {
        csv.write_record([&*cell(path), &*cell(&data.classes[*class as usize]), &confidence.to_string()])?;
    }
    Ok(csv.into_inner()?)
}

fn encode(data: &Dataset, predictions: &Predictions) -> Result<Vec<u8>> {
    let (images, side, classes) = (data.len(), data.size, data.classes.len());
    let labels: Vec<u8> = data.labels.iter().flat_map(|l| (*l as i32).to_le_bytes()).collect();
    let logits: Vec<u8> = predictions.logits.iter().flat_map(|z| z.to_le_bytes()).collect();
    let tensors = [
        ("images", TensorView::new(Dtype::U8, vec![images, side, side, 3], &data.pixels)?),
        ("labels", TensorView::new(Dtype::I32, vec![images], &labels)?),
        ("logits", TensorView::new(Dtype::F32, vec![images, classes], &logits)?),
    ];
    safetensors::serialize(tensors, None).map_err(|e| anyhow!("cannot encode the logits: {e}"))
}
