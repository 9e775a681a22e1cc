//! Optimizer steps on parameters that lie side by side are one dispatch, and change what single ones would.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::sync::{Arc, LazyLock};

use common::{digits, resnet_w8};
use dau::gpu::{Caps, Staging};
use dau::graph::{Footprint, Graph, Interpreter, Op, Plan, Shape, Tensor, Value, Variables};
use dau::kernel::Kernels;
use dau::ops::{Adam, Add, LossKind, Sgd};
use dau::train::{Batch, Network, Part, SgdConfig, StepConfig, TrainStep};

static KERNELS: LazyLock<Kernels> = LazyLock::new(common::kernels);

/// How many dispatches of `op` a run has; `None` where the adapter has no timestamps.
fn dispatches(plan: &mut Plan, op: &str) -> Option<usize> {
    plan.profile().unwrap().map(|timings| timings.iter().filter(|t| t.op == op).count())
}

/// Lengths that fill no vec4, a vec4, and just more and less than a step of 256 bytes.
const LENGTHS: [usize; 6] = [1, 4, 63, 64, 65, 130];

/// `op` on a parameter of each of [`LENGTHS`] with its `states`; the gradients are sums of two inputs.
struct Case {
    graph: Graph,
    inputs: Vec<Value>,
    grads: Vec<Value>,
    /// For each of param and states the variables, one a length.
    variables: Vec<Vec<Value>>,
}

fn case(op: impl Op + 'static, states: usize) -> Case {
    let mut graph = Graph::new();
    let op: Arc<dyn Op> = Arc::new(op);
    let shapes = LENGTHS.map(|n| Shape::f32(&[n]));
    let variables: Vec<Vec<Value>> = (0..=states)
        .map(|s| shapes.iter().map(|shape| graph.variable(&format!("{s}: {shape}"), shape.clone())).collect())
        .collect();
    let mut inputs = Vec::new();
    let grads = shapes.map(|shape| {
        let pair = ["a", "b"].map(|name| graph.input(name, shape.clone()));
        inputs.extend(pair);
        graph.apply(Add, &pair).unwrap()[0]
    });
    for i in 0..LENGTHS.len() {
        let state = variables[1..].iter().map(|row| row[i]);
        graph.apply_arc(op.clone(), &[variables[0][i], grads[i]].into_iter().chain(state).collect::<Vec<_>>()).unwrap();
    }
    Case { graph, inputs, grads: grads.to_vec(), variables }
}

impl Case {
    /// Buffers of the variables, each row side by side.
    fn side_by_side(&self) -> Variables {
        let mut all = Variables::new();
        for row in &self.variables {
            let sizes: Vec<(&str, usize)> = row.iter().map(|v| (self.graph.name(*v), self.graph.shape(*v).len())).collect();
            let buffers = KERNELS.gpu().side_by_side(&sizes).unwrap();
            all.extend(sizes.iter().map(|(name, _)| name.to_string()).zip(buffers));
        }
        all
    }

    /// Three steps on the device and in f64; the variables and `keep` must agree. Gives the dispatches of `op`, which runs once more.
    fn check(&self, buffers: &Variables, keep: &[Value], op: &str) -> Option<usize> {
        let mut plan = Plan::new(&KERNELS, &self.graph, keep, buffers).unwrap();
        let mut truth = Interpreter::new(&self.graph);
        for (i, v) in self.inputs.iter().chain(self.variables.iter().flatten()).enumerate() {
            let shape = self.graph.shape(*v).clone();
            let data: Vec<f32> = (0..shape.len()).map(|j| ((i * 31 + j * 7) % 113) as f32 / 64.0 + 0.25).collect();
            plan.write(*v, &data).unwrap();
            truth.set(*v, Tensor::new(shape, data.into_iter().map(f64::from).collect()));
        }
        for (name, value) in [("lr", 0.125), ("bias1", 0.5), ("bias2", 0.25)] {
            truth.scalars.insert(name, value);
            if plan.has_scalar(name) {
                plan.set(name, value).unwrap();
            }
        }
        for _ in 0..3 {
            plan.run().unwrap();
            truth.run();
        }
        for v in self.variables.iter().flatten().chain(keep) {
            let shape = self.graph.shape(*v).clone();
            let found: Vec<f32> = KERNELS.gpu().read(plan.buffer(*v).unwrap()).unwrap();
            let found = Tensor::new(shape, found.into_iter().map(f64::from).collect());
            let error = found.relative_error(truth.get(*v));
            assert!(error < 1e-6, "{} is off by {error:.1e}", self.graph.name(*v));
        }
        dispatches(&mut plan, op)
    }
}

