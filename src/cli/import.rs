//! `dau import` and `dau export`: networks from and for PyTorch.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;

use super::{Global, Refuse, print, print_json};
use crate::data::Spec;
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
    /// Mean of red, green and blue that was used instead, of pixels in 0..1
    #[arg(long, value_name = "R,G,B", value_parser = three, allow_negative_numbers = true)]
    mean: Option<[f32; 3]>,
    /// Standard deviation of red, green and blue that was used instead
    #[arg(long, value_name = "R,G,B", value_parser = three, allow_negative_numbers = true)]
    std: Option<[f32; 3]>,
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

/// `0.5,0.5,0.5`.
fn three(text: &str) -> Result<[f32; 3], String> {
    let numbers: Option<Vec<f32>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    numbers.and_then(|x| x.try_into().ok()).ok_or_else(|| "three numbers with commas between, such as 0.5,0.5,0.5".into())
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
    let norm = Normalisation { mean: args.mean.unwrap_or(data.mean), std: args.std.unwrap_or(data.std) };
    ensure!(norm.std.iter().all(|s| s.is_finite() && *s > 0.0), "--std {:?} does not do: give numbers above 0", norm.std);
    ensure!(norm.mean.iter().all(|m| m.is_finite()), "--mean {:?} does not do: give finite numbers", norm.mean);
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

fn writable(out: &Path) -> Result<()> {
    let folder = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(folder.is_dir(), "cannot write {}: there is no folder {}", out.display(), folder.display());
    Ok(())
}
