//! What a run leaves behind: its folder ([`RunFolder`]), its figures ([`Results`]), and these as a table ([`render`]).

mod cell;
mod histogram;
mod image_list;
mod poisoned_folder;
mod results;
mod run_folder;
mod sheet;
mod split_csv;
mod suspects;
mod table;
mod verdict;

pub use cell::cell;
pub use poisoned_folder::{POISON_SETTINGS, PoisonedFolder, vet_poisoned};
pub use results::{DatasetFacts, Figures, IMPLANTED, PoisonFacts, Results, SplitFigures, seconds};
pub use run_folder::{
    BACKDOORED, CLASSES, DEFENDED, METRICS, POISON, PREVIEW, Part, Provenance, RESULTS, RUN, RunFolder, SPLIT, SURROGATE,
    StageTime, UNDEFENDED, VERDICT,
};
pub use split_csv::{parse_split, split_csv};
pub use suspects::{parse_suspects, write_findings};
pub use table::{columns, render};
pub use verdict::{Accused, Verdict};

use std::path::PathBuf;

use crate::attacks::AttackError;
use crate::data::DataError;

/// What can go wrong with a run folder or a folder of poisoned images.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
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
    Record { path: PathBuf, line: usize, why: String },

    #[error("{} cannot be written: {why}", path.display())]
    Encode { path: PathBuf, why: String },
}
