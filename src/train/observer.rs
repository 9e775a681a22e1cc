//! Who watches a long job.

use serde::Serialize;

use super::{Network, TrainError};

/// What one epoch did: a line of `metrics.jsonl`.
#[derive(Clone, Debug, Serialize)]
pub struct EpochRecord {
    /// The training, by the name that it was given.
    pub stage: String,
    /// Counted from 1.
    pub epoch: usize,
    /// How many there are to be.
    pub epochs: usize,
    /// Mean over the samples trained on.
    pub loss: f64,
    /// Percent of them that got their given label.
    pub accuracy: f64,
    /// Learning rate of its first step.
    pub lr: f64,
    /// What it took.
    pub seconds: f64,
    /// Images trained on, and looked at, a second.
    pub images_per_second: f64,
}

impl EpochRecord {
    /// Images trained on, and looked at.
    pub fn images(&self) -> usize {
        (self.images_per_second * self.seconds).round() as usize
    }
}

/// Progress, records and the wish to stop.
pub trait Observer {
    /// A stage begins; it will go through so many images.
    fn begin(&self, stage: &str, images: u64);
    /// So many more images are done.
    fn advance(&self, images: u64);
    /// An epoch has ended.
    ///
    /// # Errors
    /// A record that cannot be kept: the epoch does not count, and a run that goes on has it again.
    fn epoch(&self, record: &EpochRecord) -> Result<(), TrainError>;
    /// Shows the network as that epoch left it, for figures by epoch. Who trains learns nothing of what is seen, and the network is only read.
    ///
    /// # Errors
    /// As [`Observer::epoch`]; the driver's.
    fn look(&self, _record: &EpochRecord, _network: &Network) -> Result<(), TrainError> {
        Ok(())
    }
    /// The last stage that began has ended, and none begins now.
    fn end(&self) {}
    /// Asked between batches; true makes the job return `TrainError::Cancelled`.
    fn cancelled(&self) -> bool;
    /// The same as an error, for a job that has nothing to put away first.
    ///
    /// # Errors
    /// A wish to stop.
    fn go_on(&self) -> Result<(), TrainError> {
        if self.cancelled() { Err(TrainError::Cancelled) } else { Ok(()) }
    }
}

/// Nobody watches.
pub struct Silent;

impl Observer for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn epoch(&self, _: &EpochRecord) -> Result<(), TrainError> {
        Ok(())
    }
    fn cancelled(&self) -> bool {
        false
    }
}

/// Wishes to stop from the question on that has this number, from 1.
#[cfg(test)]
pub(crate) struct Stops(pub(crate) std::cell::Cell<usize>);

#[cfg(test)]
impl Observer for Stops {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn epoch(&self, _: &EpochRecord) -> Result<(), TrainError> {
        Ok(())
    }
    fn cancelled(&self) -> bool {
        self.0.set(self.0.get().saturating_sub(1));
        self.0.get() == 0
    }
}

/// Loses the device once so many images are done.
#[cfg(test)]
pub(crate) struct Loses<'a> {
    pub(crate) gpu: &'a crate::gpu::Gpu,
    pub(crate) left: std::cell::Cell<u64>,
}

#[cfg(test)]
impl Observer for Loses<'_> {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, images: u64) {
        let left = self.left.get();
        self.left.set(left.saturating_sub(images));
        if (1..=images).contains(&left) {
            self.gpu.device.destroy();
        }
    }
    fn epoch(&self, _: &EpochRecord) -> Result<(), TrainError> {
        Ok(())
    }
    fn cancelled(&self) -> bool {
        false
    }
}
