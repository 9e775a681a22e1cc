//! What a convolution does in its epilogue, in place of a pass over its output: it measures the moments for a batch normalisation in training,
//! and does the whole work of one that takes the running statistics.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::collections::BTreeSet;

use dau::gpu::{Candidate, Staging};
use dau::graph::{Graph, Interpreter, Plan, Scalars, Shape, Tensor, Value, Variables};
use dau::kernel::Kernels;
use dau::nn::{ModelSpec, ParamSet, initialise};
use dau::ops::{Add, BatchNorm, BatchNormEval, Conv2d, Sgd};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

/// A convolution and its batch normalisation on the device; what to read of it, variables included.
struct Pair {
    graph: Graph,
    variables: Vec<(Value, Tensor)>,
    read: Vec<Value>,
}

/// n, height and width, ci, co, kernel, stride: tiles of 16, 32 and 64 channels, of 64 and 128 pixels, whole and not.
const SIZES: [[usize; 6]; 6] = [
    [3, 7, 12, 20, 3, 2],
    [2, 8, 16, 16, 3, 1],
    [5, 9, 4, 36, 3, 1],
    [4, 16, 8, 64, 1, 1],
    [9, 4, 32, 68, 3, 1],
    [33, 32, 4, 128, 1, 1],
];

fn pair([n, side, ci, co, kernel, stride]: [usize; 6]) -> Pair {
    let mut rng = ChaCha8Rng::seed_from_u64((n * side * co) as u64);
    let mut graph = Graph::new();
    let mut variables = Vec::new();
    // Means far from zero: the sums must not cancel.
    let mut variable = |graph: &mut Graph, name: &str, dims: &[usize], least: f64| {
        let shape = Shape::f32(dims);
        let uniform = |rng: &mut ChaCha8Rng| f64::from((least + f64::from(rng.next_u32()) / f64::from(u32::MAX)) as f32);
        let tensor = Tensor::new(shape.clone(), (0..shape.len()).map(|_| uniform(&mut rng)).collect());
        let value = graph.variable(name, shape);
        variables.push((value, tensor));
        value
    };
    let x = variable(&mut graph, "x", &[n, side, side, ci], 1.0);
    let w = variable(&mut graph, "w", &[kernel, kernel, ci, co], -0.3);
    let rest: Vec<Value> = ["gamma", "beta", "mean", "var"].iter().map(|name| variable(&mut graph, name, &[co], 0.5)).collect();
    let conv = Conv2d { stride: stride as u32, pad: (kernel / 2) as u32 };
    let y = graph.apply(conv, &[x, w]).unwrap()[0];
    let norm = BatchNorm { eps: 1e-5, momentum: 0.1, relu: false, residual: false };
    let outputs = graph.apply(norm, &[&[y], &rest[..]].concat()).unwrap();
    let read = [&outputs[..], &rest[2..]].concat();
    Pair { graph, variables, read }
}

/// The values read, from the device, and the kernels that ran.
fn run(kernels: &Kernels, pair: &Pair, n_valid: f64) -> (Vec<Tensor>, Vec<String>) {
    let mut variables = Variables::new();
    for (value, tensor) in &pair.variables {
        let buffer = kernels.gpu().buffer(pair.graph.name(*value), tensor.shape.len()).unwrap();
        kernels.gpu().upload(&buffer, &tensor.to_bytes());
        variables.insert(pair.graph.name(*value).to_string(), buffer);
    }
    let mut plan = Plan::new(kernels, &pair.graph, &pair.read, &variables).unwrap();
    plan.set("n_valid", n_valid).unwrap();
    let bytes = plan.run_and_fetch(&pair.read).unwrap().wait(kernels.gpu()).unwrap();
    let tensors = pair.read.iter().zip(bytes).map(|(v, b)| Tensor::from_bytes(pair.graph.shape(*v).clone(), &b)).collect();
    let timings = plan.profile().unwrap().expect("the tests' adapter has timestamps");
    (tensors, timings.into_iter().map(|t| t.kernel).collect())
}

