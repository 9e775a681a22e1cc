//! The only floor that says `wgpu`'s device API: adapters, buffers, reads.

mod adapter;
mod buffer;
mod caps;
mod fault;
mod timer;

pub(crate) use adapter::suit_mesa;
pub use adapter::{AdapterChoice, AdapterRow, Gpu, LimitChoice, alike, list};
pub use buffer::{Buffer, Pending};
pub(crate) use buffer::{MOST_SIDE_BY_SIDE, Spare, padded};
pub use caps::{Candidate, Caps, MATRIX_TILES, Matrix, Precision, Staging, TILES};
#[cfg(test)]
pub(crate) use fault::loss;
pub use timer::Timer;

use thiserror::Error;

/// What can go wrong between us and the driver.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum GpuError {
    #[error("no GPU adapter found{asked}. {advice}")]
    NoAdapter { asked: String, advice: &'static str },
    #[error("no adapter is called \"{asked}\"; there are: {found}. Choose with --adapter NAME|INDEX")]
    UnknownAdapter { asked: String, found: String },
    #[error("adapter {adapter} refused a device: {why}")]
    Device { adapter: String, why: String },
    #[error("{what} needs {needed} in one buffer; {adapter} allows {allowed}")]
    BufferTooLarge { what: String, needed: String, allowed: String, adapter: String },
    #[error("{adapter} has no memory left for the buffer `{what}` of {needed}: {advice}")]
    NoMemory { what: String, needed: String, adapter: String, advice: &'static str },
    #[error("the device {adapter} was lost ({why}), as happens when a driver is reset or the computer sleeps")]
    Lost { adapter: String, why: String },
    #[error("the GPU reported an error: {0}")]
    Reported(String),
    #[error("reading a buffer back failed: {0}")]
    Read(String),
}

/// `12.3 MiB`, for messages.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < 3 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}
