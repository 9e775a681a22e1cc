//! Where sharpness-aware minimisation takes its gradient. Shader: `shaders/sam.wgsl`, which has the formula.

use super::{Case, Fill};
use crate::graph::{GraphError, Launch, Lowered, Lowering, Op, Param, Scalars, Shape, Slot, Tensor, groups};
use crate::kernel::KernelId;

/// The sum over all elements of (w grad)^2 [1]. Inputs w, grad, of one shape, and the sum of the parameters before, if there are any: so
/// the last one has the sum over a network.
#[derive(Debug)]
pub struct SamSum;

/// w + rho w^2 grad / ||w grad||, in place of what the last input held. Inputs w, grad, the last [`SamSum`] [1], and the one that is
/// changed, of w's shape.
#[derive(Debug)]
pub struct SamAscent {
    /// How far: the norm of the relative change of all parameters.
    pub rho: f32,
}

/// Against a division by 0.
const LEAST: f64 = 1e-12;
/// Elements that a workgroup adds up at least.
const PART: usize = 4096;

fn refused(op: &'static str, takes: &str, inputs: &[Shape]) -> GraphError {
    let got: Vec<String> = inputs.iter().map(Shape::to_string).collect();
    GraphError::Shape { op, why: format!("takes {takes}, got {}", got.join(", ")) }
}

impl Op for SamSum {
    fn name(&self) -> &'static str {
        "sam_sum"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        let one = Shape::f32(&[1]);
        match inputs {
            [w, grad, before @ ..] if w == grad && before.len() <= 1 && before.iter().all(|shape| *shape == one) => Ok(vec![one]),
            _ => Err(refused(self.name(), "w, grad of one shape and the sum before [1]", inputs)),
        }
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let n = l.inputs[0].len();
        let count = n.div_ceil(PART).clamp(1, 256);
        let launch = |entry, bind, groups| Launch {
            kernel: KernelId::new("sam", entry),
            bind,
            params: vec![("n", Param::U32(n as u32)), ("count", Param::U32(count as u32)), ("rho", Param::F32(0.0))],
            groups: [groups, 1, 1],
        };
        let parts = ("parts", Slot::Scratch(0));
        let square = launch("square", vec![("w", Slot::In(0)), ("grad", Slot::In(1)), parts], count as u32);
        let mut bind = vec![parts, ("sum", Slot::Out(0))];
        let after = l.inputs.len() == 3;
        bind.extend(after.then_some(("before", Slot::In(2))));
        let total = launch(if after { "total_after" } else { "total" }, bind, 1);
        Lowered { scratch: vec![Shape::f32(&[count])], launches: vec![square, total] }
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let before = inputs.get(2).map_or(0.0, |before| before.data[0]);
        let sum: f64 = inputs[0].data.iter().zip(&inputs[1].data).map(|(w, grad)| (w * grad).powi(2)).sum();
        vec![Tensor::new(Shape::f32(&[1]), vec![before + sum])]
    }
}

impl Op for SamAscent {
    fn name(&self) -> &'static str {
        "sam_ascent"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        match inputs {
            [w, grad, sum, ascended] if w == grad && w == ascended && *sum == Shape::f32(&[1]) => Ok(Vec::new()),
            _ => Err(refused(self.name(), "w, grad, sum [1], ascended, all but sum of one shape", inputs)),
        }
    }

    fn in_place(&self) -> &'static [usize] {
        &[3]
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let n = l.inputs[0].len();
        let names = ["w", "grad", "before", "ascended"];
        Launch {
            kernel: KernelId::new("sam", "ascend"),
            bind: names.into_iter().enumerate().map(|(i, name)| (name, Slot::In(i))).collect(),
            params: vec![("n", Param::U32(n as u32)), ("count", Param::U32(0)), ("rho", Param::F32(self.rho))],
            groups: groups(n, 64),
        }
        .into()
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let scale = f64::from(self.rho) / (inputs[2].data[0].sqrt() + LEAST);
        let ascended = inputs[0].data.iter().zip(&inputs[1].data).map(|(w, grad)| w + scale * w * w * grad).collect();
        vec![Tensor::new(inputs[0].shape.clone(), ascended)]
    }
}

/// Of one workgroup, of several, of more than the most.
const SIZES: [&[usize]; 4] = [&[43], &[10, 257], &[3, 3, 64, 36], &[1_100_003]];

pub(super) fn sum_cases() -> Vec<Case> {
    let both = SIZES.into_iter().flat_map(|dims| [(dims, false), (dims, true)]);
    let case = |(dims, after): (&[usize], bool)| {
        let terms = dims.iter().product();
        let case = Case::new(&format!("{dims:?} after {after}"), SamSum).f32(dims, Fill::NORMAL).f32(dims, Fill::NORMAL);
        let case = case.terms(terms);
        if after { case.f32(&[1], Fill::Uniform { low: 0.0, high: 2.0 * terms as f64 }) } else { case }
    };
    both.map(case).collect()
}

pub(super) fn ascent_cases() -> Vec<Case> {
    let case = |dims: &[usize]| {
        Case::new(&format!("{dims:?}"), SamAscent { rho: 2.0 })
            .f32(dims, Fill::NORMAL)
            .f32(dims, Fill::NORMAL)
            .f32(&[1], Fill::Uniform { low: 1.0, high: 9.0 })
            .f32(dims, Fill::NORMAL)
    };
    SIZES.into_iter().map(case).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PyTorch in f64, for the lists w and g of tensors: `n = stack([(a.abs() * b).norm() for a, b in zip(w, g)]).norm()`, then
    /// `n ** 2` and `[a + a ** 2 * b * 2.0 / (n + 1e-12) for a, b in zip(w, g)]`.
    #[test]
    fn parameters_go_up_together_each_by_its_own_size() {
        let tensor = |data: &[f64]| Tensor::new(Shape::f32(&[data.len()]), data.to_vec());
        let w = [tensor(&[0.5, -1.2, 0.3]), tensor(&[0.8, -0.1])];
        let g = [tensor(&[0.2, -0.4, 1.5]), tensor(&[-0.7, 2.0])];
        let first = SamSum.oracle(&[&w[0], &g[0]], &Scalars::new());
        let sum = SamSum.oracle(&[&w[1], &g[1], &first[0]], &Scalars::new());
        assert!((sum[0].data[0] - 0.7965).abs() < 1e-12, "{sum:?}");
        let torch: [&[f64]; 2] =
            [&[0.6120487742420102, -2.4908018792679574, 0.6025316904534275], &[-0.2039570172084113, -0.055180490303195925]];
        for i in 0..2 {
            let found = SamAscent { rho: 2.0 }.oracle(&[&w[i], &g[i], &sum[0], &w[i]], &Scalars::new());
            assert!(found[0].relative_error(&tensor(torch[i])) < 1e-12, "{found:?}, PyTorch says {:?}", torch[i]);
        }
    }
}
