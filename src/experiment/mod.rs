//! An experiment: what is asked ([`Protocol`]), the doing ([`Experiment`], with an attack of our own [`Simulation`]), where it is kept ([`Store`]), what was found ([`Record`]),
//! judged with the truth that no defense sees.

mod attack_plan;
mod cell;
mod channels;
pub mod comparison;
mod curve;
pub mod evaluate;
#[expect(clippy::module_inception, reason = "the noun of the folder")]
mod experiment;
mod image_list;
mod images;
mod inspection;
mod poisoned_folder;
pub(crate) mod protocol;
mod record;
mod recorder;
mod simulation;
mod split_csv;
mod store;
mod surrogate;
pub mod sweep;
mod training;

pub use attack_plan::AttackPlan;
pub use cell::cell;
pub use channels::{Channels, normalisation};
pub use curve::{CurvePoint, START, TRAIN};
pub use experiment::{Experiment, open_for};
pub use image_list::{ImageList, Places};
pub use images::Images;
pub use inspection::{Cloud, Inspection, Look, Projection};
pub use poisoned_folder::{POISON_SETTINGS, PoisonedFolder, vet_poisoned};
pub use protocol::Protocol;
pub use record::{
    AttackFigures, COMMIT, DatasetFacts, Figures, IMPLANTED, PoisonFacts, Record, SCHEMA, SEVERAL, SplitFigures, seconds,
};
pub use recorder::Recorder;
pub use simulation::Simulation;
pub use split_csv::{VERDICTS, parse_split, split_csv};
pub use store::{
    Asked, BACKDOORED, CLASSES, CURVE, DEFENDED, EVIDENCE, HISTOGRAM, INSPECTION, LOCK, METRICS, POISON, PREVIEW, Provenance,
    REPORT, RESULTS, RUN, SHEET, SPLIT, SURROGATE, SUSPECTS, StageTime, Store, Subtask, TRAINING, UNDEFENDED, UNDEFENDED_TEST,
    VERDICT,
};

pub use training::TRAINING_OPTIONS;
pub(crate) use training::{RESERVE, WIDTH};

use std::path::PathBuf;

use crate::attacks::AttackError;
use crate::data::DataError;
use crate::gpu::Precision;
use crate::kernel::Kernels;
use crate::train::Observer;

/// What the program around an experiment lends it.
pub struct Host<'a> {
    /// Opens the adapter for convolutions in a precision.
    pub open: &'a dyn Fn(Precision) -> anyhow::Result<Kernels>,
    /// Where decoded images are kept for the next start.
    pub image_cache: Option<PathBuf>,
    /// Who is told of progress, and may wish to stop.
    pub observer: &'a dyn Observer,
}

/// What can go wrong with a run folder or a folder of poisoned images.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum StoreError {
    #[error(transparent)]
    Data(#[from] DataError),

    #[error(transparent)]
    Attack(#[from] AttackError),

    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },

    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },

    #[error("{} is not a run folder: it holds files but no {RUN}; choose another --out", path.display())]
    NotOurs { path: PathBuf },

    #[error(
        "{} holds a run with {what} = {was}, and this one has {what} = {is}: choose another --out, or begin anew with --force, which keeps \
         the old folder beside it", path.display()
    )]
    OtherRun { path: PathBuf, what: String, was: String, is: String },

    #[error("another dau works in {}: wait until it has ended, or choose another --out", path.display())]
    Busy { path: PathBuf },

    #[error("{}, line {line}: {why}; begin anew with --force, which keeps the old folder beside it", path.display())]
    Damaged { path: PathBuf, line: usize, why: String },

    #[error(
        "{} is a record of schema {was}, and this dau reads schema {now}: show it with the version that wrote it, or begin anew with --force, \
         which keeps the old folder beside it", path.display()
    )]
    Schema { path: PathBuf, was: u64, now: u32 },

    #[error("{} is not empty: choose another --out", path.display())]
    NotEmpty { path: PathBuf },

    #[error("{}, line {line}: {why}", path.display())]
    List { path: PathBuf, line: usize, why: String },

    #[error("{} cannot be written: {why}", path.display())]
    Encode { path: PathBuf, why: String },
}
