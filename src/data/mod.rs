//! Labelled images in memory: what a dataset is ([`Spec`]), how it lies on disk ([`layouts`]), and loading it ([`load`]).
//!
//! Everything is 8-bit RGB of one square size; normalising and augmenting is the trainer's business.

mod cache;
mod checksum;
mod dataset;
mod decode;
mod error;
#[cfg(feature = "fetch")]
pub mod fetch;
mod images;
pub mod layouts;
mod load;
mod names;
mod paint;
mod spec;
mod split;
mod verify;
mod walk;

pub use dataset::{Dataset, Remarks, Splits};
pub use error::DataError;
pub use layouts::Layout;
pub use load::{LoadOptions, MAX_IMAGE_SIZE, find, load, load_classes, load_folder, load_parts, load_unlabelled};
pub use names::{is_plain, shown};
pub use paint::paint;
pub use spec::{Archive, SPECS, Spec};
pub use verify::{Verified, verify};
