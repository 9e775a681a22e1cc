//! `dau bench`: kernels and training steps, timed.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use super::flags::word;
use super::{Global, Refuse, announce, print, print_json};
use crate::bench::{Baseline, StepTimes, Timings, distinct_nodes, shader_text};
use crate::gpu::Precision;
use crate::kernel::Kernels;
use crate::nn::ModelSpec;
use crate::train::check_batch;

/// What to time.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Network
    #[arg(long, value_name = "NAME", default_value = "resnet18")]
    pub model: String,
    /// Channels of its first stage; of a wide ResNet the factor
    #[arg(long, value_name = "CHANNELS", default_value_t = 64)]
    pub width: usize,
    /// Images a step
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub batch: usize,
    /// Height and width of the images
    #[arg(long, value_name = "PIXELS", default_value_t = 32)]
    pub image_size: usize,
    /// f32, or on matrix units, where the adapter has them: mixed multiplies in f16 in convolutions, split in pairs of f16, about as precise as f32
    #[arg(long, value_name = "NAME", default_value = "f32", value_parser = word::<Precision>)]
    pub precision: Precision,
    /// Only the ops whose name holds this
    #[arg(long, value_name = "NAME", conflicts_with = "step")]
    pub op: Option<String>,
    /// Only the whole training step
    #[arg(long)]
    pub step: bool,
    /// Only the WGSL that the driver gets for these kernels, nothing is timed: a file under shaders/, or FILE.ENTRY
    #[arg(long, value_name = "NAME", conflicts_with_all = ["step", "baseline"])]
    pub print_shader: Option<String>,
    /// An earlier run's --json output to compare with; exit code 1 if a kernel has become slower
    #[arg(long, value_name = "FILE", conflicts_with = "step")]
    pub baseline: Option<PathBuf>,
    /// How much slower than the baseline is still as fast
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0, requires = "baseline")]
    pub tolerance: f64,
}

/// # Errors
/// An adapter that cannot be opened, a network that does not fit it, a baseline that cannot be read, kernels that compute something
/// wrong or have become slower.
pub fn run(args: &BenchArgs, global: &Global) -> Result<()> {
    let started = Instant::now();
    let (kernels, spec) = inputs(args, global).refuse()?;
    if args.step {
        announce(&kernels);
        return shown(&StepTimes::measure(&kernels, &spec, args.batch, started)?, StepTimes::text, global);
    }
    let nodes = distinct_nodes(&kernels, &spec, args.batch, args.op.as_deref()).refuse()?;
    if let Some(name) = &args.print_shader {
        let text = shader_text(&nodes, name).refuse()?;
        announce(&kernels);
        return print(&text);
    }
    let baseline = match &args.baseline {
        Some(file) => {
            let read = Baseline::read(file, args.tolerance, args.op.as_deref(), &nodes);
            Some(read.refuse()?)
        }
        None => None,
    };
    announce(&kernels);
    let adapter = kernels.gpu().describe();
    if let Some(other) = baseline.as_ref().map(Baseline::adapter).filter(|other| **other != adapter) {
        say!("WARNING: the baseline is from ANOTHER ADAPTER, {other}; this is {adapter}");
    }
    let timings = Timings::measure(&kernels, &spec, args.batch, &nodes, baseline.as_ref())?;
    shown(&timings, Timings::text, global)?;
    timings.judge()
}

/// JSON, or words.
fn shown<T: Serialize>(found: &T, words: impl Fn(&T) -> String, global: &Global) -> Result<()> {
    if global.json { print_json(found) } else { print(&words(found)) }
}

fn inputs(args: &BenchArgs, global: &Global) -> Result<(Kernels, ModelSpec)> {
    ensure!(args.batch > 0, "--batch 0 does not do: give at least 1");
    let spec = ModelSpec::new(&args.model, args.width, 10, args.image_size);
    let kernels = global.open(args.precision)?;
    check_batch(&kernels, &spec, args.batch)?;
    Ok((kernels, spec))
}
