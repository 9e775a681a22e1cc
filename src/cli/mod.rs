//! The command line: one file a subcommand. Arguments in, a job done, exit code out.

#[macro_use]
mod say;

mod attack_flags;
mod bench;
mod data;
mod declared_flags;
mod defend;
mod demo;
mod devices;
mod flags;
mod import;
mod inputs;
mod layers;
mod lost;
mod misfit;
mod own;
mod poison;
mod predict;
mod progress;
mod run;
mod scan;
mod selftest;
mod subtask;
mod sweep;
mod tune;
mod unlearn;

use std::cell::RefCell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, anyhow, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::data::shown;
use crate::experiment::Host;
use crate::files::place;
use crate::gpu::{AdapterChoice, Gpu, LimitChoice, Precision, Staging, suit_mesa};
use crate::kernel::{Kernels, Tuning};
use crate::ops::matrices_add_up;
use crate::train::{Observer, TrainError};

/// Exit code for input that is refused before anything is done or written.
const REFUSED_CODE: u8 = 2;
/// Exit code after Ctrl-C, as shells have it.
const INTERRUPTED_CODE: u8 = 130;

const AFTER_HELP: &str = "\
The original's command line does `run` in three parts that share a run folder:
  dau --subtask anti_learning --dataset \"CIFAR-10\" --data DIR --attack \"BadNets\"
  dau --subtask unlearning    --dataset \"CIFAR-10\" --data DIR --attack \"BadNets\"
  dau --subtask test          --dataset \"CIFAR-10\" --data DIR --attack \"BadNets\"

Exit codes: 0 done; 1 failed on the way; 2 refused, nothing was written; 130 stopped by Ctrl-C or SIGTERM.";

/// Trains backdoored networks on any GPU, finds the poisoned images and removes the backdoor
/// (Decoupled Adversarial Unlearning).
#[derive(Parser)]
#[command(name = "dau", version, arg_required_else_help = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The whole job on the built-in digits with BadNets; takes run's settings
    Demo(flags::Flags),
    /// The whole job: poison, train, split, unlearn, test
    Run(flags::Flags),
    /// Many runs at once: every combination of attacks, defenses, rates, seeds and other settings, and their table
    Sweep(sweep::SweepArgs),
    /// Your own images, of unknown provenance: a clean network, and whether there was a backdoor, in words
    Defend(defend::DefendArgs),
    /// Looks for poison in images, with the network that was trained on them if there is one; trains nothing
    Scan(scan::ScanArgs),
    /// Has a network with a backdoor unlearn samples that are known to be bad
    Unlearn(unlearn::UnlearnArgs),
    /// Writes a poisoned data set as a folder of images, for run --poisoned and other tools
    Poison(poison::PoisonArgs),
    /// Lists, fetches and verifies data sets
    #[command(subcommand)]
    Data(data::DataCommand),
    /// One part of the job: the original's command line
    #[command(hide = true)]
    Subtask(subtask::SubtaskArgs),
    /// Lists the adapters to choose from with --adapter
    Devices,
    /// Runs every kernel on the adapter and compares with the CPU
    Selftest,
    /// Times kernels and training steps
    Bench(bench::BenchArgs),
    /// Times every way to run a network's convolutions on this adapter, and keeps the fastest for --tuned
    Tune(tune::TuneArgs),
    /// Writes a checkpoint's logits on a dataset, or what it takes the images of a folder for
    Predict(predict::PredictArgs),
    /// Makes a checkpoint of a PyTorch state dict
    Import(import::ImportArgs),
    /// Makes a PyTorch state dict of a checkpoint
    Export(import::ExportArgs),
}

impl Command {
    fn run(&self, global: &Global) -> Result<()> {
        match self {
            Command::Demo(flags) => demo::run(flags, global),
            Command::Run(flags) => run::run(flags, global),
            Command::Sweep(args) => sweep::run(args, global),
            Command::Defend(args) => defend::run(args, global),
            Command::Scan(args) => scan::run(args, global),
            Command::Unlearn(args) => unlearn::run(args, global),
            Command::Poison(args) => poison::run(args, global),
            Command::Data(command) => data::run(command, global),
            Command::Subtask(args) => subtask::run(args, global),
            Command::Devices => devices::run(global),
            Command::Selftest => selftest::run(global),
            Command::Bench(args) => bench::run(args, global),
            Command::Tune(args) => tune::run(args, global),
            Command::Predict(args) => predict::run(args, global),
            Command::Import(args) => import::import(args, global),
            Command::Export(args) => import::export(args, global),
        }
    }

