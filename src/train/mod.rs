//! Training and evaluating networks on a device.

mod attention;
mod batch;
mod checkpoint;
mod extremes;
mod input_gradient;
mod network;
mod norm_gradient;
mod objective;
mod observer;
mod predictor;
mod schedule;
mod state;
mod step;
mod trainer;

use std::path::PathBuf;

pub use attention::{Attention, attention};
pub use batch::{Batch, Part};
pub(crate) use batch::{stream, stream_until};
pub use checkpoint::Checkpoint;
pub use extremes::{LayerExtremes, extremes};
pub use input_gradient::{InputGradient, Scalar};
pub use network::{Network, Normalisation};
pub use norm_gradient::{NormGradient, NormGradients};
pub use objective::Teacher;
pub use observer::{EpochRecord, Observer, Silent};
#[cfg(test)]
pub(crate) use observer::{Loses, Stops};
pub use predictor::{Predictions, Predictor, Wanted, predict};
pub use schedule::cosine;
pub(crate) use state::TrainState;
pub use step::{SgdConfig, StepConfig, TrainStep, check_batch, images_at_once, training_graph};
pub(crate) use trainer::SAVED_EVERY;
pub use trainer::{TrainConfig, Trainer, fit};

use thiserror::Error;

/// What can stop a training job.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum TrainError {
    #[error("{0}")]
    Graph(#[from] crate::graph::GraphError),
    #[error("{0}")]
    Gpu(#[from] crate::gpu::GpuError),
    #[error("{stage}: the loss became {value} in epoch {epoch}, step {step}; try a smaller learning rate (it was {lr:e})")]
    NotFinite { stage: String, epoch: usize, step: usize, value: f32, lr: f64 },
    #[error("stopped as was asked")]
    Cancelled,
    #[error("a batch of {batch} does not fit: {why}. {advice}")]
    Batch { batch: usize, why: String, advice: String },
    #[error("{path}: {why}")]
    Checkpoint { path: PathBuf, why: String },
    #[error("{0}")]
    Data(String),
}