#[test]
fn moments_from_the_convolutions_epilogue_are_the_oracles() {
    let by_rule = common::kernels_with(Staging::WorkgroupTile);
    let tiles = moments_are_the_oracles(&by_rule);
    assert!(tiles.iter().eq(["1", "2"]), "tiles of one chunk and of two, not {tiles:?}");
    // Invocations that own eight channels.
    moments_are_the_oracles(&by_rule.with(Candidate { staging: Staging::WorkgroupTile, own: Some([8, 8]) }));
}

/// In how many chunks the tiles were.
fn moments_are_the_oracles(kernels: &Kernels) -> BTreeSet<String> {
    let mut tiles = BTreeSet::new();
    for size in SIZES {
        let pair = pair(size);
        for n_valid in [size[0] as f64, (size[0] / 2) as f64, 0.0] {
            let mut oracle = Interpreter::new(&pair.graph);
            oracle.scalars = Scalars::from([("n_valid", n_valid)]);
            pair.variables.iter().for_each(|(value, tensor)| oracle.set(*value, tensor.clone()));
            oracle.run();
            let (found, ran) = run(kernels, &pair, n_valid);
            assert!(ran.iter().any(|k| k.contains("CHUNKS=")), "nothing is measured by the convolution: {ran:?}");
            tiles.extend(ran.iter().filter_map(|k| k.split("CHUNKS=").nth(1)).map(|k| k[..1].to_string()));
            assert!(!ran.iter().any(|k| k.starts_with("batch_norm.measure")), "it is measured twice: {ran:?}");
            for (value, tensor) in pair.read.iter().zip(&found) {
                let error = tensor.relative_error(oracle.get(*value));
                let terms = (size[0] * size[1] * size[1]).max(size[2] * 9) as f64;
                // The normalised output divides by a standard deviation some ten times less than the mean.
                let allowed = 10.0 * f64::from(f32::EPSILON) * (8.0 + 2.0 * terms.sqrt());
                let name = pair.graph.name(*value);
                assert!(error <= allowed, "{size:?}, {n_valid} valid, {name}: error {error:.1e}, allowed {allowed:.1e}");
            }
        }
    }
    tiles
}

#[test]
fn stagings_that_do_not_measure_leave_it_to_the_normalisation() {
    let (_, ran) = run(&common::kernels_with(Staging::RegisterBlock), &pair(SIZES[1]), 2.0);
    assert!(ran.iter().any(|k| k.starts_with("batch_norm.measure")), "{ran:?}");
}

/// A convolution, what normalises it by running statistics, with a residual and a ReLU, and the sum of the result with itself.
struct Evaluated {
    graph: Graph,
    variables: Vec<(Value, Tensor)>,
    x: Value,
    gamma: Value,
    w: Value,
    conv: Value,
    normalised: Value,
    end: Value,
}

/// `between` may add nodes to the graph after the convolution, given w.
fn evaluated(between: impl Fn(&mut Graph, Value)) -> Evaluated {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut graph = Graph::new();
    let mut variables = Vec::new();
    let mut variable = |graph: &mut Graph, name: &str, dims: &[usize]| {
        let shape = Shape::f32(dims);
        // Positive, for the variance's sake.
        let data = (0..shape.len()).map(|_| f64::from(0.1 + rng.next_u32() as f32 / u32::MAX as f32)).collect();
        let value = graph.variable(name, shape.clone());
        variables.push((value, Tensor::new(shape, data)));
        value
    };
    let x = variable(&mut graph, "x", &[2, 5, 7, 8]);
    let w = variable(&mut graph, "w", &[3, 3, 8, 12]);
    let vectors = ["gamma", "beta", "mean", "variance"].map(|name| variable(&mut graph, name, &[12]));
    let residual = variable(&mut graph, "residual", &[2, 5, 7, 12]);
    // What `between` may want.
    variable(&mut graph, "gradient", &[3, 3, 8, 12]);
    variable(&mut graph, "velocity", &[3, 3, 8, 12]);
    let conv = graph.apply(Conv2d { stride: 1, pad: 1 }, &[x, w]).unwrap()[0];
    between(&mut graph, w);
    let norm = BatchNormEval { eps: 1e-5, relu: true, residual: true };
    let normalised = graph.apply(norm, &[&[conv][..], &vectors, &[residual]].concat()).unwrap()[0];
    let end = graph.apply(Add, &[normalised, normalised]).unwrap()[0];
    Evaluated { graph, variables, x, gamma: vectors[0], w, conv, normalised, end }
}

