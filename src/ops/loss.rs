//! Losses: each sample's value and the gradient with respect to the logits. Shader: `shaders/loss.wgsl`, which has the formulas.

use serde::{Deserialize, Serialize};

use super::{Case, Fill};
use crate::graph::{GraphError, Launch, Lowered, Lowering, Op, Param, Scalars, Shape, Slot, Tensor, groups};
use crate::kernel::KernelId;

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum LossKind {
    /// -log p_y.
    CrossEntropy,
    /// -log(1 - p_y): unlearns a label; bounded below, strongest where the network is sure of it.
    Complementary,
    /// -CE.
    GradientAscent,
    /// sign(CE - level) CE.
    LocalAscent {
        /// The cross-entropy, in nats, below which a sample's is raised and not lowered.
        level: f32,
    },
    /// |sum_i weight_i CE_i - level| + level; the loss of a sample is its CE.
    Flooding {
        /// The weighted sum of cross-entropies, in nats, below which all are raised and not lowered.
        level: f32,
    },
    /// sum_i s_i CE_i with s_i = r_i / sum_j r_j, r_i = weight_i / (weight_i + CE_i), taken as constants, where weights are the
    /// cross-entropies of another network: what that network finds hard counts most (CBD, Zhang et al. 2023). The loss of a sample is its CE.
    Reweighed,
}

/// Inputs logits [N, K], labels u32 [N], weight [N]; outputs loss [N], each sample's own and not weighted, and grad [N, K] =
/// d(sum_i weight_i loss_i) / d logits, the seed for `Graph::backward`.
///
/// A sample of weight 0 adds nothing to the gradient, whatever its logits; one with a label K or above has loss 0 as well.
#[derive(Debug)]
pub struct Loss {
    /// What is minimised.
    pub kind: LossKind,
}

impl LossKind {
    /// Why a batch cannot go through in parts, where it cannot.
    pub fn needs_whole_batch(self) -> Option<&'static str> {
        match self {
            LossKind::Flooding { .. } => Some("flooding asks for the mean loss of a whole batch"),
            LossKind::Reweighed => Some("weights are shared out over a whole batch"),
            _ => None,
        }
    }

    /// The shader's KIND and level.
    fn code(self) -> (u32, f32) {
        match self {
            LossKind::CrossEntropy | LossKind::Reweighed => (0, 0.0),
            LossKind::Complementary => (1, 0.0),
            LossKind::GradientAscent => (2, 0.0),
            LossKind::LocalAscent { level } => (3, level),
            LossKind::Flooding { level } => (0, level),
        }
    }
}

