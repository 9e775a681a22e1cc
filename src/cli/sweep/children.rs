//! Several cells at once, each in a process of its own, so that one that crashes ends no other.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::IsTerminal;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};

use super::super::progress::Progress;
use super::super::{Global, INTERRUPTED_CODE};
use super::job::{Job, LOGS, State};
use super::time_left::{span, time_left};
use super::{SweepArgs, Tables, in_a_line, say_waiting, seconds, tables};
use crate::experiment::Record;
use crate::gpu;
use crate::train::{Observer, TrainError};

/// How often processes are looked at, and how often it is said how long they will take.
const TICK: Duration = Duration::from_millis(200);
const SHOWN: Duration = Duration::from_secs(5);

/// What a bar shows; kept valid by a test.
const STYLE: &str = "[{bar:24}] {pos} of {len} cells{msg}";

/// Does the cells that have not ended, `at_once` at a time, shared out over the adapters; those that failed, and why.
///
/// # Errors
/// A wish to stop: the cells at work have stopped then. A process that cannot be started, a disk that refuses.
pub fn all(out: &Path, jobs: &[Job], at_once: usize, args: &SweepArgs, global: &Global) -> Result<BTreeMap<String, String>> {
    let progress = Progress::new();
    let left: Vec<&Job> = jobs.iter().filter(|job| !matches!(job.state(), State::Ended(_))).collect();
    let adapters = adapters(global);
    let over = if adapters.len() > 1 { format!(" on {} adapters", adapters.len()) } else { String::new() };
    let logs = out.join(LOGS);
    fs::create_dir_all(&logs).map_err(|e| anyhow!("cannot make {}: {e}", logs.display()))?;
    say!("{} of {} cells are left, {at_once} at once{over}; what each says: {}", left.len(), jobs.len(), logs.display());
    let mut driver = Driver {
        args,
        global,
        adapters,
        at_once,
        total: left.len(),
        done: 0,
        left,
        running: Vec::new(),
        waiting: false,
        bar: bar(),
    };
    driver.bar.set_length(driver.total as u64);
    let (mut failed, mut found, mut shown) = (BTreeMap::new(), tables(out, jobs)?, None);
    loop {
        if progress.cancelled() {
            driver.stop();
            return Err(TrainError::Cancelled.into());
        }
        driver.fill()?;
        if driver.running.is_empty() {
            if driver.left.is_empty() {
                driver.bar.finish_and_clear();
                return Ok(failed);
            }
            driver.say_waiting();
        }
        let ended = driver.ended()?;
        for (job, status) in &ended {
            match outcome(job, *status) {
                Outcome::Ended(record) => driver.say(job, &in_a_line(&record)),
                Outcome::Busy => driver.left.push(job),
                Outcome::Failed(why) => {
                    driver.say(job, &format!("failed: {why}"));
                    job.keep(Some(&why))?;
                    failed.insert(job.cell.to_string(), why);
                }
            }
        }
        if !ended.is_empty() {
            found = tables(out, jobs)?;
        }
        if !ended.is_empty() || shown.is_none_or(|shown: Instant| shown.elapsed() > SHOWN) {
            driver.show(&found, failed.len(), !ended.is_empty());
            shown = Some(Instant::now());
        }
        std::thread::sleep(TICK);
    }
}

struct Running<'a> {
    job: &'a Job,
    process: Child,
    /// Its place in the list of adapters.
    adapter: usize,
    began: Instant,
}

struct Driver<'a> {
    args: &'a SweepArgs,
    global: &'a Global,
    /// As `--adapter` has them; none where there is no choice.
    adapters: Vec<String>,
    at_once: usize,
    total: usize,
    done: usize,
    left: Vec<&'a Job>,
    running: Vec<Running<'a>>,
    /// Whether it was said that other processes are waited for.
    waiting: bool,
    bar: ProgressBar,
}

