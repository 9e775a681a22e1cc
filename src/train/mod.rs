//! Training and evaluating networks on a device.

mod batch;
mod checkpoint;
pub mod metrics;
mod network;
mod observer;
mod predictor;
mod schedule;
mod trainer;

use std::path::PathBuf;

pub(crate) use batch::stream;
pub use batch::{Batch, Part};
pub use checkpoint::Checkpoint;
pub use network::{Network, Normalisation};
pub use observer::{EpochRecord, Observer, Silent};
pub use predictor::{Predictions, Predictor, predict};
pub use schedule::cosine;
pub use trainer::{SgdConfig, TrainConfig, TrainStep, check_batch, fit, training_graph};

use thiserror::Error;

/// What can stop a training job.
#[derive(Debug, Error)]
pub enum TrainError {
    #[error(transparent)]
    Graph(#[from] crate::graph::GraphError),
    #[error(transparent)]
    Gpu(#[from] crate::gpu::GpuError),
    #[error("{stage}: the loss became {value} in epoch {epoch}, step {step}; try a smaller --lr (it was {lr})")]
    NotFinite { stage: String, epoch: usize, step: usize, value: f32, lr: f64 },
    #[error("stopped by Ctrl-C")]
    Cancelled,
    #[error("a batch of {batch} does not fit: {why}. {advice}")]
    Batch { batch: usize, why: String, advice: String },
    #[error("{path}: {why}")]
    Checkpoint { path: PathBuf, why: String },
    #[error("{0}")]
    Data(String),
}
