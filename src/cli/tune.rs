//! `dau tune`: which way of running each convolution is fastest on this adapter. Each is tried in another process, so that a driver that
//! hangs over one ends no more than that.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::flags::word;
use super::progress::Progress;
use super::{Global, Refuse, announce, print, print_json, tuning_file};
use crate::bench::{Tried, Ways};
use crate::gpu::{Candidate, Precision};
use crate::kernel::{Tuning, TuningError};
use crate::nn::ModelSpec;
use crate::report::columns;
use crate::train::{Observer, TrainError, check_batch};

/// How long a process may take until it is ready to try something: it opens the adapter and compares the trusted kernels with the oracle.
const READY: Duration = Duration::from_secs(120);
/// How often it is asked whether to stop.
const TICK: Duration = Duration::from_millis(200);
/// What the bar shows; kept valid by a test.
const STYLE: &str = "[{bar:24}] {pos} of {len} ways tried, {eta} left  {msg}";

/// For which steps, and how long.
#[derive(Args, Clone, Debug)]
pub struct TuneArgs {
    /// Network
    #[arg(long, value_name = "NAME", default_value = "resnet18")]
    model: String,
    /// Channels of its first stage; of a wide ResNet the factor
    #[arg(long, value_name = "CHANNELS", default_value_t = 64)]
    width: usize,
    /// Images a step; several sizes with commas
    #[arg(long, value_name = "N,N", default_value = "64", value_delimiter = ',')]
    batch: Vec<usize>,
    /// Height and width of the images
    #[arg(long, value_name = "PIXELS", default_value_t = 32)]
    image_size: usize,
    /// f32, or on matrix units, where the adapter has them: mixed multiplies in f16 in convolutions, split in pairs of f16, about as precise as f32
    #[arg(long, value_name = "NAME", default_value = "f32", value_parser = word::<Precision>)]
    precision: Precision,
    /// Only the ops whose name holds this
    #[arg(long, value_name = "NAME", default_value = "")]
    op: String,
    /// The longest that one way may take, its compilation included; one that takes longer is not used
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0)]
    limit: f64,
    /// Where to keep what is fastest, for `--tuned FILE` [default: the user's cache folder, for `--tuned cache`]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Tries what stdin says, for another process, which has had so many others at work before
    #[arg(long, hide = true)]
    worker: Option<usize>,
}

/// # Errors
/// An adapter that cannot be opened, a network that does not fit it, trusted kernels that compute something wrong, a disk that refuses.
pub fn run(args: &TuneArgs, global: &Global) -> Result<()> {
    let limit = Duration::try_from_secs_f64(args.limit).ok().filter(|limit| !limit.is_zero());
    let limit = limit.ok_or_else(|| anyhow!("--limit {} does not do: give seconds above 0", args.limit)).refuse()?;
    let global = Global { tuned: None, ..global.clone() };
    let kernels = global.open(args.precision).refuse()?;
    let spec = ModelSpec::new(&args.model, args.width, 10, args.image_size);
    for batch in &args.batch {
        let fits = || -> Result<()> {
            ensure!(*batch > 0, "--batch 0 does not do: give at least 1");
            Ok(check_batch(&kernels, &spec, *batch)?)
        };
        fits().refuse()?;
    }
    let ways = Ways::new(&kernels, &spec, &args.batch, &args.op).refuse()?;
    if let Some(before) = args.worker {
        return work(&ways, before);
    }
    let gpu = kernels.gpu();
    let file = match &args.out {
        Some(file) => file.clone(),
        None => tuning_file(gpu)?,
    };
    let kept = Tuning::read(&file, gpu);
    // Whoever named it may want to keep it.
    if let (Err(e @ (TuningError::Damaged { .. } | TuningError::Adapter { .. })), true) = (&kept, args.out.is_some()) {
        return Err(anyhow!("{e}. Choose another --out")).refuse();
    }
    announce(&kernels);
    let tuning = kept.unwrap_or_else(|e| {
        if file.exists() {
            say!("{e}");
        }
        Tuning::none(&file, gpu)
    });
    let written = |e: std::io::Error| anyhow!("cannot write {}: {e}; give --out a file that can be written", file.display());
    // What cannot be written is to be known before the work is done.
    tuning.hold().map_err(written).refuse()?;

    let words = worker_words(args, &global);
    let found = try_all(&ways, &words, limit, |class, fastest| {
        tuning.add(BTreeMap::from([(class.to_string(), fastest)])).map_err(written)
    })?;
    show(&ways, &found, &file, global.json)?;
    if found.iter().all(|tried| fastest(tried).is_none()) {
        bail!("no way was measured: each failed or took longer than --limit {}", args.limit);
    }
    print(&if global.json { String::new() } else { format!("kept in {}\n", file.display()) })
}

