//! Watching a job: a bar on a terminal or plain lines in a log; Ctrl-C.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::INTERRUPTED_CODE;
use crate::kernel::Watch;
use crate::train::{EpochRecord, Observer, TrainError};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static WATCHING: Once = Once::new();

/// Follows a job on stderr, and knows whether it is to stop.
pub struct Progress {
    terminal: bool,
    stage: RefCell<Option<Stage>>,
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
            say!("stopping after this step; once more stops at once");
        };
        heed_nohup();
        if let Err(e) = ctrlc::set_handler(handler) {
            log::warn!("Ctrl-C will stop at once, not after a batch: {e}");
        }
    });
}

/// From here on the end of stdin asks jobs to stop, too: whoever holds its other end has let go of it, or has died.
pub fn stop_with_stdin() {
    std::thread::spawn(|| {
        // An error is an end, too.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        INTERRUPTED.store(true, Ordering::SeqCst);
    });
}

/// Where a hang-up was ignored, as under `nohup`, a job is to outlast its terminal, and the handler would ask it to stop: neither this
/// thread nor one that it starts takes the signal.
#[cfg(target_os = "linux")]
fn heed_nohup() {
    use nix::sys::signal::{SigSet, Signal};
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    if ignored >> (Signal::SIGHUP as u32 - 1) & 1 == 1 {
        let mut hang_up = SigSet::empty();
        hang_up.add(Signal::SIGHUP);
        if let Err(e) = hang_up.thread_block() {
            log::warn!("a hang-up will stop this job in spite of nohup: {e}");
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn heed_nohup() {}

impl Progress {
    pub fn new() -> Progress {
        watch_interrupts();
        Progress { terminal: std::io::stderr().is_terminal(), stage: RefCell::default() }
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

/// How long compiling may take before it is spoken of.
const SHORT: Duration = Duration::from_secs(1);

/// What a bar shows while kernels are compiled; kept valid by a test.
const COMPILING: &str = "compiling kernels {pos}/{len}  [{bar:16}]";

/// Follows the compiling of kernels: a bar on a terminal, or a line in a log, where it takes longer than a second.
pub fn compiling() -> Arc<Watch> {
    let state: Mutex<Option<(Instant, ProgressBar)>> = Mutex::default();
    Arc::new(move |done, of| {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if done == 0 {
            *state = Some((Instant::now(), ProgressBar::hidden()));
        }
        // A thread may be heard after the last one.
        let Some((began, bar)) = &mut *state else { return };
        let late = began.elapsed() >= SHORT;
        if late && bar.is_hidden() && std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template(COMPILING).unwrap_or_else(|_| ProgressStyle::default_bar());
            *bar = ProgressBar::new(of as u64).with_style(style.progress_chars("=> "));
        }
        bar.set_position(done as u64);
        if done == of {
            bar.finish_and_clear();
            if late {
                say!("compiled {of} kernels in {:.1} s", began.elapsed().as_secs_f64());
            }
            *state = None;
        }
    })
}

impl Observer for Progress {
    fn begin(&self, stage: &str, images: u64) {
        self.end();
        let bar = if self.terminal { bar(stage, images) } else { ProgressBar::hidden() };
        let stage = Stage { name: stage.to_string(), images, began: Instant::now(), bar, said: String::new() };
        *self.stage.borrow_mut() = Some(stage);
    }

    fn advance(&self, images: u64) {
        if let Some(stage) = &*self.stage.borrow() {
            stage.bar.inc(images);
        }
    }

    fn epoch(&self, record: &EpochRecord) -> Result<(), TrainError> {
        if let Some(stage) = &mut *self.stage.borrow_mut() {
            stage.said = format!("loss {:.4}, accuracy {:.2} %, lr {:.5}", record.loss, record.accuracy, record.lr);
        }
        Ok(())
    }

    fn end(&self) {
        let Some(Stage { name, images, began, bar, said }) = self.stage.borrow_mut().take() else { return };
        let seconds = began.elapsed().as_secs_f64();
        bar.finish_and_clear();
        let rate = if seconds > 0.0 { images as f64 / seconds } else { 0.0 };
        if self.terminal {
            say!("{name:WIDTH$} {seconds:>7.1} s  {rate:>7.0} images/s  {said}");
        } else {
            say!("{name}: {seconds:.1} s, {rate:.0} images/s{}{said}", if said.is_empty() { "" } else { ", " });
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
        assert!([STYLE, COMPILING].iter().all(|style| ProgressStyle::with_template(style).is_ok()));
    }
}