/// Whether the normalisation was the convolution's epilogue, once `keep` has come out as the oracle says.
fn is_fused(e: &Evaluated, keep: &[Value]) -> bool {
    let kernels = common::kernels();
    let mut variables = Variables::new();
    for (value, tensor) in &e.variables {
        let buffer = kernels.gpu().buffer(e.graph.name(*value), tensor.shape.len()).unwrap();
        kernels.gpu().upload(&buffer, &tensor.to_bytes());
        variables.insert(e.graph.name(*value).to_string(), buffer);
    }
    let mut plan = Plan::new(&kernels, &e.graph, keep, &variables).unwrap();
    let mut oracle = Interpreter::new(&e.graph);
    if plan.has_scalar("lr") {
        plan.set("lr", 0.5).unwrap();
        oracle.scalars = Scalars::from([("lr", 0.5)]);
    }
    e.variables.iter().for_each(|(value, tensor)| oracle.set(*value, tensor.clone()));
    oracle.run();
    for (value, bytes) in keep.iter().zip(plan.run_and_fetch(keep).unwrap().wait(kernels.gpu()).unwrap()) {
        let found = Tensor::from_bytes(e.graph.shape(*value).clone(), &bytes);
        let error = found.relative_error(oracle.get(*value));
        assert!(error < 1e-5, "{}: {error:.1e}", e.graph.name(*value));
    }
    let ran: Vec<String> =
        plan.profile().unwrap().expect("the tests' adapter has timestamps").into_iter().map(|t| t.kernel).collect();
    let [epilogues, passes] = ["AFFINE=1", "normalise_running"].map(|what| ran.iter().filter(|k| k.contains(what)).count());
    assert_eq!(epilogues + passes, 1, "it is done once: {ran:?}");
    epilogues == 1
}

#[test]
fn a_normalisation_by_running_statistics_is_the_convolutions_epilogue() {
    let e = evaluated(|_, _| {});
    assert!(is_fused(&e, &[e.end]));
    assert!(is_fused(&e, &[e.end, e.normalised]));
}

#[test]
fn a_convolution_that_somebody_else_reads_is_written_and_normalised_by_itself() {
    let e = evaluated(|_, _| {});
    assert!(!is_fused(&e, &[e.end, e.conv]), "it is kept");
    let mut e = evaluated(|_, _| {});
    let twice = e.graph.apply(Add, &[e.conv, e.conv]).unwrap()[0];
    assert!(!is_fused(&e, &[e.end, twice]), "another node reads it");
    assert!(is_fused(&e, &[e.end]), "a node that nobody needs does not count");
}

#[test]
fn gradients_are_those_of_the_two_ops_and_forbid_one_only_where_they_read_what_is_between() {
    let mut e = evaluated(|_, _| {});
    // Any gradient at the end.
    let seed = e.normalised;
    let wrt = [e.x, e.w, e.gamma];
    let grads = e.graph.backward(&[(e.end, seed)], &wrt).unwrap();
    let [x, w, gamma] = wrt.map(|v| grads[&v]);
    assert!(is_fused(&e, &[x, w]));
    assert!(!is_fused(&e, &[x, gamma]), "gamma's reads the convolution");
}

#[test]
fn a_convolution_whose_weights_change_before_the_normalisation_keeps_to_the_old_ones() {
    let e = evaluated(|graph, w| {
        let [gradient, velocity] = ["gradient", "velocity"].map(|name| graph.find_variable(name).unwrap());
        graph.apply(Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 }, &[w, gradient, velocity]).unwrap();
    });
    assert!(!is_fused(&e, &[e.end]));
}

