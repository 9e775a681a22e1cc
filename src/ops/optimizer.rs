//! One optimizer step on one parameter, in place; on many at once where they lie side by side. Shader: `shaders/optimizer.wgsl`,
//! which has the formulas.

use super::{Case, Fill};
use crate::graph::{Bind, GraphError, Launch, Lowered, Lowering, Op, Param, Scalars, Shape, Slot, Tensor, groups};
use crate::kernel::KernelId;

/// SGD with momentum, as PyTorch's (no dampening). Inputs param, grad, velocity (zero before the first step), of one shape;
/// param and velocity change in place. Scalar "lr".
#[derive(Debug)]
pub struct Sgd {
    /// Share of the velocity that a step keeps, 0 to 1.
    pub momentum: f32,
    /// Whether a step goes along the gradient and `momentum` of the new velocity, not along that velocity alone.
    pub nesterov: bool,
    /// L2 penalty: so much of the parameter is added to its gradient.
    pub weight_decay: f32,
}

/// Adam with the weight decay added to the gradient, as PyTorch's. Inputs param, grad, m, v (zero before the first step), of one
/// shape; all but grad change in place. Scalars "lr", "bias1" = 1 - beta1^t, "bias2" = 1 - beta2^t at step t = 1, 2, ..
#[derive(Debug)]
pub struct Adam {
    /// Share of m, the running mean of gradients, that a step keeps, 0 to 1.
    pub beta1: f32,
    /// Share of v, the running mean of squared gradients, that a step keeps, 0 to 1.
    pub beta2: f32,
    /// Added to the root of v, against a division by 0.
    pub eps: f32,
    /// L2 penalty: so much of the parameter is added to its gradient.
    pub weight_decay: f32,
}

/// The sum of gradients over the parts of a batch, in place. Inputs sum, grad, of one shape. Scalar "keep": 0 for the first part, whose
/// gradient replaces what was there, and 1 for the others.
#[derive(Debug)]
pub struct Accumulate;

fn check(op: &'static str, inputs: &[Shape], names: &str, count: usize) -> Result<Vec<Shape>, GraphError> {
    if inputs.len() == count && inputs.iter().all(|s| *s == inputs[0]) {
        return Ok(Vec::new());
    }
    let got: Vec<String> = inputs.iter().map(Shape::to_string).collect();
    Err(GraphError::Shape { op, why: format!("takes {names} of one shape, got {}", got.join(", ")) })
}

fn launch(entry: &'static str, bind: &[Bind], l: &Lowering, params: &[(&'static str, Param)]) -> Launch {
    let quads = l.inputs[0].len().div_ceil(4);
    let each = l.caps.load_quads(quads);
    let n = quads / each;
    Launch {
        kernel: KernelId::new("optimizer", entry).with(&[("QUADS", each as u32)]),
        bind: bind.to_vec(),
        params: [&[("n", Param::U32(n as u32))], params].concat(),
        groups: groups(n, 64),
    }
}

/// By how much.
const LR: (&str, Param) = ("lr", Param::Scalar("lr"));

impl Op for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        check(self.name(), inputs, "param, grad, velocity", 3)
    }

    fn in_place(&self) -> &'static [usize] {
        &[0, 2]
    }

    fn elementwise(&self) -> bool {
        true
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let unused = ["add_m", "keep_v", "add_v", "eps", "bias1", "bias2"].map(|name| (name, Param::F32(0.0)));
        let own = [LR, ("weight_decay", Param::F32(self.weight_decay)), ("keep_m", Param::F32(self.momentum))];
        let bind = [("param", Slot::In(0)), ("grad", Slot::In(1)), ("m", Slot::In(2))];
        let mut launch = launch("sgd", &bind, l, &[&own[..], &unused].concat());
        launch.kernel = launch.kernel.with(&[("NESTEROV", u32::from(self.nesterov))]);
        launch.into()
    }

    fn oracle(&self, inputs: &[&Tensor], scalars: &Scalars) -> Vec<Tensor> {
        let (lr, momentum, decay) = (scalars["lr"], f64::from(self.momentum), f64::from(self.weight_decay));
        let (mut param, grad, mut velocity) = (inputs[0].clone(), inputs[1], inputs[2].clone());
        for i in 0..param.data.len() {
            let d = grad.data[i] + decay * param.data[i];
            velocity.data[i] = momentum * velocity.data[i] + d;
            param.data[i] -= lr * if self.nesterov { d + momentum * velocity.data[i] } else { velocity.data[i] };
        }
        vec![param, velocity]
    }
}

