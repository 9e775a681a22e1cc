//! One op alone in a plan, to be timed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::CaseResult;
use super::case::rounding;
use crate::graph::{Elem, Graph, GraphError, Op, Plan, Shape, Tensor, Value, Variables};
use crate::kernel::Kernels;
use crate::rng;

/// An op at given shapes, ready to run over and over on made-up inputs.
pub struct Alone {
    plan: Plan,
    outputs: Vec<Value>,
}

/// Distinct numbers among the inputs, which repeat them; prime, so that no row repeats.
const DISTINCT: usize = 4093;
/// How long the repetitions of one sample should take together.
const SAMPLE: Duration = Duration::from_millis(10);
const MOST_REPETITIONS: usize = 1024;
/// How long all samples may take together, if that leaves the fewest.
const ALL_SAMPLES: Duration = Duration::from_secs(1);
const FEWEST: usize = 3;

impl Alone {
    /// # Errors
    /// Shapes that the op does not take or the adapter cannot hold.
    pub fn new(kernels: &Kernels, op: Arc<dyn Op>, inputs: &[Shape]) -> Result<Alone, GraphError> {
        let mut random = rng::stream(0, "bench");
        // Positive, since whatever is a variance may be one; a convolution has none.
        let signed = op.tuning_class(inputs).is_some();
        let number = |z: f64| if signed { z } else { 0.5 + z.abs() };
        let noise: Vec<f32> = (0..DISTINCT).map(|_| number(rng::normal(&mut random)) as f32).collect();
        let mut graph = Graph::new();
        let mut variables = Variables::new();
        let mut values = Vec::new();
        for (i, shape) in inputs.iter().enumerate() {
            let name = format!("input {i}");
            let buffer = kernels.gpu().buffer(&name, shape.len())?;
            // Integers are labels and pixels: 0 is one.
            if shape.elem == Elem::F32 {
                kernels.gpu().upload(&buffer, &noise.iter().copied().cycle().take(shape.len()).collect::<Vec<f32>>());
            }
            values.push(graph.variable(&name, shape.clone()));
            variables.insert(name, buffer);
        }
        let outputs = graph.apply_arc(op, &values)?;
        let mut plan = Plan::new(kernels, &graph, &outputs, &variables)?;
        let samples = inputs.first().and_then(|x| x.dims.first()).map_or(1.0, |n| *n as f64);
        for name in plan.scalars() {
            plan.set(name, if name == "n_valid" { samples } else { 1.0 })?;
        }
        Ok(Alone { plan, outputs })
    }

    /// What the op gives for the made-up inputs, each output in order.
    fn outputs(&mut self) -> Result<Vec<Tensor>, GraphError> {
        let bytes = self.plan.run_and_fetch(&self.outputs)?.wait(self.plan.gpu())?;
        let flat = |bytes: &Vec<u8>| Tensor::from_bytes(Shape::f32(&[bytes.len() / 4]), bytes);
        Ok(bytes.iter().map(flat).collect())
    }

    /// ||self - other|| / ||other||, the largest over the outputs, of what both give for their made-up inputs.
    ///
    /// # Errors
    /// The driver's.
    pub fn compare(&mut self, other: &mut Alone) -> Result<f64, GraphError> {
        let (found, expected) = (self.outputs()?, other.outputs()?);
        Ok(found.iter().zip(&expected).map(|(f, e)| f.relative_error(e)).fold(0.0, f64::max))
    }

    /// Wall-clock time of `times` runs in one submit.
    ///
    /// # Errors
    /// The driver's.
    pub fn repeat(&mut self, times: usize) -> Result<Duration, GraphError> {
        let start = Instant::now();
        self.plan.repeat(times)?;
        self.plan.gpu().wait()?;
        Ok(start.elapsed())
    }

    /// Seconds that one run takes: the median of `samples`, of fewer where a run takes long, by timestamps where the adapter has them that can be trusted, else by
    /// the wall clock over as many repetitions as make its ends negligible.
    ///
    /// # Errors
    /// The driver's.
    pub fn seconds(&mut self, samples: usize) -> Result<f64, GraphError> {
        let mut times = 1;
        // The first run pays for what drivers put off until then.
        self.repeat(times)?;
        let mut took = self.repeat(times)?;
        while took < SAMPLE && times < MOST_REPETITIONS {
            times *= 4;
            took = self.repeat(times)?;
        }
        let fit = (ALL_SAMPLES.as_secs_f64() / took.as_secs_f64().max(f64::MIN_POSITIVE)) as usize;
        let samples = samples.min(fit.max(FEWEST));
        let mut seconds = Vec::with_capacity(samples);
        for _ in 0..samples {
            seconds.push(match self.plan.profile()? {
                // In a step others leave operands in f16: what does it here is not this op's.
                Some(timings) => {
                    timings.iter().filter(|t| !t.kernel.starts_with("half.")).map(|t| t.nanoseconds).sum::<f64>() * 1e-9
                }
                None => self.repeat(times)?.as_secs_f64() / times as f64,
            });
        }
        Ok(median(&mut seconds))
    }
}

/// Runs a convolution both ways on the same inputs: how far the first way is from the second, and what rounding in both explains. For shapes
/// at which the oracle is too slow; the second way is to be one that was compared with it.
///
/// # Errors
/// As [`Alone::new`]; the driver's.
pub fn beside(way: &Kernels, trusted: &Kernels, op: &Arc<dyn Op>, inputs: &[Shape]) -> Result<CaseResult, GraphError> {
    let alone = |kernels| Alone::new(kernels, op.clone(), inputs);
    let error = alone(way)?.compare(&mut alone(trusted)?)?;
    // Each product is a multiplication and an addition of a sum.
    let terms = op.flops(inputs) as usize / op.outputs(inputs)?.iter().map(Shape::len).sum::<usize>().max(1);
    let rounds = |kernels: &Kernels| kernels.caps_for(op.tuning_class(inputs)).rounds();
    let allowed = [way, trusted].map(|kernels| rounding(terms, rounds(kernels))).iter().sum();
    Ok(CaseResult { error, allowed })
}

/// The middle one in order; sorts `values`. 0 where there are none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