/// What each way of each class gave, by class and candidate. `keep` is told the fastest of each class.
fn try_all(
    ways: &Ways,
    words: &[String],
    limit: Duration,
    keep: impl Fn(&str, Candidate) -> Result<()>,
) -> Result<Vec<Vec<Tried>>> {
    let (classes, candidates) = (ways.classes(), ways.candidates());
    let progress = Progress::new();
    let style = ProgressStyle::with_template(STYLE).unwrap_or_else(|_| ProgressStyle::default_bar());
    let steps = (classes.len() * candidates.len()) as u64;
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(steps) } else { ProgressBar::hidden() };
    let bar = bar.with_style(style.progress_chars("=> "));
    let (mut worker, mut started, mut found) = (None, 0, Vec::new());
    for (c, class) in classes.iter().enumerate() {
        bar.set_message(class.to_string());
        let mut tried = Vec::new();
        for (k, candidate) in candidates.iter().enumerate() {
            let mut at_work = match worker.take() {
                Some(worker) => worker,
                None => {
                    started += 1;
                    Worker::start(words, started - 1, &progress)?
                }
            };
            let result = at_work.ask(c, k, limit, &progress)?;
            // One that took too long is given up, with its process.
            worker = result.is_some().then_some(at_work);
            let result = result.unwrap_or_else(|| Tried::Failed(format!("longer than {} s", limit.as_secs_f64())));
            log::info!("{class}: {}: {result:?}", candidate.name());
            tried.push(result);
            bar.inc(1);
        }
        if let Some((fastest, _)) = fastest(&tried) {
            keep(class, candidates[fastest])?;
        }
        found.push(tried);
    }
    bar.finish_and_clear();
    Ok(found)
}

/// The way that took least, and its microseconds.
fn fastest(tried: &[Tried]) -> Option<(usize, f64)> {
    let timed = tried.iter().enumerate().filter_map(|(k, tried)| match tried {
        Tried::Us(us) => Some((k, *us)),
        Tried::Failed(_) => None,
    });
    timed.min_by(|a, b| a.1.total_cmp(&b.1))
}

fn show(ways: &Ways, found: &[Vec<Tried>], file: &std::path::Path, as_json: bool) -> Result<()> {
    let names: Vec<String> = ways.candidates().iter().map(|way| way.name()).collect();
    let each = || ways.classes().into_iter().zip(found);
    if as_json {
        let row = |(class, tried): (&str, &Vec<Tried>)| {
            let ways: serde_json::Map<_, _> = names.iter().cloned().zip(tried.iter().map(|tried| json!(tried))).collect();
            json!({"class": class, "ways": ways, "fastest": fastest(tried).map(|(k, _)| &names[k])})
        };
        return print_json(&json!({"file": file.display().to_string(), "classes": each().map(row).collect::<Vec<_>>()}));
    }
    let heading = std::iter::once("us".to_string()).chain(names.iter().cloned()).chain(["fastest".to_string()]).collect();
    let row = |(class, tried): (&str, &Vec<Tried>)| {
        let cell = |tried: &Tried| match tried {
            Tried::Us(us) => format!("{us:.1}"),
            // Why is said below the table.
            Tried::Failed(_) => "failed".into(),
        };
        let chosen = fastest(tried).map_or("by the rule".to_string(), |(k, _)| names[k].clone());
        std::iter::once(class.to_string()).chain(tried.iter().map(cell)).chain([chosen]).collect()
    };
    print(&columns(&std::iter::once(heading).chain(each().map(row)).collect::<Vec<_>>()))?;
    for (class, tried) in each() {
        for (name, tried) in names.iter().zip(tried) {
            if let Tried::Failed(why) = tried {
                say!("{class}: {name}: {why}");
            }
        }
    }
    Ok(())
}

