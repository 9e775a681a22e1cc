//! What was found, for people: the table ([`render`]), the verdict in words, suspects, contact sheet, histogram.

mod charts;
mod defend_page;
mod histogram;
mod networks;
mod overlay;
mod page;
mod sheet;
mod suspects;
mod sweep;
mod table;
mod verdict;

pub use defend_page::{defend_page, defended_groups};
pub use page::{run_page, sentences, sweep_page};
pub use suspects::{parse_suspects, write_findings};
pub use sweep::{as_csv, as_markdown};
pub use table::{columns, render};
pub use verdict::{Accused, Verdict};
