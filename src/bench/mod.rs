//! Kernels and training steps, timed, and compared with what the adapter could do: for `dau bench` and `benches/`.

mod baseline;
mod kernels;
mod shader;
mod step;
mod tune;

use crate::train::SgdConfig;

pub use baseline::{Baseline, Comparison};
pub use kernels::{Placed, Timings, distinct_nodes};
pub use shader::text as shader_text;
pub use step::{StepTimes, Steps};
pub use tune::{Tried, Ways};

/// As `dau run` trains.
const SGD: SgdConfig = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4, crop_pad: 4, flip: true };
