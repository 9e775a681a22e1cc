//! What ops do at the edges of what they are given, on this machine's adapter.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::sync::Arc;

use dau::gpu::{Caps, Staging};
use dau::graph::{Graph, GraphError, Lowered, Lowering, Op, Plan, Scalars, Shape, Tensor, Variables};
use dau::ops::{Loss, LossKind, OPS, check};

/// An op that takes its adapter for another when it deals out its work.
#[derive(Debug)]
struct AsFor(Arc<dyn Op>, fn(Caps) -> Caps);

impl Op for AsFor {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        self.0.outputs(inputs)
    }

    fn in_place(&self) -> &'static [usize] {
        self.0.in_place()
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        self.0.lower(&Lowering { caps: self.1(l.caps), ..*l })
    }

    fn oracle(&self, inputs: &[&Tensor], scalars: &Scalars) -> Vec<Tensor> {
        self.0.oracle(inputs, scalars)
    }
}

/// The tests' adapter is often a CPU driver; what GPUs get must be right as well.
#[test]
fn every_op_agrees_with_its_oracle_when_work_is_dealt_out_as_for_a_gpu() {
    for kernels in [common::kernels(), common::kernels_with(Staging::WorkgroupTile)] {
        for op in OPS {
            for mut case in (op.cases)() {
                case.op = Arc::new(AsFor(case.op, |caps| Caps { cpu: false, ..caps }));
                let found = check(&kernels, &case, 2).unwrap_or_else(|e| panic!("{} {}: {e}", op.name, case.name));
                let (error, allowed) = (found.error, found.allowed);
                assert!(error <= allowed, "{} {}: error {error:.2e}, allowed {allowed:.2e}", op.name, case.name);
            }
        }
    }
}

/// The tests' driver does one of the two.
#[test]
fn convolutions_agree_with_their_oracle_where_loads_are_gathers_and_elsewhere() {
    let kernels = common::kernels();
    for op in OPS.iter().filter(|op| op.name.starts_with("conv2d")) {
        for mut case in (op.cases)() {
            case.op = Arc::new(AsFor(case.op, |caps| Caps { gathers: !caps.gathers, ..caps }));
            let found = check(&kernels, &case, 2).unwrap_or_else(|e| panic!("{} {}: {e}", op.name, case.name));
            let (error, allowed) = (found.error, found.allowed);
            assert!(error <= allowed, "{} {}: error {error:.2e}, allowed {allowed:.2e}", op.name, case.name);
        }
    }
}

/// What padding a batch relies on: a sample that weighs nothing cannot spoil the gradient.
#[test]
fn garbage_that_weighs_nothing_gives_no_gradient() {
    let kernels = common::kernels();
    for kind in [LossKind::CrossEntropy, LossKind::Complementary, LossKind::Flooding { level: 0.5 }, LossKind::Reweighed] {
        let mut graph = Graph::new();
        let logits = graph.input("logits", Shape::f32(&[3, 2]));
        let labels = graph.input("labels", Shape::u32(&[3]));
        let weight = graph.input("weight", Shape::f32(&[3]));
        let out = graph.apply(Loss { kind }, &[logits, labels, weight]).unwrap();
        let mut plan = Plan::new(&kernels, &graph, &out, &Variables::new()).unwrap();
        plan.write(logits, &[1.0f32, 2.0, f32::INFINITY, f32::NAN, 3.0, 1.0]).unwrap();
        plan.write(labels, &[0u32, 1, 2]).unwrap();
        plan.write(weight, &[1.0f32, 0.0, 1.0]).unwrap();
        let bytes = plan.run_and_fetch(&out).unwrap().wait(kernels.gpu()).unwrap();
        let [loss, grad] = [0, 1].map(|i| Tensor::from_bytes(graph.shape(out[i]).clone(), &bytes[i]).data);
        assert!(grad[0].abs() > 1e-3 && grad[2..].iter().all(|g| *g == 0.0), "{kind:?}: {grad:?}");
        assert_eq!(loss[2], 0.0, "{kind:?}: a label out of range has no loss");
    }
}
