//! What is kept in f16 for the matrix kernels, and who makes it so; without a device, since few have matrices.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

use std::sync::Arc;

use dau::gpu::{Caps, Matrix, Staging};
use dau::graph::{Graph, Launch, Op, Shape, Slot, Value, launches};
use dau::nn::ModelSpec;
use dau::ops::{Add, BatchNorm, Conv2d, Conv2dInputGrad, Conv2dWeightGrad, Sgd};
use dau::train::{SgdConfig, training_graph};

const CAPS: Caps = Caps {
    subgroup: None,
    wide: false,
    gathers: false,
    cpu: false,
    matrix: Some(Matrix { side: 16, lanes: 32, memory: 48 << 10, vectors: true, planes: 1 }),
    staging: Staging::CooperativeMatrix,
    own: None,
};
const SGD: SgdConfig = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4, crop_pad: 4, flip: true };
const CONV: Conv2d = Conv2d { stride: 1, pad: 1 };
const NORM: BatchNorm = BatchNorm { eps: 1e-5, momentum: 0.1, relu: true, residual: false };

fn of<'a>(all: &'a [(usize, Launch)], file: &str, entry: &str) -> Vec<&'a Launch> {
    all.iter().map(|(_, launch)| launch).filter(|l| (l.kernel.file, l.kernel.entry) == (file, entry)).collect()
}

fn binds(launch: &Launch, name: &str) -> bool {
    launch.bind.iter().any(|(bound, _)| *bound == name)
}

#[test]
fn in_a_training_step_weights_and_images_are_packed_once_and_all_else_is_made_so() {
    let graph = training_graph(&ModelSpec::new("resnet18", 8, 10, 32), 16, &SGD).unwrap();
    let all = launches(&graph, &[], CAPS);
    let nodes = |name: &str| graph.nodes().iter().filter(|node| node.op.name() == name).count();
    // The first convolution wants no gradient for the images.
    let convolutions = nodes("conv2d");
    assert_eq!([convolutions, nodes("conv2d_weight_grad"), nodes("conv2d_input_grad")], [20, 20, 19]);
    for launch in all.iter().map(|(_, launch)| launch).filter(|l| l.kernel.file == "conv2d_matrix") {
        let half = |name: &str| launch.bind.iter().all(|(bound, slot)| *bound != name || matches!(slot, Slot::Half(_)));
        assert!(["x", "w", "gy"].into_iter().all(half), "{}: an operand in f32", launch.kernel);
    }
    assert_eq!(of(&all, "half", "pack").len(), convolutions + 1);
    // Every upstream gradient is a batch normalisation's, who finds its power of two beforehand and writes nothing else.
    assert_eq!((of(&all, "half", "largest").len(), of(&all, "half", "choose").len()), (0, convolutions));
    let applied = of(&all, "batch_norm_grad", "apply_gradient");
    assert_eq!(applied.len(), convolutions);
    assert!(applied.iter().all(|l| binds(l, "half") && binds(l, "scale") && !binds(l, "gx")));
    // Between the two convolutions of each of eight blocks nobody reads f32, the rest are residuals too. The last one goes to the pooling only.
    let normalised = of(&all, "batch_norm", "normalise");
    assert_eq!(normalised.iter().filter(|l| !binds(l, "new_y")).count(), 8);
    // Of the stage's first blocks the shortcut's goes to the residual only.
    assert_eq!(normalised.iter().filter(|l| !binds(l, "half")).count(), 1 + 3);
}

#[test]
fn in_evaluation_what_only_convolutions_read_is_kept_in_f16_alone() {
    let mut graph = Graph::new();
    let images = graph.input("images", Shape::f32(&[16, 32, 32, 4]));
    let (out, _) = ModelSpec::new("resnet18", 8, 10, 32).build(&mut graph, images, false).unwrap();
    let all = launches(&graph, &[out.logits], CAPS);
    let gathers = of(&all, "conv2d_matrix", "gather");
    assert_eq!(gathers.len(), 20);
    // Between the two of each of eight blocks; what enters the second or later block of a stage is a residual too.
    assert_eq!(gathers.iter().filter(|l| !binds(l, "y")).count(), 8 + 3);
    assert_eq!(of(&all, "half", "pack").len(), 20 + 1);
}

/// y = norm(conv(x)), z = conv(y).
fn chain(graph: &mut Graph) -> [Value; 4] {
    let x = graph.input("x", Shape::f32(&[4, 8, 8, 16]));
    let w = graph.variable("w", Shape::f32(&[3, 3, 16, 16]));
    let vectors = ["gamma", "beta", "mean", "var"].map(|name| graph.variable(name, Shape::f32(&[16])));
    let a = graph.apply(CONV, &[x, w]).unwrap()[0];
    let y = graph.apply(NORM, &[&[a][..], &vectors].concat()).unwrap()[0];
    let z = graph.apply(CONV, &[y, w]).unwrap()[0];
    [x, w, y, z]
}

