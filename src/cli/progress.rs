//! Watching a job: a bar on a terminal or plain lines in a log, `metrics.jsonl`, Ctrl-C.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use super::INTERRUPTED_CODE;
use crate::experiment::{Part, StageTime, Store, StoreError};
use crate::train::{EpochRecord, Observer};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static WATCHING: Once = Once::new();

/// Follows one part of a job on stderr, and in `metrics.jsonl` where there is a run folder.
pub struct Progress {
    part: Part,
    folder: Option<Store>,
    terminal: bool,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    stage: Option<Stage>,
    done: Vec<StageTime>,
    /// The first line of `metrics.jsonl` that could not be written.
    fault: Option<StoreError>,
}

struct Stage {
    name: String,
    images: u64,
    began: Instant,
    bar: ProgressBar,
    /// What an epoch said that was the stage.
    said: String,
}

/// From here on Ctrl-C asks jobs to stop; a second one stops at once.
fn watch_interrupts() {
    WATCHING.call_once(|| {
        let handler = || {
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                std::process::exit(INTERRUPTED_CODE.into());
            }
            eprintln!("stopping after this batch; Ctrl-C again stops at once");
        };
        if let Err(e) = ctrlc::set_handler(handler) {
            log::warn!("Ctrl-C will stop at once, not after a batch: {e}");
        }
    });
}

impl Progress {
    /// Follows a part whose epochs go to `folder`'s `metrics.jsonl`.
    pub fn of(part: Part, folder: &Store) -> Progress {
        Progress { folder: Some(folder.clone()), ..Progress::new(part) }
    }

    /// Follows a part that leaves no trace.
    pub fn new(part: Part) -> Progress {
        watch_interrupts();
        Progress { part, folder: None, terminal: std::io::stderr().is_terminal(), state: RefCell::default() }
    }

    /// Ends the last stage and gives all their times.
    ///
    /// # Errors
    /// A line of `metrics.jsonl` that could not be written.
    pub fn finish(self) -> Result<Vec<StageTime>> {
        let mut state = self.state.into_inner();
        state.end(self.part, self.terminal);
        match state.fault {
            Some(fault) => Err(fault.into()),
            None => Ok(state.done),
        }
    }
}

impl State {
    fn end(&mut self, part: Part, terminal: bool) {
        if let Some(stage) = self.stage.take() {
            let seconds = stage.began.elapsed().as_secs_f64();
            stage.bar.finish_and_clear();
            let rate = if seconds > 0.0 { stage.images as f64 / seconds } else { 0.0 };
            let Stage { name, said, .. } = &stage;
            if terminal {
                eprintln!("{name:WIDTH$} {seconds:>7.1} s  {rate:>7.0} images/s  {said}");
            } else {
                eprintln!("{name}: {seconds:.1} s, {rate:.0} images/s{}{said}", if said.is_empty() { "" } else { ", " });
            }
            let name = without_count(name);
            match self.done.iter_mut().find(|earlier| earlier.name == name) {
                Some(earlier) => earlier.seconds += seconds,
                None => self.done.push(StageTime { part, name: name.into(), seconds }),
            }
        }
    }
}

/// `train` for `train 3/12`, `discriminator` for `discriminator, round 2`: what times are added up by.
fn without_count(name: &str) -> &str {
    let name = name.split(", ").next().unwrap_or(name);
    match name.rsplit_once(' ') {
        Some((head, tail)) if tail.contains('/') && tail.chars().all(|c| c == '/' || c.is_ascii_digit()) => head,
        _ => name,
    }
}

/// Room for a stage's name.
const WIDTH: usize = 22;

/// What a bar shows, in less than 80 columns; kept valid by a test.
const STYLE: &str = "{prefix:22} [{bar:16}] {percent:>3} %  {per_sec:>14}, {eta} left";

fn bar(name: &str, images: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(STYLE).unwrap_or_else(|_| ProgressStyle::default_bar());
    let per_second = |s: &indicatif::ProgressState, w: &mut dyn std::fmt::Write| {
        // A bar that cannot be drawn is no error.
        let _ = write!(w, "{:.0} images/s", s.per_sec());
    };
    ProgressBar::new(images).with_style(style.progress_chars("=> ").with_key("per_sec", per_second)).with_prefix(name.to_string())
}

impl Observer for Progress {
    fn begin(&self, stage: &str, images: u64) {
        let mut state = self.state.borrow_mut();
        state.end(self.part, self.terminal);
        let bar = if self.terminal { bar(stage, images) } else { ProgressBar::hidden() };
        state.stage = Some(Stage { name: stage.to_string(), images, began: Instant::now(), bar, said: String::new() });
    }

    fn advance(&self, images: u64) {
        if let Some(stage) = &self.state.borrow().stage {
            stage.bar.inc(images);
        }
    }

    fn epoch(&self, record: &EpochRecord) {
        let mut state = self.state.borrow_mut();
        if let Some(stage) = &mut state.stage {
            stage.said = format!("loss {:.4}, accuracy {:.2} %, lr {:.5}", record.loss, record.accuracy, record.lr);
        }
        if let Some(Err(fault)) = self.folder.as_ref().map(|folder| folder.append_metrics(self.part, record)) {
            state.fault.get_or_insert(fault);
        }
    }

    fn cancelled(&self) -> bool {
        INTERRUPTED.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_style_of_a_bar_is_valid() {
        assert!(ProgressStyle::with_template(STYLE).is_ok());
    }

    #[test]
    fn rounds_and_epochs_of_a_stage_go_by_one_name() {
        for (name, expected) in [
            ("train 3/12", "train"),
            ("discriminator, round 2", "discriminator"),
            ("record losses", "record losses"),
            ("test defended 2/2", "test defended"),
        ] {
            assert_eq!(without_count(name), expected);
        }
    }

    #[test]
    fn stages_are_timed_and_epochs_written() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = Store::create(place.path()).expect("created");
        let progress = Progress::of(Part::AntiLearning, &folder);
        progress.begin("train 1/2", 20);
        progress.advance(20);
        let record = EpochRecord {
            stage: "train".into(),
            epoch: 1,
            epochs: 2,
            loss: 0.5,
            accuracy: 90.0,
            lr: 0.1,
            seconds: 1.0,
            images_per_second: 20.0,
        };
        progress.epoch(&record);
        progress.begin("train 2/2", 20);
        progress.begin("features", 20);
        progress.begin("test defended 2/2", 20);
        let stages = progress.finish().expect("finished");
        assert_eq!(stages.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["train", "features", "test defended"]);
        let line = folder.read(crate::experiment::METRICS).expect("metrics");
        assert!(line.starts_with("{\"part\":\"anti_learning\",\"stage\":\"train\",\"epoch\":1,"), "{line}");
    }
}
