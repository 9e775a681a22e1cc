//! `dau import` and `dau export`: networks from and for PyTorch.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use super::flags::word;
use super::{Global, Refuse, print, print_json, writable};
use crate::data::Spec;
use crate::experiment::{Channels, normalisation};
use crate::nn::LARGE;
use crate::train::{Checkpoint, Normalisation};

/// Arguments of `dau import`.
#[derive(Args, Clone, Debug)]
pub struct ImportArgs {
    /// A state dict: what torch.save wrote (either format), or a safetensors file. Nothing in it is run
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What network it is of, in small or capital letters, with or without hyphens: resnet18, resnet34, preact-resnet18, wrn-16, wrn-28 or wrn-40
    #[arg(long, value_name = "NAME")]
    model: String,
    /// The data set whose mean and standard deviation its images were normalised with
    #[arg(long, value_name = "NAME", default_value = "CIFAR-10")]
    dataset: String,
    /// Mean that was used instead, of pixels in 0..1: a number or one each for red, green, blue; 0 for none
    #[arg(long, value_name = "MEAN", value_parser = word::<Channels>, allow_negative_numbers = true)]
    mean: Option<Channels>,
    /// Standard deviation that was used instead: a number or three; 1 for none
    #[arg(long, value_name = "STD", value_parser = word::<Channels>, allow_negative_numbers = true)]
    std: Option<Channels>,
    /// Height and width of its images [default: 64 where the stem is 7x7, else 32]
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// The checkpoint to write, in place of a file that is there
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
}

/// Arguments of `dau export`.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// A checkpoint as `dau run` and `dau import` write them
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The state dict to write, a safetensors file, in place of a file that is there
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
}

pub fn import(args: &ImportArgs, global: &Global) -> Result<()> {
    let checkpoint = read(args).refuse()?;
    checkpoint.save(&args.out)?;
    let Checkpoint { spec, norm: Normalisation { mean, std }, notes, .. } = &checkpoint;
    if global.json {
        return print_json(&serde_json::json!({"out": args.out, "network": spec, "mean": mean, "std": std, "notes": notes}));
    }
    notes.iter().for_each(|note| say!("{}: {note}", args.file.display()));
    print(&format!(
        "{}: {} of width {}, {} classes, images of {} pixels, mean {mean:?}, std {std:?}\n",
        args.out.display(),
        spec.name,
        spec.width,
        spec.classes,
        spec.image_size
    ))
}

fn read(args: &ImportArgs) -> Result<Checkpoint> {
    writable(&args.out, &args.file)?;
    let data = Spec::find(&args.dataset)?;
    let norm = normalisation(args.mean.unwrap_or(data.mean.into()), args.std.unwrap_or(data.std.into()))?;
    let checkpoint = Checkpoint::import(&args.file, &args.model, args.image_size, norm)?;
    let (classes, known) = (checkpoint.spec.classes, data.classes);
    let chosen = args.mean.is_some() && args.std.is_some();
    ensure!(
        chosen || known == 0 || known == classes,
        "{} has {classes} classes, {} has {known}: give --dataset, or --mean and --std, as the network was trained",
        args.file.display(),
        data.name
    );
    // Nothing but the stem told the size: such networks are trained on small images that are scaled, and on some that are not.
    ensure!(
        chosen || args.image_size.is_some() || checkpoint.spec.image_size < LARGE || data.image_size >= LARGE,
        "{} has a 7x7 stem, as networks for images of {LARGE} pixels and more have; those of {} have {size}. Say what it was trained on: \
         --image-size {size} where they were not scaled, else the size that they were scaled to",
        args.file.display(),
        data.name,
        size = data.image_size
    );
    Ok(checkpoint)
}

pub fn export(args: &ExportArgs, global: &Global) -> Result<()> {
    let load = || {
        writable(&args.out, &args.file)?;
        Ok(Checkpoint::load(&args.file)?)
    };
    let checkpoint: Checkpoint = Result::<_>::refuse(load())?;
    let tensors = checkpoint.export(&args.out)?;
    if global.json {
        return print_json(&serde_json::json!({"out": args.out, "tensors": tensors}));
    }
    print(&format!("{}: {tensors} tensors, for load_state_dict(strict=True)\n", args.out.display()))
}