impl Op for Loss {
    fn name(&self) -> &'static str {
        "loss"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        if let [logits, labels, weight] = inputs
            && let [n, k] = logits.dims[..]
            && k >= 2
            && *labels == Shape::u32(&[n])
            && *weight == Shape::f32(&[n])
        {
            return Ok(vec![weight.clone(), logits.clone()]);
        }
        let got: Vec<String> = inputs.iter().map(|s| format!("{:?} {s}", s.elem)).collect();
        let why = format!("takes logits [N, K] with K at least 2, labels U32 [N], weight [N], got {}", got.join(", "));
        Err(GraphError::Shape { op: self.name(), why })
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let logits = &l.inputs[0];
        let (n, k) = (logits.rows(), logits.last());
        let (kind, level) = self.kind.code();
        let launch = |kernel, bind, groups| {
            let params = vec![("n", Param::U32(n as u32)), ("k", Param::U32(k as u32)), ("level", Param::F32(level))];
            Launch { kernel, bind, params, groups }
        };
        let [weight, loss, grad] = [("weight", Slot::In(2)), ("loss", Slot::Out(0)), ("grad", Slot::Out(1))];
        let evaluate = launch(
            KernelId::new("loss", "evaluate").with(&[("KIND", kind)]),
            vec![("logits", Slot::In(0)), ("labels", Slot::In(1)), weight, loss, grad],
            groups(n, 64),
        );
        let side = ("side", Slot::Scratch(0));
        let one = [1, 1, 1];
        let launches = match self.kind {
            LossKind::Flooding { .. } => {
                let find_side = launch(KernelId::new("loss", "find_side"), vec![weight, loss, side], one);
                vec![evaluate, find_side, launch(KernelId::new("loss", "flip"), vec![grad, side], groups(n * k, 64))]
            }
            LossKind::Reweighed => {
                let find_total = launch(KernelId::new("loss", "find_total"), vec![weight, loss, side], one);
                let bind = vec![weight, loss, grad, side];
                vec![evaluate, find_total, launch(KernelId::new("loss", "reweigh"), bind, groups(n * k, 64))]
            }
            _ => return evaluate.into(),
        };
        Lowered { scratch: vec![Shape::f32(&[1])], launches }
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let [logits, labels, weight] = [0, 1, 2].map(|i| inputs[i]);
        let (n, k) = (logits.shape.rows(), logits.shape.last());
        let mut loss = vec![0.0; n];
        let mut grad = vec![0.0; n * k];
        for i in 0..n {
            let label = labels.data[i] as usize;
            if label >= k {
                continue;
            }
            let z = &logits.data[i * k..(i + 1) * k];
            let others = |j: &usize| *j != label;
            let top = (0..k).filter(others).map(|j| z[j]).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = (0..k).filter(others).map(|j| (z[j] - top).exp()).sum();
            let t = z[label] - top - sum.ln();
            let (value, force) = match self.kind {
                LossKind::CrossEntropy | LossKind::Flooding { .. } | LossKind::Reweighed => (softplus(-t), sigmoid(-t)),
                LossKind::Complementary => (softplus(t), -sigmoid(t)),
                LossKind::GradientAscent => (-softplus(-t), -sigmoid(-t)),
                LossKind::LocalAscent { level } => {
                    let side = sign(softplus(-t) - f64::from(level));
                    (side * softplus(-t), side * sigmoid(-t))
                }
            };
            loss[i] = value;
            if weight.data[i] != 0.0 {
                for j in 0..k {
                    let q = if j == label { -1.0 } else { (z[j] - top).exp() / sum };
                    grad[i * k + j] = weight.data[i] * force * q;
                }
            }
        }
        if let LossKind::Flooding { level } = self.kind {
            let total: f64 = loss.iter().zip(&weight.data).filter(|(_, w)| **w != 0.0).map(|(l, w)| l * w).sum();
            let side = sign(total - f64::from(level));
            grad.iter_mut().for_each(|g| *g *= side);
        }
        if self.kind == LossKind::Reweighed {
            let sums: Vec<f64> = loss.iter().zip(&weight.data).map(|(l, w)| w + l).collect();
            let total: f64 = sums.iter().zip(&weight.data).filter(|(_, w)| **w > 0.0).map(|(sum, w)| w / sum).sum();
            grad.chunks_exact_mut(k)
                .zip(&sums)
                .for_each(|(row, sum)| row.iter_mut().for_each(|g| *g /= (sum * total).max(1e-30)));
        }
        vec![Tensor::new(weight.shape.clone(), loss), Tensor::new(logits.shape.clone(), grad)]
    }
}

fn softplus(v: f64) -> f64 {
    v.max(0.0) + (-v.abs()).exp().ln_1p()
}

fn sigmoid(v: f64) -> f64 {
    let e = (-v.abs()).exp();
    if v < 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) }
}

/// `f64::signum`, but 0 at 0.
fn sign(v: f64) -> f64 {
    if v == 0.0 { 0.0 } else { v.signum() }
}

pub(super) fn cases() -> Vec<Case> {
    let kinds = [
        LossKind::CrossEntropy,
        LossKind::Complementary,
        LossKind::GradientAscent,
        LossKind::LocalAscent { level: 0.5 },
        LossKind::Flooding { level: 0.5 },
        LossKind::Flooding { level: 5000.0 },
        LossKind::Reweighed,
    ];
    let mut cases = Vec::new();
    for kind in kinds {
        for (n, k, std) in [(5, 10, 2.0), (131, 43, 20.0), (300, 2, 6.0)] {
            // One label is out of range, and half the weights are 0.
            let case = Case::new(&format!("{kind:?} {n}x{k} std {std}"), Loss { kind })
                .f32(&[n, k], Fill::Normal { mean: 1.0, std })
                .u32(&[n], Fill::Index { below: k as u32 + 1 })
                .f32(&[n], Fill::Index { below: 2 })
                .terms(k);
            cases.push(case);
        }
    }
    cases
}
