//! One file an op: shapes, launches, gradient, oracle, CASES; and the one list of them all.

mod add;
mod case;
mod conv2d;

pub use add::Add;
pub use case::{Case, CaseResult, Fill, check};
pub use conv2d::{Conv2d, Conv2dInputGrad, Conv2dWeightGrad};

/// An op and the cases that its tests, its bench and the self-test run.
pub struct OpEntry {
    pub name: &'static str,
    pub cases: fn() -> Vec<Case>,
}

/// Every op. A new one is a file and a line here.
pub static OPS: &[OpEntry] = &[
    OpEntry { name: "add", cases: add::cases },
    OpEntry { name: "conv2d", cases: conv2d::cases },
    OpEntry { name: "conv2d_input_grad", cases: conv2d::input_grad_cases },
    OpEntry { name: "conv2d_weight_grad", cases: conv2d::weight_grad_cases },
];
