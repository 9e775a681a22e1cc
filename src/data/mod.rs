//! Labelled images in memory: what a dataset is ([`Spec`]), how it lies on disk ([`layouts`]), and loading it ([`load`]).
//!
//! Everything is 8-bit RGB of one square size; normalising and augmenting is the trainer's business.

mod dataset;
mod error;
pub mod layouts;
mod load;
mod paint;
mod spec;
mod split;

pub use dataset::{Dataset, Splits};
pub use error::DataError;
pub use load::{LoadOptions, MAX_IMAGE_SIZE, load, load_classes, load_folder, load_unlabelled};
pub use paint::paint;
pub use spec::{Layout, SPECS, Spec, TrainDefaults, UnlearnDefaults};
