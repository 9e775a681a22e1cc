//! What a step measures for the next one: a convolution's moments in its epilogue, in place of a pass over its output.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::collections::BTreeSet;

use dau::gpu::Staging;
use dau::graph::{Graph, Interpreter, Plan, Scalars, Shape, Tensor, Value, Variables};
use dau::kernel::Kernels;
use dau::ops::{BatchNorm, Conv2d};
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
    let kernels = common::kernels_with(Staging::WorkgroupTile);
    let mut tiles = BTreeSet::new();
    for size in SIZES {
        let pair = pair(size);
        for n_valid in [size[0] as f64, (size[0] / 2) as f64, 0.0] {
            let mut oracle = Interpreter::new(&pair.graph);
            oracle.scalars = Scalars::from([("n_valid", n_valid)]);
            pair.variables.iter().for_each(|(value, tensor)| oracle.set(*value, tensor.clone()));
            oracle.run();
            let (found, ran) = run(&kernels, &pair, n_valid);
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
    assert!(tiles.iter().eq(["1", "2"]), "tiles of one chunk and of two, not {tiles:?}");
}

#[test]
fn stagings_that_do_not_measure_leave_it_to_the_normalisation() {
    let (_, ran) = run(&common::kernels_with(Staging::RegisterBlock), &pair(SIZES[1]), 2.0);
    assert!(ran.iter().any(|k| k.starts_with("batch_norm.measure")), "{ran:?}");
}
