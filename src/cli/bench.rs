//! `dau bench`: kernels and training steps, timed.

use anyhow::{Result, bail};
use clap::Args;

use super::Global;

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
    #[arg(long, value_name = "NAME")]
    pub op: Option<String>,
    /// Only the whole training step
    #[arg(long)]
    pub step: bool,
}

/// # Errors
/// An adapter that cannot be opened.
pub fn run(args: &BenchArgs, global: &Global) -> Result<()> {
    let _kernels = global.open()?;
    bail!("bench of {} at width {} is not built yet", args.model, args.width)
}
