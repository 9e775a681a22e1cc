//! What a training step minimises, and the gradient that its update gets.

use std::collections::HashMap;

use super::{Network, TrainError};
use crate::graph::{Graph, Value, Variables};
use crate::kernel::Kernels;
use crate::nn::{Built, ModelSpec, Param, ParamSet};
use crate::ops::{Attention, Loss, LossKind, SamAscent, SamSum};

/// A network whose attention another one learns to have (Li et al. 2021). It sees the same images, normalised as that network's are, in
/// evaluation mode, and learns nothing.
#[derive(Clone)]
pub struct Teacher<'a> {
    /// The network.
    pub network: &'a Network,
    /// For each of the last stages of either network, how much the mean squared difference of the attention there counts.
    pub betas: Vec<f32>,
}

/// Gradients of some values, from which those of others follow ([`Graph::backward`]).
type Seeds = Vec<(Value, Value)>;

/// Names of the graph's variables that are the teacher's.
const TEACHER: &str = "teacher/";
/// Names of the parameters where sharpness-aware minimisation takes its gradient.
const ASCENDED: &str = "ascended/";

impl Teacher<'_> {
    /// Its parameters, by the names that they have in the graph.
    pub(super) fn variables(&self) -> Variables {
        self.network.params.variables_in(TEACHER)
    }
}

/// What is minimised of a network's outputs: losses of its logits, and differences of its attention from a teacher's.
pub(super) struct Objective {
    kinds: Vec<LossKind>,
    labels: Value,
    /// For each loss its per-sample weights; those of the first count for attention, too.
    weights: Vec<Value>,
    /// Of a teacher: how much it counts, and a stage's activation.
    attention: Vec<(f32, Value)>,
}

impl Objective {
    pub(super) fn new(kinds: &[LossKind], labels: Value, weights: &[Value]) -> Objective {
        Objective { kinds: kinds.to_vec(), labels, weights: weights.to_vec(), attention: Vec::new() }
    }

    /// The same with a teacher, which is added to the graph.
    pub(super) fn taught(mut self, g: &mut Graph, images: Value, teacher: &Teacher) -> Result<Objective, TrainError> {
        let stages = teacher.network.spec.build_scoped(g, images, false, TEACHER)?.stages;
        self.attention = teacher.betas.iter().copied().zip(last(&stages, teacher.betas.len())?.iter().copied()).collect();
        Ok(self)
    }

    /// Adds it to the graph for the network `built`. Gives each part's per-sample values, and the seeds of gradients.
    pub(super) fn of(&self, g: &mut Graph, built: &Built) -> Result<(Vec<Value>, Seeds), TrainError> {
        let (mut values, mut seeds) = (Vec::new(), Vec::new());
        for (kind, weight) in self.kinds.iter().zip(&self.weights) {
            let loss = g.apply(Loss { kind: *kind }, &[built.outputs.logits, self.labels, *weight])?;
            values.push(loss[0]);
            seeds.push((built.outputs.logits, loss[1]));
        }
        let stages = last(&built.stages, self.attention.len())?;
        for ((beta, teacher), stage) in self.attention.iter().zip(stages) {
            let difference = g.apply(Attention { beta: *beta }, &[*stage, *teacher, self.weights[0]])?;
            values.push(difference[0]);
            seeds.push((*stage, difference[1]));
        }
        Ok((values, seeds))
    }

    /// The gradients of sharpness-aware minimisation: those at `learned` + rho w^2 g / ||w g||, g being `gradients`. The network is
    /// added once more, with parameters of its own.
    pub(super) fn ascended(
        &self,
        g: &mut Graph,
        (spec, images): (&ModelSpec, Value),
        rho: f32,
        learned: &[Value],
        gradients: &HashMap<Value, Value>,
    ) -> Result<HashMap<Value, Value>, TrainError> {
        let moved: Vec<(Value, Value)> = learned.iter().filter_map(|value| Some((*value, *gradients.get(value)?))).collect();
        let mut sum: Option<Value> = None;
        for (value, gradient) in &moved {
            let inputs: Vec<Value> = [*value, *gradient].into_iter().chain(sum).collect();
            sum = Some(g.apply(SamSum, &inputs)?[0]);
        }
        let mut ascended = Vec::new();
        for ((value, gradient), sum) in moved.iter().zip(sum.into_iter().cycle()) {
            let (name, shape) = (format!("{ASCENDED}{}", g.name(*value)), g.shape(*value).clone());
            let to = g.variable(&name, shape);
            g.apply(SamAscent { rho }, &[*value, *gradient, sum, to])?;
            ascended.push(to);
        }
        let built = spec.build_scoped(g, images, true, ASCENDED)?;
        let (_, seeds) = self.of(g, &built)?;
        let gradients = g.backward(&seeds, &ascended)?;
        let of_learned = moved.iter().zip(&ascended).filter_map(|((value, _), to)| Some((*value, *gradients.get(to)?)));
        Ok(of_learned.collect())
    }
}

/// Buffers for the network of [`Objective::ascended`]: parameters of its own where they learn, and running statistics of its own, which
/// nobody reads, so that a step counts once in those of the network.
pub(super) fn ascended_variables(kernels: &Kernels, network: &Network, learned: &[Param]) -> Result<Variables, TrainError> {
    let mut variables = network.params.variables_in(ASCENDED);
    let own = network.params.params().iter().filter(|param| !param.kind.trainable() || learned.contains(param));
    variables.extend(ParamSet::new(kernels.gpu(), own.cloned().collect())?.variables_in(ASCENDED));
    Ok(variables)
}

/// The last `count` of a network's stages.
fn last(stages: &[Value], count: usize) -> Result<&[Value], TrainError> {
    let first = stages.len().checked_sub(count);
    let few = || TrainError::Data(format!("attention of {count} stages is asked for, and a network has {}", stages.len()));
    first.map(|first| &stages[first..]).ok_or_else(few)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Shape;

    #[test]
    fn attention_is_that_of_the_last_stages() {
        let mut g = Graph::new();
        let stages: Vec<Value> = (0..4).map(|i| g.input(&format!("stage {i}"), Shape::f32(&[1]))).collect();
        assert_eq!(last(&stages, 3).unwrap(), &stages[1..]);
        assert_eq!(last(&stages[..3], 3).unwrap(), &stages[..3]);
        last(&stages[..2], 3).expect_err("too few");
    }
}