    /// `--force` of a command that keeps its state and goes on by being given again.
    fn force(&mut self) -> Option<&mut bool> {
        match self {
            Command::Demo(flags) | Command::Run(flags) => Some(&mut flags.force),
            Command::Defend(args) => Some(&mut args.force),
            Command::Scan(args) => Some(&mut args.force),
            Command::Unlearn(args) => Some(&mut args.force),
            Command::Subtask(args) => Some(&mut args.flags.force),
            Command::Sweep(args) => Some(&mut args.force),
            _ => None,
        }
    }
}

/// Flags of every subcommand.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// Part of the adapter's name, or its index in `dau devices`
    #[arg(long, global = true, value_name = "NAME|INDEX")]
    adapter: Option<String>,
    /// Graphics interface
    #[arg(long, global = true)]
    backend: Option<Backend>,
    /// Use all that the adapter has, or WebGPU's defaults
    #[arg(long, global = true, default_value = "adapter")]
    limits: Limits,
    /// How convolutions load their operands, instead of what suits the adapter
    #[arg(long, global = true, value_parser = staging())]
    staging: Option<Staging>,
    /// Run each convolution the way that `dau tune` found fastest: what it kept in the user's cache folder for this adapter, or in FILE. Another
    /// way adds in another order, so that the same seed gives other bits; without it the kind of adapter decides
    #[arg(long, global = true, value_name = "FILE|cache", conflicts_with = "staging")]
    tuned: Option<PathBuf>,
    /// Machine-readable output on stdout, all else on stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// Log more; twice: all
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Backend {
    Vulkan,
    Metal,
    Dx12,
    Gl,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Limits {
    Adapter,
    Default,
}

fn staging() -> impl TypedValueParser<Value = Staging> {
    let named = |name: String| Staging::ALL.into_iter().find(|s| s.name() == name).ok_or("no such staging");
    PossibleValuesParser::new(Staging::ALL.map(Staging::name)).try_map(named)
}

impl Global {
    /// These flags for another process, but for the adapter and the form of output.
    fn words(&self) -> Vec<String> {
        let backend = self.backend.and_then(|backend| backend.to_possible_value());
        let limits = self.limits.to_possible_value().filter(|_| matches!(self.limits, Limits::Default));
        let named = |flag: &str, name: &str| [flag.to_string(), name.to_string()];
        let chosen = [
            backend.map(|backend| named("--backend", backend.get_name())),
            limits.map(|limits| named("--limits", limits.get_name())),
            self.staging.map(|staging| named("--staging", staging.name())),
            self.tuned.as_ref().map(|file| named("--tuned", &file.display().to_string())),
        ];
        let verbose = std::iter::repeat_n("-v".to_string(), self.verbose.into());
        chosen.into_iter().flatten().flatten().chain(verbose).collect()
    }

    /// The adapter that the flags ask for.
    pub fn choice(&self) -> AdapterChoice {
        AdapterChoice {
            backend: self.backend.map(|b| match b {
                Backend::Vulkan => wgpu::Backend::Vulkan,
                Backend::Metal => wgpu::Backend::Metal,
                Backend::Dx12 => wgpu::Backend::Dx12,
                Backend::Gl => wgpu::Backend::Gl,
            }),
            adapter: self.adapter.clone(),
            limits: match self.limits {
                Limits::Adapter => LimitChoice::Adapter,
                Limits::Default => LimitChoice::Default,
            },
            staging: self.staging,
            precision: Precision::F32,
        }
    }

    /// Opens that adapter for convolutions in `precision`.
    ///
    /// # Errors
    /// See [`Gpu::open`]; or a precision on an adapter whose matrices compute something wrong.
    pub fn open(&self, precision: Precision) -> Result<Kernels> {
        let gpu = Gpu::open(&AdapterChoice { precision, ..self.choice() })?;
        if precision != Precision::F32 {
            let right = matrices_add_up(&Kernels::new(gpu.clone()))?;
            ensure!(
                right,
                "{}: its cooperative matrices compute something wrong, as dau selftest shows. Leave --precision {} out, or try \
                 another driver",
                gpu.describe(),
                precision.name()
            );
        }
        let kernels = match &self.tuned {
            Some(file) => {
                let file = if file.as_os_str() == CACHE { tuning_file(&gpu)? } else { file.clone() };
                let tuning = Tuning::read(&file, &gpu)?;
                Kernels::with_tuning(gpu, tuning)
            }
            None => Kernels::new(gpu),
        };
        Ok(kernels.watched(progress::compiling()))
    }

    /// Opens that adapter when it is first asked for. Who asks again gets the same device, and what was compiled for it.
    fn opener(&self) -> impl Fn(Precision) -> Result<Kernels> {
        let opened: RefCell<Option<(Precision, Kernels)>> = RefCell::default();
        move |precision| {
            if let Some((_, kernels)) = opened.borrow().as_ref().filter(|(known, _)| *known == precision) {
                return Ok(kernels.clone());
            }
            let kernels = self.open(precision)?;
            *opened.borrow_mut() = Some((precision, kernels.clone()));
            Ok(kernels)
        }
    }
}

/// `--tuned cache`.
const CACHE: &str = "cache";

/// Where `dau tune` keeps what is fastest on this adapter, unless told otherwise.
///
/// # Errors
/// A user without a cache folder.
fn tuning_file(gpu: &Gpu) -> Result<PathBuf> {
    let folder = dirs::cache_dir().ok_or_else(|| anyhow!("there is no cache folder to keep it in: name a file"))?;
    Ok(Tuning::place(&folder.join("dau"), gpu))
}

/// What the command line lends an experiment: this adapter, the user's cache folder and `observer`.
fn host<'a>(open: &'a dyn Fn(Precision) -> Result<Kernels>, observer: &'a dyn Observer) -> Host<'a> {
    Host { open, image_cache: inputs::image_cache(), observer }
}

/// Says on stderr which adapter was chosen, once it is clear that there is something to do on it.
fn announce(kernels: &Kernels) {
    say!("adapter: {}, staging {}", kernels.describe(), kernels.gpu().caps().staging.name());
}

/// Input that is refused before anything is done or written.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(#[source] anyhow::Error);

/// Marks what stops a command before it has done anything.
trait Refuse<T> {
    fn refuse(self) -> Result<T>;
}

impl<T, E: Into<anyhow::Error>> Refuse<T> for Result<T, E> {
    fn refuse(self) -> Result<T> {
        self.map_err(|e| {
            let e: anyhow::Error = e.into();
            // An attack's own training can be stopped, too.
            if matches!(e.downcast_ref(), Some(TrainError::Cancelled)) { e } else { Refused(e).into() }
        })
    }
}

/// Refuses a file to write whose folder is not there, that is there and is no regular file, or that is the `input`.
fn writable(out: &Path, input: &Path) -> Result<()> {
    let folder = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let shown = out.display();
    ensure!(folder.is_dir(), "cannot write {shown}: there is no folder {}", folder.display());
    let place = place(out).map_err(|e| anyhow!("cannot write {shown}: {e}; choose another --out"))?;
    let same = matches!((place.canonicalize(), input.canonicalize()), (Ok(out), Ok(input)) if out == input);
    ensure!(!same, "--out {shown} is what is read: choose another --out");
    Ok(())
}

/// Writes to stdout; a reader that has gone away is no error of ours.
fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(anyhow!("cannot write to stdout: {e}")),
        _ => Ok(()),
    }
}

