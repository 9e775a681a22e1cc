//! One op alone in a plan, to be timed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::graph::{Elem, Graph, GraphError, Op, Plan, Shape, Variables};
use crate::kernel::Kernels;
use crate::rng;

/// An op at given shapes, ready to run over and over on made-up inputs.
pub struct Alone {
    plan: Plan,
}

/// Distinct numbers among the inputs, which repeat them; prime, so that no row repeats.
const DISTINCT: usize = 4093;
/// How long the repetitions of one sample should take together.
const SAMPLE: Duration = Duration::from_millis(10);
const MOST_REPETITIONS: usize = 1024;

impl Alone {
    /// # Errors
    /// Shapes that the op does not take or the adapter cannot hold.
    pub fn new(kernels: &Kernels, op: Arc<dyn Op>, inputs: &[Shape]) -> Result<Alone, GraphError> {
        let mut random = rng::stream(0, "bench");
        // Positive: whatever is a variance may be one.
        let noise: Vec<f32> = (0..DISTINCT).map(|_| 0.5 + rng::normal(&mut random).abs() as f32).collect();
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
        Ok(Alone { plan })
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

    /// Seconds that one run takes: the median of `samples`, by timestamps where the adapter has them that can be trusted, else by
    /// the wall clock over as many repetitions as make its ends negligible.
    ///
    /// # Errors
    /// The driver's.
    pub fn seconds(&mut self, samples: usize) -> Result<f64, GraphError> {
        let mut times = 1;
        // The first run pays for what drivers put off until then.
        self.repeat(times)?;
        while self.repeat(times)? < SAMPLE && times < MOST_REPETITIONS {
            times *= 4;
        }
        let mut seconds = Vec::with_capacity(samples);
        for _ in 0..samples {
            seconds.push(match self.plan.profile()? {
                Some(timings) => timings.iter().map(|t| t.nanoseconds).sum::<f64>() * 1e-9,
                None => self.repeat(times)?.as_secs_f64() / times as f64,
            });
        }
        Ok(median(&mut seconds))
    }
}

/// The middle one in order; sorts `values`. 0 where there are none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
