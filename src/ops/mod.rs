//! One file an op: shapes, launches, gradient, oracle, CASES; and the one list of them all.

mod add;
mod alone;
mod argmax;
mod attention;
mod augment;
mod batch_norm;
mod batch_norm_eval;
mod case;
mod conv2d;
mod extremes;
mod global_avg_pool;
mod linear;
mod loss;
mod max_pool;
mod multiply;
mod optimizer;
mod roof;
mod sam;

pub use add::Add;
pub use alone::{Alone, beside, median};
pub use argmax::Argmax;
pub use attention::Attention;
pub use augment::Augment;
pub use batch_norm::{BatchNorm, BatchNormGrad, Passed};
pub use batch_norm_eval::{BatchNormEval, BatchNormEvalAffineGrad, BatchNormEvalGrad};
pub use case::{Case, CaseResult, Fill, check};
pub use conv2d::{Conv2d, Conv2dAdd, Conv2dInputGrad, Conv2dNorm, Conv2dWeightGrad, matrices_add_up};
pub use extremes::Extremes;
pub use global_avg_pool::{GlobalAvgPool, GlobalAvgPoolGrad};
pub use linear::{Linear, LinearGrad, LinearInputGrad};
pub use loss::{Loss, LossKind};
pub use max_pool::{MaxPool, MaxPoolGrad, Window};
pub use multiply::Multiply;
pub use optimizer::{Accumulate, Adam, Sgd};
pub use roof::{RoofCopy, RoofMultiplyAdd};
pub use sam::{SamAscent, SamSum};

/// An op and the cases that its tests, its bench and the self-test run.
pub struct OpEntry {
    /// What [`Op::name`](crate::graph::Op::name) says.
    pub name: &'static str,
    /// Makes the cases; it needs no device.
    pub cases: fn() -> Vec<Case>,
}

/// Every op. A new one is a file and a line here.
pub static OPS: &[OpEntry] = &[
    OpEntry { name: "add", cases: add::cases },
    OpEntry { name: "conv2d", cases: conv2d::cases },
    OpEntry { name: "conv2d_norm", cases: conv2d::norm_cases },
    OpEntry { name: "conv2d_input_grad", cases: conv2d::input_grad_cases },
    OpEntry { name: "conv2d_add", cases: conv2d::add_cases },
    OpEntry { name: "conv2d_input_grad_add", cases: conv2d::input_grad_add_cases },
    OpEntry { name: "conv2d_weight_grad", cases: conv2d::weight_grad_cases },
    OpEntry { name: "batch_norm", cases: batch_norm::cases },
    OpEntry { name: "batch_norm_grad", cases: batch_norm::grad_cases },
    OpEntry { name: "batch_norm_eval", cases: batch_norm_eval::cases },
    OpEntry { name: "batch_norm_eval_grad", cases: batch_norm_eval::grad_cases },
    OpEntry { name: "batch_norm_eval_affine_grad", cases: batch_norm_eval::affine_grad_cases },
    OpEntry { name: "extremes", cases: extremes::cases },
    OpEntry { name: "global_avg_pool", cases: global_avg_pool::cases },
    OpEntry { name: "global_avg_pool_grad", cases: global_avg_pool::grad_cases },
    OpEntry { name: "max_pool", cases: max_pool::cases },
    OpEntry { name: "max_pool_grad", cases: max_pool::grad_cases },
    OpEntry { name: "multiply", cases: multiply::cases },
    OpEntry { name: "linear", cases: linear::cases },
    OpEntry { name: "linear_input_grad", cases: linear::input_grad_cases },
    OpEntry { name: "linear_grad", cases: linear::grad_cases },
    OpEntry { name: "loss", cases: loss::cases },
    OpEntry { name: "attention", cases: attention::cases },
    OpEntry { name: "sgd", cases: optimizer::sgd_cases },
    OpEntry { name: "adam", cases: optimizer::adam_cases },
    OpEntry { name: "accumulate", cases: optimizer::accumulate_cases },
    OpEntry { name: "sam_sum", cases: sam::sum_cases },
    OpEntry { name: "sam_ascent", cases: sam::ascent_cases },
    OpEntry { name: "augment", cases: augment::cases },
    OpEntry { name: "argmax", cases: argmax::cases },
    OpEntry { name: "roof_multiply_add", cases: roof::multiply_add_cases },
    OpEntry { name: "roof_copy", cases: roof::copy_cases },
];