impl<'a> Driver<'a> {
    /// Starts as many cells as there is room for. One that another process is at is left for later.
    fn fill(&mut self) -> Result<()> {
        let mut busy = Vec::new();
        while self.running.len() < self.at_once && !self.left.is_empty() {
            let job = self.left.remove(next(&self.left, &self.running.iter().map(|running| running.job).collect::<Vec<_>>()));
            match job.state() {
                State::Running => busy.push(job),
                State::Ended(record) => self.say(job, &in_a_line(&record)),
                _ => self.start(job)?,
            }
        }
        self.left.extend(busy);
        Ok(())
    }

    /// Starts one on the adapter that has the least to do.
    fn start(&mut self, job: &'a Job) -> Result<()> {
        let at_work = |adapter: &usize| self.running.iter().filter(|running| running.adapter == *adapter).count();
        let adapter = (0..self.adapters.len()).min_by_key(at_work).unwrap_or(0);
        let failed = |what: &str, e: std::io::Error| anyhow!("cannot {what}: {e}; the same command goes on");
        let path = job.log();
        let log = File::create(&path).map_err(|e| failed(&format!("write {}", path.display()), e))?;
        let both = log.try_clone().map_err(|e| failed(&format!("write {}", path.display()), e))?;
        let mut command = Command::new(std::env::current_exe().map_err(|e| failed("find this program", e))?);
        command.arg("sweep").arg(&self.args.file).args(["--cell", &job.number.to_string(), "--leashed"]);
        command.args(self.global.words()).args(self.args.force.then_some("--force"));
        if let Some(adapter) = self.adapters.get(adapter) {
            command.args(["--adapter", adapter]);
        }
        command.envs(threads(self.at_once)).stdin(Stdio::piped()).stdout(both).stderr(log);
        job.keep(None)?;
        let process = command.spawn().map_err(|e| failed("start a process", e))?;
        log::debug!("{}: process {}", job.cell, process.id());
        self.running.push(Running { job, process, adapter, began: Instant::now() });
        Ok(())
    }

    /// The cells whose processes have ended since.
    fn ended(&mut self) -> Result<Vec<(&'a Job, ExitStatus)>> {
        let mut ended = Vec::new();
        for running in &mut self.running {
            if let Some(status) = running.process.try_wait()? {
                ended.push((running.job, status));
            }
        }
        self.running.retain(|running| !ended.iter().any(|(job, _)| job.number == running.job.number));
        Ok(ended)
    }

    /// Lets go of all that are at work, and waits until they have stopped.
    fn stop(&mut self) {
        self.bar.finish_and_clear();
        self.running.iter_mut().for_each(|running| drop(running.process.stdin.take()));
        for running in &mut self.running {
            // One that cannot be waited for has ended.
            let _ = running.process.wait();
        }
    }

    /// Says once that other processes are at all that is left.
    fn say_waiting(&mut self) {
        if !std::mem::replace(&mut self.waiting, true) {
            self.bar.suspend(|| say_waiting(self.left.len()));
        }
    }

    fn say(&mut self, job: &Job, what: &str) {
        self.done += 1;
        self.bar.suspend(|| say!("{} of {}: {}: {what}", self.done, self.total, job.cell));
    }

    /// Shows how far the sweep is: on a terminal always, in a log when it is `news`.
    fn show(&self, found: &Tables, failed: usize, news: bool) {
        let running = self.running.iter().map(|running| (running.job, running.began.elapsed()));
        let rest: Vec<(&Job, Duration)> = running.chain(self.left.iter().map(|job| (*job, Duration::ZERO))).collect();
        let time = time_left(seconds(&found.ended), &rest, self.at_once);
        let time = time.map_or(String::new(), |time| format!("about {} left", span(time)));
        if news && self.bar.is_hidden() && !time.is_empty() {
            say!("{time}");
        }
        let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        let time = if time.is_empty() { time } else { format!(", {time}") };
        self.bar.set_position(self.done as u64);
        self.bar.set_message(format!(", {} at work{failed}{time}", self.running.len()));
    }
}

/// How a cell's process ended.
enum Outcome {
    Ended(Box<Record>),
    /// Another process came first.
    Busy,
    Failed(String),
}