/// The command line of a process that tries ways for another.
fn worker_words(args: &TuneArgs, global: &Global) -> Vec<String> {
    let TuneArgs { model, width, batch, image_size, precision, op, .. } = args;
    let batches = batch.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let sizes = [("--width", width.to_string()), ("--batch", batches), ("--image-size", image_size.to_string())];
    let named =
        [("--model", model.clone()), ("--precision", precision.name().into()), ("--op", op.clone())].into_iter().chain(sizes);
    let adapter = global.adapter.iter().flat_map(|name| ["--adapter".to_string(), name.clone()]);
    let own = std::iter::once("tune".to_string()).chain(named.flat_map(|(flag, value)| [flag.into(), value]));
    own.chain(adapter).chain(global.words()).collect()
}

/// A process that tries what it is told.
struct Worker {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

/// Said by a worker once it can begin.
const BEGIN: &str = "ready";

impl Worker {
    fn start(words: &[String], before: usize, progress: &Progress) -> Result<Worker> {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        let mut child = Command::new(program)
            .args(words)
            .args(["--worker".to_string(), before.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start another process")?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else { bail!("a process without pipes") };
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            // Who listens no more has ended.
            BufReader::new(stdout).lines().map_while(Result::ok).all(|line| send.send(line).is_ok())
        });
        let mut worker = Worker { child, stdin, lines };
        match worker.line(READY, progress)?.as_deref() {
            Some(BEGIN) => Ok(worker),
            Some(other) => bail!("a process that tries ways said `{other}` at its start"),
            None => bail!("the adapter was not ready after {} s", READY.as_secs()),
        }
    }

    /// What trying a way gave; none where it took longer than `limit`.
    fn ask(&mut self, class: usize, candidate: usize, limit: Duration, progress: &Progress) -> Result<Option<Tried>> {
        writeln!(self.stdin, "{class} {candidate}").context("a process that tries ways has ended")?;
        match self.line(limit, progress) {
            Ok(Some(line)) => Ok(Some(serde_json::from_str(&line).with_context(|| format!("`{line}`"))?)),
            Ok(None) => Ok(None),
            Err(e) if e.is::<TrainError>() => Err(e),
            // A driver that crashes takes its process with it, and this way is no good.
            Err(_) => {
                let ended = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
                Ok(Some(Tried::Failed(format!("the driver ended the process: {ended}"))))
            }
        }
    }

    /// The next line that it says; none where there is none in `time`.
    ///
    /// # Errors
    /// A wish to stop; a process that has ended.
    fn line(&mut self, time: Duration, progress: &Progress) -> Result<Option<String>> {
        let mut left = time;
        loop {
            if progress.cancelled() {
                return Err(TrainError::Cancelled.into());
            }
            match self.lines.recv_timeout(left.min(TICK)) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Disconnected) => bail!("a process that tries ways has ended"),
                Err(RecvTimeoutError::Timeout) if left <= TICK => return Ok(None),
                Err(RecvTimeoutError::Timeout) => left -= TICK,
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One that has ended is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tries what stdin says until that ends, and says what it gave, a line each. The first of all that are started compares the trusted way with
/// the oracle.
fn work(ways: &Ways, before: usize) -> Result<()> {
    if before == 0 {
        ways.verify()?;
    }
    print(&format!("{BEGIN}\n"))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (class, candidate) = line.split_once(' ').context("not two numbers")?;
        let tried = ways.time(class.parse()?, candidate.parse()?)?;
        print(&(serde_json::to_string(&tried)? + "\n"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_style_of_the_bar_is_valid() {
        assert!(ProgressStyle::with_template(STYLE).is_ok());
    }

    #[test]
    fn what_failed_is_never_the_fastest() {
        let tried = [Tried::Us(3.0), Tried::Failed("wrong".into()), Tried::Us(2.0), Tried::Us(2.5)];
        assert_eq!(fastest(&tried), Some((2, 2.0)));
        assert_eq!(fastest(&tried[1..2]), None);
    }
}
