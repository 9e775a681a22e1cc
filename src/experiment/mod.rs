//! An experiment: where it is kept ([`Store`]), what was found ([`Record`]), judged with the truth that no defense sees.

pub mod evaluate;
mod image_list;
mod poisoned_folder;
mod record;
mod split_csv;
mod store;

pub use image_list::{ImageList, places};
pub use poisoned_folder::{POISON_SETTINGS, PoisonedFolder, vet_poisoned};
pub use record::{DatasetFacts, Figures, IMPLANTED, PoisonFacts, Record, SplitFigures, seconds};
pub use split_csv::{VERDICTS, parse_split, split_csv};
pub use store::{
    BACKDOORED, CLASSES, DEFENDED, HISTOGRAM, METRICS, POISON, PREVIEW, Part, Provenance, RESULTS, RUN, SHEET, SPLIT, SURROGATE,
    SUSPECTS, StageTime, Store, UNDEFENDED, VERDICT,
};

use std::path::PathBuf;

use crate::attacks::AttackError;
use crate::data::DataError;

/// What can go wrong with a run folder or a folder of poisoned images.
#[derive(Debug, thiserror::Error)]
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

    #[error("{}, line {line}: {why}; make it again with --subtask anti_learning", path.display())]
    Damaged { path: PathBuf, line: usize, why: String },

    #[error("{} is not empty: choose another --out", path.display())]
    NotEmpty { path: PathBuf },

    #[error("{}, line {line}: {why}", path.display())]
    List { path: PathBuf, line: usize, why: String },

    #[error("{} cannot be written: {why}", path.display())]
    Encode { path: PathBuf, why: String },
}
