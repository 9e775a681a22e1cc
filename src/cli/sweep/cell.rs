//! Cells in this process, one after the other.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, TryLockError};
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};

use super::super::Global;
use super::super::lost::is_loss;
use super::super::progress::{Progress, stop_with_stdin};
use super::super::run::{begin, prepare, stages};
use super::job::{Job, State};
use super::{SweepArgs, in_a_line, say_time_left, say_waiting, tables};
use crate::experiment::{BACKDOORED, Protocol, RESULTS, RUN, Record, StoreError, UNDEFENDED_TEST};
use crate::files::write_atomic;
use crate::gpu::Precision;
use crate::kernel::Kernels;
use crate::train::{EpochRecord, Network, Observer, TrainError};

/// Does those of the `chosen` cells that have not ended; those that failed, and why.
///
/// # Errors
/// A wish to stop, a device that is lost; another process that is at the only cell.
pub fn one_by_one(
    out: &Path,
    jobs: &[Job],
    chosen: &[&Job],
    args: &SweepArgs,
    global: &Global,
) -> Result<BTreeMap<String, String>> {
    let progress = Progress::new();
    if args.leashed {
        stop_with_stdin();
    }
    let loud = global.verbose > 0 || args.cell.is_some() || std::io::stderr().is_terminal();
    let watch = Watch { progress: &progress, loud };
    let open = global.opener();
    let mut left: VecDeque<&Job> = chosen.iter().copied().filter(|job| !matches!(job.state(), State::Ended(_))).collect();
    let total = left.len();
    say!("{total} of {} cells are left", chosen.len());
    let (mut failed, mut waiting) = (BTreeMap::new(), false);
    while let Some(job) = left.pop_front() {
        // Another process may have done it meanwhile.
        if matches!(job.state(), State::Ended(_)) {
            continue;
        }
        let which = format!("{} of {total}: {}", total - left.len(), job.cell);
        job.keep(None)?;
        match one(job, args.force, &open, &watch) {
            Ok(found) => say!("{which}: {}", in_a_line(&found)),
            Err(error) if matches!(error.downcast_ref(), Some(TrainError::Cancelled)) || is_loss(&error) => return Err(error),
            Err(error) if matches!(error.root_cause().downcast_ref(), Some(StoreError::Busy { .. })) => {
                // The only one that was asked for has not been done.
                ensure!(args.cell.is_none(), "another process is at cell {}", job.cell);
                left.push_back(job);
            }
            Err(error) => {
                say!("{which}: failed: {error}");
                job.keep(Some(&error.to_string()))?;
                failed.insert(job.cell.to_string(), error.to_string());
            }
        }
        if args.cell.is_none() {
            say_time_left(&tables(out, jobs)?.ended, left.make_contiguous());
        }
        // What others are at is looked at again when there is nothing else to do.
        while !left.is_empty() && left.iter().all(|job| matches!(job.state(), State::Running)) {
            if !std::mem::replace(&mut waiting, true) {
                say_waiting(left.len());
            }
            if progress.cancelled() {
                return Err(TrainError::Cancelled.into());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(failed)
}

/// One cell, with the networks that it shares: whoever comes first trains one, and others wait.
fn one(job: &Job, force: bool, open: &dyn Fn(Precision) -> Result<Kernels>, observer: &dyn Observer) -> Result<Record> {
    if let Some(surrogate) = job.protocol.surrogate.as_deref().filter(|path| !path.is_file()) {
        let _held = held(surrogate, observer)?;
        if !surrogate.is_file() {
            let own = Protocol { surrogate: None, ..job.protocol.clone() };
            let Some(network) = prepare(own, None, open, observer)?.images.surrogate else { bail!("no surrogate was made") };
            network.save(surrogate)?;
        }
    }
    // A record that cannot be read is made again, from the networks that are there.
    if let Err(StoreError::Damaged { path, .. }) = Record::read_file(&job.protocol.out.join(RESULTS))
        && path.is_file()
    {
        fs::remove_file(&path).map_err(|e| anyhow!("cannot remove {}, which is damaged: {e}", path.display()))?;
    }
    let lost = |error: anyhow::Error| match error.root_cause().downcast_ref() {
        Some(StoreError::NotOurs { path }) => {
            anyhow!("{} holds files but no {RUN}: remove this folder, and the cell begins anew", path.display())
        }
        _ => error,
    };
    let (experiment, store) = begin(job.protocol.clone(), force, open, observer).map_err(lost)?;
    if !store.has(BACKDOORED) {
        let _held = held(&job.victim, observer)?;
        if job.victim.is_file() {
            Network::load(&experiment.kernels, &job.victim)
                .map_err(|e| anyhow!("{e}; the cells share this network: remove it, and it is trained anew"))?;
            store.write(BACKDOORED, &fs::read(&job.victim)?)?;
        } else {
            experiment.victim(&store, observer)?;
            write_atomic(&job.victim, &fs::read(store.path(BACKDOORED))?)?;
        }
    }
    // What that network says of the test images is the same for every defense, too.
    let tested = job.victim.with_extension("json");
    if tested.is_file() && !store.has(UNDEFENDED_TEST) {
        store.write(UNDEFENDED_TEST, &fs::read(&tested)?)?;
    }
    let record = stages(&experiment, &store, observer)?;
    if store.has(UNDEFENDED_TEST) {
        let of_this = fs::read(store.path(UNDEFENDED_TEST))?;
        if fs::read(&tested).ok().is_none_or(|kept| kept != of_this) {
            write_atomic(&tested, &of_this)?;
        }
    }
    Ok(record)
}

/// A lock beside `path`, waited for; the system lets go of it when the process ends, however it ends.
///
/// # Errors
/// A folder that cannot be made, a wish to stop.
pub fn held(path: &Path, observer: &dyn Observer) -> Result<File> {
    let lock = path.with_extension("lock");
    let folder = lock.parent().unwrap_or(Path::new("."));
    let failed = |e: std::io::Error| anyhow!("cannot hold {}: {e}", lock.display());
    fs::create_dir_all(folder).map_err(failed)?;
    let file = File::options().create(true).append(true).open(&lock).map_err(failed)?;
    let mut said = false;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if observer.cancelled() => return Err(TrainError::Cancelled.into()),
            Err(TryLockError::WouldBlock) => {
                if !said {
                    say!("another process makes {}: waiting for it", path.display());
                    said = true;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            // Some network file systems know no locks: then two may train the same network, to the same bits.
            Err(TryLockError::Error(e)) => {
                log::warn!("cannot hold {}: {e}", lock.display());
                return Ok(file);
            }
            Ok(()) => return Ok(file),
        }
    }
}

/// Shows what a cell does on a terminal or where more is asked for, and in a log of many the cells alone.
struct Watch<'a> {
    progress: &'a Progress,
    loud: bool,
}

impl Observer for Watch<'_> {
    fn begin(&self, stage: &str, images: u64) {
        if self.loud {
            self.progress.begin(stage, images);
        }
    }

    fn advance(&self, images: u64) {
        if self.loud {
            self.progress.advance(images);
        }
    }

    fn epoch(&self, record: &EpochRecord) -> Result<(), TrainError> {
        if self.loud { self.progress.epoch(record) } else { Ok(()) }
    }

    fn end(&self) {
        if self.loud {
            self.progress.end();
        }
    }

    fn cancelled(&self) -> bool {
        self.progress.cancelled()
    }
}
