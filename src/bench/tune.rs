//! Every way that an adapter offers to run the convolutions of a training step, compared and timed: for `dau tune`.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::SGD;
use super::kernels::{CONVOLUTIONS, TRUSTED, verify, verify_beside};
use crate::gpu::Candidate;
use crate::graph::{Op, Shape};
use crate::kernel::Kernels;
use crate::nn::ModelSpec;
use crate::ops::Alone;
use crate::train::training_graph;

/// Of which the median counts.
const SAMPLES: usize = 5;

/// The classes of convolutions that some training steps have, and the ways to run each.
pub struct Ways {
    kernels: Kernels,
    candidates: Vec<Candidate>,
    classes: Vec<Class>,
}

/// Convolutions of one kind and size: [`Op::tuning_class`].
struct Class {
    name: String,
    op: Arc<dyn Op>,
    inputs: Vec<Shape>,
}

/// What trying one way gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tried {
    /// It computes what it should, in so many microseconds.
    Us(f64),
    /// Why it cannot be used.
    Failed(String),
}

impl Ways {
    /// Those of `spec`'s training steps of each of these batch sizes, where the op's name holds `filter`; predictions of as many images have
    /// the same forward ones.
    ///
    /// # Errors
    /// A network that cannot be built, or a filter that leaves nothing.
    pub fn new(kernels: &Kernels, spec: &ModelSpec, batches: &[usize], filter: &str) -> Result<Ways> {
        let mut classes: Vec<Class> = Vec::new();
        for batch in batches {
            let graph = training_graph(spec, *batch, &SGD)?;
            for node in graph.nodes() {
                let inputs: Vec<Shape> = node.inputs.iter().map(|v| graph.shape(*v).clone()).collect();
                let Some(name) = node.op.tuning_class(&inputs) else { continue };
                if node.op.name().contains(filter) && !classes.iter().any(|class| class.name == name) {
                    classes.push(Class { name, op: node.op.clone(), inputs });
                }
            }
        }
        ensure!(!classes.is_empty(), "--op {filter}: no such convolution; there are: {}", CONVOLUTIONS.join(", "));
        Ok(Ways { kernels: kernels.clone(), candidates: kernels.gpu().caps().candidates(), classes })
    }

    /// The names of the classes.
    pub fn classes(&self) -> Vec<&str> {
        self.classes.iter().map(|class| class.name.as_str()).collect()
    }

    /// The ways to run each.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Compares the way that all others are compared with, [`TRUSTED`], with the oracle, on small shapes.
    ///
    /// # Errors
    /// It computes something wrong; the driver's.
    pub fn verify(&self) -> Result<()> {
        let trusted = self.kernels.with(TRUSTED);
        CONVOLUTIONS.iter().try_for_each(|op| verify(&trusted, op).map(drop))
    }

    /// Compares class `class` run the way `candidate` with the trusted way at its own shapes, then times it.
    ///
    /// # Errors
    /// No such class or way.
    pub fn time(&self, class: usize, candidate: usize) -> Result<Tried> {
        let Class { op, inputs, .. } = self.classes.get(class).context("no such class")?;
        let way = *self.candidates.get(candidate).context("no such way")?;
        let timed = || -> Result<f64> {
            verify_beside(&self.kernels, way, op, inputs)?;
            Ok(Alone::new(&self.kernels.with(way), op.clone(), inputs)?.seconds(SAMPLES)?)
        };
        Ok(timed().map_or_else(|e| Tried::Failed(e.to_string()), |seconds| Tried::Us(seconds * 1e6)))
    }
}