/// Writes pretty JSON to stdout.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

fn log_to_stderr(verbose: u8) {
    let default =
        ["warn,wgpu_core=off,wgpu_hal=off,naga=off", "warn,dau=debug,wgpu_hal=off", "debug"][usize::from(verbose.min(2))];
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(default)).init();
}

/// `dau`: parses the arguments, runs the command, says what went wrong. It sets an environment variable and so is to be called before
/// any thread starts.
pub fn main() -> ExitCode {
    suit_mesa();
    // Sums whose order depends on the number of threads have other last digits on another machine: what is large goes in fixed blocks by itself.
    faer::set_global_parallelism(faer::Par::Seq);
    let mut cli = Cli::parse_from(subtask::as_subcommand(std::env::args_os()));
    log_to_stderr(cli.global.verbose);
    let done = lost::outlast(&mut cli.command, &cli.global);
    let Err(error) = done else { return ExitCode::SUCCESS };
    if let Some(TrainError::Cancelled) = error.downcast_ref() {
        say!("stopped: nothing is half-written; a run goes on by the same command");
        return INTERRUPTED_CODE.into();
    }
    // Our errors say their causes themselves, in one line, with names that strangers gave.
    say!("error: {}", shown(&error.to_string()));
    if error.is::<Refused>() { REFUSED_CODE.into() } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn another_process_is_given_the_same_flags() {
        let words = ["--backend", "gl", "--limits", "default", "--staging", "workgroup-tile", "-v", "-v"];
        let of = |words: &[&str]| Cli::try_parse_from([&["dau", "devices"], words].concat()).expect("parsed").global.words();
        assert_eq!(of(&words), words);
        assert_eq!(of(&["--tuned", "t.json"]), ["--tuned", "t.json"]);
        assert!(of(&["--adapter", "1", "--json"]).is_empty());
    }

    #[test]
    fn every_staging_has_its_flag() {
        for staging in Staging::ALL {
            let cli = Cli::try_parse_from(["dau", "devices", "--staging", staging.name()]).expect("parsed");
            assert_eq!(cli.global.choice().staging, Some(staging));
        }
    }
}
