//! `dau import` and `dau export`: networks from and for PyTorch.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use super::flags::word;
use super::{Global, Refuse, print, print_json, writable};
use crate::data::Spec;
use crate::experiment::{Channels, normalisation};
use crate::gpu::Precision;
use crate::train::{Network, Normalisation};

/// Arguments of `dau import`.
#[derive(Args, Clone, Debug)]
pub struct ImportArgs {
    /// A state dict: what torch.save wrote (either format), or a safetensors file. Nothing in it is run
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What network it is of: resnet18, resnet34, preact-resnet18, wrn-16, wrn-28 or wrn-40
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
    /// The checkpoint to write
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
}

/// Arguments of `dau export`.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// A checkpoint as `dau run` and `dau import` write them
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The state dict to write, a safetensors file
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
}

pub fn import(args: &ImportArgs, global: &Global) -> Result<()> {
    let (network, norm) = read(args, global).refuse()?;
    network.save(&args.out)?;
    let Normalisation { mean, std } = norm;
    let spec = &network.spec;
    if global.json {
        return print_json(&serde_json::json!({"out": args.out, "network": spec, "mean": mean, "std": std}));
    }
    print(&format!(
        "{}: {} of width {}, {} classes, images of {} pixels, mean {mean:?}, std {std:?}\n",
        args.out.display(),
        spec.name,
        spec.width,
        spec.classes,
        spec.image_size
    ))
}

fn read(args: &ImportArgs, global: &Global) -> Result<(Network, Normalisation)> {
    writable(&args.out)?;
    let data = Spec::find(&args.dataset)?;
    let norm = normalisation(args.mean.unwrap_or(data.mean.into()), args.std.unwrap_or(data.std.into()))?;
    let network = Network::import(&global.open(Precision::F32)?, &args.file, &args.model, args.image_size, norm)?;
    let (classes, known) = (network.spec.classes, data.classes);
    let chosen = args.mean.is_some() && args.std.is_some();
    ensure!(
        chosen || known == 0 || known == classes,
        "{} has {classes} classes, {} has {known}: give --dataset, or --mean and --std, as the network was trained",
        args.file.display(),
        data.name
    );
    Ok((network, norm))
}

pub fn export(args: &ExportArgs, global: &Global) -> Result<()> {
    let load = || {
        writable(&args.out)?;
        Ok(Network::load(&global.open(Precision::F32)?, &args.file)?)
    };
    let network: Network = Result::<_>::refuse(load())?;
    network.export(&args.out)?;
    let tensors = network.params.params().len();
    if global.json {
        return print_json(&serde_json::json!({"out": args.out, "tensors": tensors}));
    }
    print(&format!("{}: {tensors} tensors, for load_state_dict(strict=True)\n", args.out.display()))
}
