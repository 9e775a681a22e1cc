//! One file an op: shapes, launches, gradient, oracle, CASES; and the one list of them all.

mod add;
mod case;

pub use add::Add;
pub use case::{Case, CaseResult, Fill, check};

/// An op and the cases that its tests, its bench and the self-test run.
pub struct OpEntry {
    pub name: &'static str,
    pub cases: fn() -> Vec<Case>,
}

/// Every op. A new one is a file and a line here.
pub static OPS: &[OpEntry] = &[OpEntry { name: "add", cases: add::cases }];
