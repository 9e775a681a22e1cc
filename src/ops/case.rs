//! A case: an op with inputs to try it on. Tests, the self-test and benches run the same ones.

use std::sync::Arc;

use rand::RngExt;

use crate::gpu::Caps;
use crate::graph::{Graph, GraphError, Op, Plan, Scalars, Shape, Tensor, Variables};
use crate::kernel::Kernels;
use crate::rng;

/// How an input is filled.
#[derive(Clone, Copy, Debug)]
pub enum Fill {
    /// Normally distributed.
    Normal {
        /// The expected value.
        mean: f64,
        /// The standard deviation.
        std: f64,
    },
    /// Evenly distributed.
    Uniform {
        /// The least value.
        low: f64,
        /// The bound that no value passes.
        high: f64,
    },
    /// Integers 0 .. below - 1.
    Index {
        /// Their number; at least 1.
        below: u32,
    },
    /// Any 32 bits.
    Bits,
}

impl Fill {
    /// The standard normal distribution.
    pub const NORMAL: Fill = Fill::Normal { mean: 0.0, std: 1.0 };

    /// Whether f16 holds all its values.
    fn fits_f16(self) -> bool {
        matches!(self, Fill::Index { below } if below <= 2048)
    }
}

/// An op, its inputs and its scalars.
#[derive(Clone, Debug)]
pub struct Case {
    /// Tells it from the op's other cases; its random inputs depend on it.
    pub name: String,
    /// What is tried.
    pub op: Arc<dyn Op>,
    /// Shape of each input, and what it is filled with.
    pub inputs: Vec<(Shape, Fill)>,
    /// What the op reads by name.
    pub scalars: Scalars,
    /// Number of terms in the longest sum: the allowed error follows from it.
    pub terms: usize,
}

/// What running a case gave.
#[derive(Clone, Debug)]
pub struct CaseResult {
    /// The largest relative error ||out - oracle|| / ||oracle|| over the outputs.
    pub error: f64,
    /// The error that rounding explains: [`Case::allowed`].
    pub allowed: f64,
}

impl Case {
    /// A case without inputs or scalars, and no sum longer than one term.
    pub fn new(name: &str, op: impl Op + 'static) -> Case {
        Case { name: name.to_string(), op: Arc::new(op), inputs: Vec::new(), scalars: Scalars::new(), terms: 1 }
    }

    /// Adds an input of f32 elements.
    pub fn f32(mut self, dims: &[usize], fill: Fill) -> Case {
        self.inputs.push((Shape::f32(dims), fill));
        self
    }

    /// Adds an input of u32 elements.
    pub fn u32(mut self, dims: &[usize], fill: Fill) -> Case {
        self.inputs.push((Shape::u32(dims), fill));
        self
    }

    /// Sets a scalar by name.
    pub fn scalar(mut self, name: &'static str, value: f64) -> Case {
        self.scalars.insert(name, value);
        self
    }

    /// Says how long the op's longest sum is.
    pub fn terms(mut self, terms: usize) -> Case {
        self.terms = terms;
        self
    }

    /// Seeded inputs, exactly representable in 32 bits.
    pub fn fill(&self, seed: u64) -> Vec<Tensor> {
        let mut rng = rng::stream(seed, &self.name);
        self.inputs
            .iter()
            .map(|(shape, fill)| {
                let data = (0..shape.len())
                    .map(|_| match *fill {
                        Fill::Normal { mean, std } => f64::from((mean + std * rng::normal(&mut rng)) as f32),
                        Fill::Uniform { low, high } => f64::from(rng.random_range(low..high) as f32),
                        Fill::Index { below } => f64::from(rng.random_range(0..below)),
                        Fill::Bits => f64::from(rng.random::<u32>()),
                    })
                    .collect();
                Tensor::new(shape.clone(), data)
            })
            .collect()
    }

    /// Relative error that rounding explains.
    ///
    /// f32: a few units in the last place, growing with the root of the sum's length (Higham, Accuracy and Stability of Numerical
    /// Algorithms, 2.8: the statistical rule of thumb).
    ///
    /// Operands that become f16 in addition change by up to u = 2^-11 of themselves each, so that a product changes by up to
    /// sqrt(2) u for two independent changes. Over a sum of products of random signs these and the products themselves grow alike,
    /// with the root of its length: the relative error of the whole stays at sqrt(2) u. Operands that f16 holds do not change.
    pub fn allowed(&self, caps: Caps) -> f64 {
        let shapes: Vec<Shape> = self.inputs.iter().map(|(shape, _)| shape.clone()).collect();
        let convolution = self.op.tuning_class(&shapes).is_some();
        rounding(self.terms, convolution && caps.rounds() && !self.inputs.iter().all(|(_, fill)| fill.fits_f16()))
    }
}

/// What [`Case::allowed`] allows sums of so many terms, whose operands become `f16` or not.
pub(super) fn rounding(terms: usize, f16: bool) -> f64 {
    let f32_sum = f64::from(f32::EPSILON) * (8.0 + 2.0 * (terms as f64).sqrt());
    if f16 { f32_sum + 2f64.sqrt() * 2f64.powi(-11) } else { f32_sum }
}

/// Runs `case` on the device and compares with its oracle.
///
/// # Errors
/// What stops the plan from being built or run.
pub fn check(kernels: &Kernels, case: &Case, seed: u64) -> Result<CaseResult, GraphError> {
    let inputs = case.fill(seed);
    let mut graph = Graph::new();
    let mut variables = Variables::new();
    let mut values = Vec::new();
    for (i, tensor) in inputs.iter().enumerate() {
        let name = format!("input {i}");
        values.push(graph.variable(&name, tensor.shape.clone()));
        let buffer = kernels.gpu().buffer(&name, tensor.shape.len())?;
        kernels.gpu().upload(&buffer, &tensor.to_bytes());
        variables.insert(name, buffer);
    }
    let outputs = graph.apply_arc(case.op.clone(), &values)?;
    let mut plan = Plan::new(kernels, &graph, &outputs, &variables)?;
    for (name, value) in &case.scalars {
        plan.set(name, *value)?;
    }
    let read: Vec<_> = outputs.iter().copied().chain(case.op.in_place().iter().map(|&i| values[i])).collect();
    let bytes = plan.run_and_fetch(&read)?.wait(kernels.gpu())?;
    let expected = case.op.oracle(&inputs.iter().collect::<Vec<_>>(), &case.scalars);
    assert_eq!(bytes.len(), expected.len(), "{}: the oracle gives another number of tensors", case.op.name());
    let error =
        bytes.iter().zip(&expected).map(|(b, e)| Tensor::from_bytes(e.shape.clone(), b).relative_error(e)).fold(0.0, f64::max);
    let shapes: Vec<Shape> = case.inputs.iter().map(|(shape, _)| shape.clone()).collect();
    Ok(CaseResult { error, allowed: case.allowed(kernels.caps_for(case.op.tuning_class(&shapes))) })
}