const SGD: Sgd = Sgd { momentum: 0.5, nesterov: true, weight_decay: 0.25 };
const ADAM: Adam = Adam { beta1: 0.5, beta2: 0.75, eps: 1e-8, weight_decay: 0.25 };

#[test]
fn what_lies_side_by_side_is_updated_in_one_dispatch() {
    for (case, op) in [(case(SGD, 1), "sgd"), (case(ADAM, 2), "adam")] {
        let count = case.check(&case.side_by_side(), &[], op);
        assert!(count.is_none_or(|n| n == 1), "{op}: {count:?}");
        // Gradients can be kept all the same.
        let count = case.check(&case.side_by_side(), &case.grads, op);
        assert!(count.is_none_or(|n| n == 1), "{op}: {count:?}");
    }
}

#[test]
fn variables_that_lie_apart_are_updated_each_by_itself() {
    let case = case(SGD, 1);
    let own = case.variables.iter().flatten().map(|v| {
        let name = case.graph.name(*v);
        (name.to_string(), KERNELS.gpu().buffer(name, case.graph.shape(*v).len()).unwrap())
    });
    let count = case.check(&own.collect(), &[], "sgd");
    assert!(count.is_none_or(|n| n == LENGTHS.len()), "{count:?}");
}

#[test]
fn a_gradient_that_something_else_reads_too_stays_out() {
    let mut case = case(SGD, 1);
    // Of the fourth parameter: what is before and what is behind it stays together.
    let twice = case.graph.apply(Add, &[case.grads[3], case.grads[3]]).unwrap()[0];
    let count = case.check(&case.side_by_side(), &[twice], "sgd");
    assert!(count.is_none_or(|n| n == 3), "{count:?}");
}

#[test]
fn a_row_of_gradients_fits_the_smallest_binding_there_is() {
    // 3 of 48 MiB: two of them fit into 128.
    const BYTES: u64 = 48 << 20;
    let mut graph = Graph::new();
    let op: Arc<dyn Op> = Arc::new(SGD);
    let shape = Shape::f32(&[BYTES as usize / 4]);
    let x = graph.input("x", shape.clone());
    let grads = [0; 3].map(|_| graph.apply(Add, &[x, x]).unwrap()[0]);
    for (i, grad) in grads.into_iter().enumerate() {
        let [w, v] = ["w", "v"].map(|name| graph.variable(&format!("{name}{i}"), shape.clone()));
        graph.apply_arc(op.clone(), &[w, grad, v]).unwrap();
    }
    let staging = Staging::RegisterBlock;
    let caps = Caps { subgroup: None, wide: false, gathers: false, cpu: false, matrix: None, staging, own: None };
    let footprint = Footprint::of(&graph, &[], caps);
    assert_eq!((footprint.largest.1, footprint.bytes), (2 * BYTES, 4 * BYTES));
}

#[test]
fn a_training_step_updates_all_parameters_in_one_dispatch() {
    let (data, norm) = digits(8);
    let network = Network::new(&KERNELS, &resnet_w8(), &norm, 0).unwrap();
    let sgd = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4, crop_pad: 0, flip: false };
    let mut step = TrainStep::new(&KERNELS, &network, &StepConfig::new(8, &[LossKind::CrossEntropy], &sgd)).unwrap();
    let batch = Batch::new(&data, &[Part { indices: &[0, 1, 2, 3, 4, 5, 6, 7], weight: 0.125 }]);
    step.run(&network, &batch, 0.1, 0).unwrap().wait(KERNELS.gpu()).unwrap();
    let count = dispatches(step.plan(), "sgd");
    assert!(count.is_none_or(|n| n == 1), "{count:?}");
}