#[test]
fn a_sum_with_a_convolution_or_its_gradient_is_made_in_one_pass() {
    let kernels = common::kernels();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (mut graph, mut variables, mut tensors) = (Graph::new(), Variables::new(), Vec::new());
    let mut variable = |graph: &mut Graph, name: &str, dims: &[usize]| {
        let shape = Shape::f32(dims);
        let data = (0..shape.len()).map(|_| f64::from(rng.next_u32() as f32 / u32::MAX as f32 - 0.5)).collect();
        let tensor = Tensor::new(shape.clone(), data);
        let buffer = kernels.gpu().buffer(name, shape.len()).unwrap();
        kernels.gpu().upload(&buffer, &tensor.to_bytes());
        variables.insert(name.to_string(), buffer);
        let value = graph.variable(name, shape);
        tensors.push((value, tensor));
        value
    };
    let [x, seed] = ["x", "seed"].map(|name| variable(&mut graph, name, &[2, 5, 7, 8]));
    let w = [("w0", 3), ("w1", 1)].map(|(name, kernel)| variable(&mut graph, name, &[kernel, kernel, 8, 8]));
    let y = [(w[0], 1), (w[1], 0)].map(|(w, pad)| graph.apply(Conv2d { stride: 1, pad }, &[x, w]).unwrap()[0]);
    let sum = graph.apply(Add, &y).unwrap()[0];
    let gx = graph.backward(&[(sum, seed)], &[x]).unwrap()[&x];
    let mut oracle = Interpreter::new(&graph);
    tensors.iter().for_each(|(value, tensor)| oracle.set(*value, tensor.clone()));
    oracle.run();
    let cpu = usize::from(kernels.gpu().caps().cpu);
    // What is kept, besides a sum perhaps its convolution.
    for (keep, joined) in [(vec![sum, gx], 2 * cpu), (vec![sum, gx, y[0]], cpu), (vec![sum], cpu)] {
        let mut plan = Plan::new(&kernels, &graph, &keep, &variables).unwrap();
        for (value, bytes) in keep.iter().zip(plan.run_and_fetch(&keep).unwrap().wait(kernels.gpu()).unwrap()) {
            let error = Tensor::from_bytes(graph.shape(*value).clone(), &bytes).relative_error(oracle.get(*value));
            assert!(error < 1e-6, "{}: {error:.1e}", graph.name(*value));
        }
        let ran = plan.profile().unwrap().expect("the tests' adapter has timestamps");
        let count = |what: &str| ran.iter().filter(|t| t.kernel.contains(what)).count();
        let sums = keep.iter().filter(|v| [sum, gx].contains(v)).count();
        assert_eq!([count("RESIDUAL=1"), count("add.add")], [joined, sums - joined], "{keep:?}");
    }
}

#[test]
fn evaluation_passes_once_over_each_layers_output_and_training_is_as_it_was() {
    let kernels = common::kernels();
    // Pre-activation blocks normalise a convolution's output in their middle, and sums at their beginning.
    for (name, fused, alone) in [("resnet18", 20, 0), ("preact-resnet18", 8, 8), ("wrn-16", 7, 6)] {
        let spec = ModelSpec::new(name, 4, 4, 16);
        for train in [false, true] {
            let mut graph = Graph::new();
            let images = graph.input("images", Shape::f32(&[2, 16, 16, 4]));
            let (outputs, params) = spec.build(&mut graph, images, train).unwrap();
            let params = ParamSet::new(kernels.gpu(), params).unwrap();
            initialise(&params, 1);
            let mut plan = Plan::new(&kernels, &graph, &[outputs.logits], params.variables()).unwrap();
            if train {
                plan.set("n_valid", 2.0).unwrap();
            }
            let ran = plan.profile().unwrap().expect("the tests' adapter has timestamps");
            let count = |what: &str| ran.iter().filter(|t| t.kernel.contains(what)).count();
            let expected = if train { (0, 0, fused + alone) } else { (fused, alone, 0) };
            let found = (count("AFFINE=1"), count("normalise_running"), count("batch_norm.normalise<"));
            assert_eq!(found, expected, "{name}, training: {train}");
        }
    }
}