#[test]
fn f32_is_written_where_somebody_reads_it() {
    let normalised = |keep: &dyn Fn(&mut Graph, [Value; 4]) -> Vec<Value>| {
        let mut graph = Graph::new();
        let values = chain(&mut graph);
        let keep = keep(&mut graph, values);
        let all = launches(&graph, &keep, CAPS);
        let launch = of(&all, "batch_norm", "normalise")[0];
        [binds(launch, "new_y"), binds(launch, "half")]
    };
    assert_eq!(normalised(&|_, [.., z]| vec![z]), [false, true]);
    assert_eq!(normalised(&|_, [.., y, z]| vec![y, z]), [true, true], "kept");
    let added = |graph: &mut Graph, [.., y, z]: [Value; 4]| graph.apply(Add, &[y, z]).unwrap();
    assert_eq!(normalised(&added), [true, true], "added");
    assert_eq!(normalised(&|_, [.., y, _]| vec![y]), [true, false], "nobody multiplies it");
}

#[test]
fn weights_are_packed_again_once_they_have_changed() {
    for (change, packed) in [(false, 2), (true, 3)] {
        let mut graph = Graph::new();
        let [x, w, y, _] = chain(&mut graph);
        if change {
            let sgd = Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 };
            let [grad, velocity] = ["grad", "velocity"].map(|name| graph.variable(name, graph.shape(w).clone()));
            graph.apply(sgd, &[w, grad, velocity]).unwrap();
        }
        let again = graph.apply(CONV, &[y, w]).unwrap()[0];
        let all = launches(&graph, &[again], CAPS);
        // x and w, and w as it is then.
        assert_eq!(of(&all, "half", "pack").len(), packed, "{} {}", graph.name(x), graph.name(w));
    }
}

/// An optimizer goes over weights that lie side by side in one step.
#[test]
fn of_weights_that_change_together_each_is_packed_again() {
    let mut graph = Graph::new();
    let x = graph.input("x", Shape::f32(&[4, 8, 8, 16]));
    let weights = ["v", "w"].map(|name| graph.variable(name, Shape::f32(&[3, 3, 16, 16])));
    weights.iter().for_each(|w| drop(graph.apply(CONV, &[x, *w]).unwrap()));
    let before: Vec<Value> = graph.nodes().iter().map(|node| node.outputs[0]).collect();
    let sgd: Arc<dyn Op> = Arc::new(Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 });
    for w in weights {
        let [grad, velocity] =
            ["grad", "velocity"].map(|of| graph.variable(&format!("{of} {}", graph.name(w)), graph.shape(w).clone()));
        graph.apply_arc(sgd.clone(), &[w, grad, velocity]).unwrap();
    }
    let after = weights.map(|w| graph.apply(CONV, &[x, w]).unwrap()[0]);
    let all = launches(&graph, &[&before[..], &after].concat(), CAPS);
    assert_eq!(of(&all, "optimizer", "sgd").len(), 1, "they change together");
    assert_eq!(of(&all, "half", "pack").len(), 1 + 2 + 2);
}

#[test]
fn both_gradients_of_a_convolution_share_one_power_of_two() {
    let mut graph = Graph::new();
    let image = Shape::f32(&[4, 8, 8, 16]);
    let [x, gy] = ["x", "gy"].map(|name| graph.input(name, image.clone()));
    let w = graph.variable("w", Shape::f32(&[3, 3, 16, 16]));
    let gx = graph.apply(Conv2dInputGrad { stride: 1, pad: 1, input: [8, 8] }, &[gy, w]).unwrap()[0];
    let gw = graph.apply(Conv2dWeightGrad { stride: 1, pad: 1, kernel: 3 }, &[x, gy]).unwrap()[0];
    let all = launches(&graph, &[gx, gw], CAPS);
    assert_eq!((of(&all, "half", "largest").len(), of(&all, "half", "choose").len(), of(&all, "half", "pack").len()), (1, 1, 3));
    // x is an upstream gradient elsewhere, and as such has a power of two of its own.
    let other = graph.apply(Conv2dInputGrad { stride: 1, pad: 1, input: [8, 8] }, &[x, w]).unwrap()[0];
    let all = launches(&graph, &[gx, gw, other], CAPS);
    assert_eq!((of(&all, "half", "choose").len(), of(&all, "half", "pack").len()), (2, 4));
}