impl Op for Accumulate {
    fn name(&self) -> &'static str {
        "accumulate"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        check(self.name(), inputs, "sum, grad", 2)
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }

    fn elementwise(&self) -> bool {
        true
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let unused = ["lr", "weight_decay", "add_m", "keep_v", "add_v", "eps", "bias1", "bias2"];
        let unused = unused.map(|name| (name, Param::F32(0.0)));
        let bind = [("m", Slot::In(0)), ("grad", Slot::In(1))];
        launch("accumulate", &bind, l, &[&[("keep_m", Param::Scalar("keep"))][..], &unused].concat()).into()
    }

    fn oracle(&self, inputs: &[&Tensor], scalars: &Scalars) -> Vec<Tensor> {
        let keep = scalars["keep"];
        let sum = inputs[0].data.iter().zip(&inputs[1].data).map(|(sum, grad)| keep * sum + grad).collect();
        vec![Tensor::new(inputs[0].shape.clone(), sum)]
    }
}

impl Op for Adam {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        check(self.name(), inputs, "param, grad, m, v", 4)
    }

    fn in_place(&self) -> &'static [usize] {
        &[0, 2, 3]
    }

    fn elementwise(&self) -> bool {
        true
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let params = [
            LR,
            ("weight_decay", Param::F32(self.weight_decay)),
            ("keep_m", Param::F32(self.beta1)),
            ("add_m", Param::F32(1.0 - self.beta1)),
            ("keep_v", Param::F32(self.beta2)),
            ("add_v", Param::F32(1.0 - self.beta2)),
            ("eps", Param::F32(self.eps)),
            ("bias1", Param::Scalar("bias1")),
            ("bias2", Param::Scalar("bias2")),
        ];
        let bind = [("param", Slot::In(0)), ("grad", Slot::In(1)), ("m", Slot::In(2)), ("v", Slot::In(3))];
        launch("adam", &bind, l, &params).into()
    }

    fn oracle(&self, inputs: &[&Tensor], scalars: &Scalars) -> Vec<Tensor> {
        let [lr, bias1, bias2] = ["lr", "bias1", "bias2"].map(|name| scalars[name]);
        let [beta1, beta2] = [self.beta1, self.beta2].map(f64::from);
        let (mut param, grad, mut m, mut v) = (inputs[0].clone(), inputs[1], inputs[2].clone(), inputs[3].clone());
        for i in 0..param.data.len() {
            let d = grad.data[i] + f64::from(self.weight_decay) * param.data[i];
            m.data[i] = beta1 * m.data[i] + (1.0 - beta1) * d;
            v.data[i] = beta2 * v.data[i] + (1.0 - beta2) * d * d;
            param.data[i] -= lr * m.data[i] / bias1 / ((v.data[i] / bias2).sqrt() + f64::from(self.eps));
        }
        vec![param, m, v]
    }
}

/// One of whole vec4, three whose last is part padding, two of the four in pairs of vec4.
const SIZES: [&[usize]; 4] = [&[3, 3, 20, 12], &[43], &[257, 3], &[2, 31]];

pub(super) fn sgd_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dims in SIZES {
        for (nesterov, weight_decay) in [(false, 0.0), (true, 5e-4)] {
            let op = Sgd { momentum: 0.9, nesterov, weight_decay };
            let case = Case::new(&format!("{dims:?} nesterov {nesterov}"), op).f32(dims, Fill::NORMAL);
            cases.push(case.f32(dims, Fill::NORMAL).f32(dims, Fill::NORMAL).scalar("lr", 0.1));
        }
    }
    cases
}

pub(super) fn accumulate_cases() -> Vec<Case> {
    let both = SIZES.into_iter().flat_map(|dims| [(dims, 0.0), (dims, 1.0)]);
    let case = |(dims, keep): (&[usize], f64)| {
        Case::new(&format!("{dims:?} keep {keep}"), Accumulate)
            .f32(dims, Fill::NORMAL)
            .f32(dims, Fill::NORMAL)
            .scalar("keep", keep)
    };
    both.map(case).collect()
}

pub(super) fn adam_cases() -> Vec<Case> {
    SIZES
        .into_iter()
        .map(|dims| {
            let op = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
            let case = Case::new(&format!("{dims:?}"), op).f32(dims, Fill::NORMAL).f32(dims, Fill::NORMAL);
            let case = case.f32(dims, Fill::NORMAL).f32(dims, Fill::Uniform { low: 0.0, high: 1.0 });
            case.scalar("lr", 0.05).scalar("bias1", 1.0 - 0.9f64.powi(3)).scalar("bias2", 1.0 - 0.999f64.powi(3))
        })
        .collect()
}
