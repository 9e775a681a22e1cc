//! `dau bench`: kernels and training steps, timed.

mod kernels;
mod step;

use anyhow::{Result, ensure};
use clap::Args;

use super::{Global, Refuse, announce};
use crate::kernel::Kernels;
use crate::nn::ModelSpec;
use crate::train::{SgdConfig, check_batch};

pub use step::Steps;

/// What to time.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Network
    #[arg(long, value_name = "NAME", default_value = "resnet18")]
    pub model: String,
    /// Channels of its first stage
    #[arg(long, value_name = "CHANNELS", default_value_t = 64)]
    pub width: usize,
    /// Images a step
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub batch: usize,
    /// Height and width of the images
    #[arg(long, value_name = "PIXELS", default_value_t = 32)]
    pub image_size: usize,
    /// Only the ops whose name holds this
    #[arg(long, value_name = "NAME", conflicts_with = "step")]
    pub op: Option<String>,
    /// Only the whole training step
    #[arg(long)]
    pub step: bool,
}

/// As `dau run` trains.
const SGD: SgdConfig = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4, crop_pad: 4, flip: true };

/// # Errors
/// An adapter that cannot be opened, a network that does not fit it, kernels that compute something wrong.
pub fn run(args: &BenchArgs, global: &Global) -> Result<()> {
    let (kernels, spec) = inputs(args, global).refuse()?;
    if args.step {
        announce(&kernels);
        return step::run(&kernels, &spec, args.batch, global.json);
    }
    let nodes = kernels::distinct_nodes(&spec, args.batch, kernels.gpu().caps(), args.op.as_deref()).refuse()?;
    announce(&kernels);
    kernels::run(&kernels, &nodes, global.json)
}

fn inputs(args: &BenchArgs, global: &Global) -> Result<(Kernels, ModelSpec)> {
    ensure!(args.batch > 0, "--batch 0 does not do: give at least 1");
    let spec = ModelSpec { name: args.model.clone(), width: args.width, classes: 10, image_size: args.image_size };
    let kernels = global.open()?;
    check_batch(&kernels, &spec, args.batch)?;
    Ok((kernels, spec))
}