fn outcome(job: &Job, status: ExitStatus) -> Outcome {
    match job.state() {
        // Whoever ended it.
        State::Ended(record) => Outcome::Ended(record),
        State::Running => Outcome::Busy,
        State::Failed(why) | State::Damaged(why) => Outcome::Failed(why),
        _ if status.code() == Some(INTERRUPTED_CODE.into()) => Outcome::Failed("somebody stopped its process".into()),
        _ => {
            let log = fs::read_to_string(job.log()).unwrap_or_default();
            let error = log.lines().rev().find_map(|line| line.strip_prefix("error: "));
            Outcome::Failed(error.map_or_else(|| format!("{status}; what it said: {}", job.log().display()), String::from))
        }
    }
}

fn bar() -> ProgressBar {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template(STYLE).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style.progress_chars("=> "))
}

/// The first of those `left` that waits for no network that a running one makes; else the first.
fn next(left: &[&Job], running: &[&Job]) -> usize {
    let made: Vec<&Path> = running.iter().flat_map(|job| job.missing()).collect();
    left.iter().position(|job| job.missing().all(|network| !made.contains(&network))).unwrap_or(0)
}

/// The adapters that cells are shared out over, as `--adapter` has them: the one that is asked for, or all that are like the best one.
fn adapters(global: &Global) -> Vec<String> {
    if let Some(adapter) = &global.adapter {
        return vec![adapter.clone()];
    }
    let infos: Vec<_> = gpu::list(global.choice().backend).into_iter().map(|row| row.info).collect();
    let alike = gpu::alike(&infos);
    if alike.len() > 1 { alike.iter().map(ToString::to_string).collect() } else { Vec::new() }
}

/// Each process's share of the cores, in the variables that lavapipe and the threads of our own read. Where it is one core a second thread
/// of lavapipe is in the way; of more cores it starts two each (`suit_mesa` says why).
fn threads(at_once: usize) -> [(&'static str, String); 2] {
    let share = (std::thread::available_parallelism().map_or(1, usize::from) / at_once).max(1);
    let at_most = |name: &'static str, most: usize| {
        let asked = std::env::var(name).ok().and_then(|asked| asked.parse().ok());
        (name, asked.map_or(most, |asked: usize| asked.min(most)).to_string())
    };
    let lavapipe = if share == 1 { 1 } else { 2 * share };
    [at_most("LP_NUM_THREADS", lavapipe), at_most("RAYON_NUM_THREADS", share)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::sweep::Sweep;

    #[test]
    fn cells_that_are_done_at_once_do_not_wait_for_the_same_network() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("s.toml");
        let out = place.path().join("o").display().to_string();
        let vary = "defense = [\"DAU\", \"CLP\", \"none\"]\nattack = [\"BadNets\", \"SIG\"]\nseed = [0, 1]";
        fs::write(&file, format!("out = '{out}'\n[vary]\n{vary}\n")).unwrap();
        let jobs = super::super::job::jobs(&Sweep::read(&file).unwrap()).unwrap();
        let left = |numbers: &[usize]| numbers.iter().map(|n| &jobs[*n]).collect::<Vec<_>>();
        assert_eq!(next(&left(&[0, 1, 2]), &[]), 0);
        // 0, 2 and 4 are defenses against the same attack, and so are 1, 3 and 5.
        assert_eq!(next(&left(&[2, 3, 4, 5, 6]), &left(&[0, 1])), 4, "that of the other seed");
        assert_eq!(next(&left(&[2, 3, 4]), &left(&[0])), 1);
        assert_eq!(next(&left(&[2, 3]), &left(&[0, 1])), 0, "all wait, and the first is as good as any");
        // The network is there: nobody makes it.
        fs::create_dir_all(jobs[0].victim.parent().unwrap()).unwrap();
        fs::write(&jobs[0].victim, "").unwrap();
        assert_eq!(next(&left(&[2, 3, 4, 5, 6]), &left(&[0, 1])), 0);
    }

    #[test]
    fn a_process_of_one_core_has_one_thread() {
        assert_eq!(threads(usize::MAX).map(|(_, count)| count), ["1", "1"]);
    }

    #[test]
    fn the_style_of_the_bar_is_valid() {
        assert!(ProgressStyle::with_template(STYLE).is_ok());
    }
}
