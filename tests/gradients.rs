//! Gradient nodes against slopes: central differences of the f64 oracle, no GPU.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

use dau::graph::{Graph, Interpreter, Shape, Tensor, Value};
use dau::ops::{Attention, BatchNorm, BatchNormEval, GlobalAvgPool, Linear, Loss, LossKind, MaxPool, Multiply, Window};
use dau::rng;
use rand::RngExt;

const ALLOWED: f64 = 1e-6;
const STEP: f64 = 1e-5;
/// No ReLU's input may be nearer to zero than this, or a step might cross the kink.
const CLEARANCE: f64 = 1e-3;
const KINDS: [LossKind; 7] = [
    LossKind::CrossEntropy,
    LossKind::Complementary,
    LossKind::GradientAscent,
    LossKind::LocalAscent { level: 0.5 },
    LossKind::Flooding { level: 0.25 },
    LossKind::Flooding { level: 20.0 },
    LossKind::Reweighed,
];

/// A graph that ends in a loss, and values for its inputs.
struct Setup {
    graph: Graph,
    inputs: Vec<(Value, Tensor)>,
    seed: u64,
    n_valid: usize,
}

impl Setup {
    fn new(seed: u64, n_valid: usize) -> Setup {
        Setup { graph: Graph::new(), inputs: Vec::new(), seed, n_valid }
    }

    /// A variable of normal numbers.
    fn normal(&mut self, name: &str, dims: &[usize], mean: f64, std: f64) -> Value {
        let mut rng = rng::stream(self.seed, name);
        let shape = Shape::f32(dims);
        let data = (0..shape.len()).map(|_| mean + std * rng::normal(&mut rng)).collect();
        self.set(name, Tensor::new(shape, data))
    }

    fn set(&mut self, name: &str, tensor: Tensor) -> Value {
        let value = self.graph.variable(name, tensor.shape.clone());
        self.inputs.push((value, tensor));
        value
    }

    /// gamma, beta, running_mean, running_var for `channels`.
    fn norm(&mut self, name: &str, channels: usize) -> [Value; 4] {
        let mut vector = |what: &str, mean, std| self.normal(&format!("{name}.{what}"), &[channels], mean, std);
        [vector("gamma", 1.0, 0.3), vector("beta", 0.0, 0.5), vector("running_mean", 0.0, 0.3), vector("running_var", 1.0, 0.05)]
    }

    /// Adds the loss of `logits` with random labels and weights; samples past n_valid weigh nothing. Gives loss, its seed, weight.
    fn loss(&mut self, kind: LossKind, logits: Value) -> [Value; 3] {
        let &[n, k] = &self.graph.shape(logits).dims[..] else { panic!("logits are [N, K]") };
        let mut rng = rng::stream(self.seed, "labels");
        let labels = (0..n).map(|_| f64::from(rng.random_range(0..k as u32))).collect();
        let weight = (0..n).map(|i| if i < self.n_valid { rng.random_range(0.2..1.5) } else { 0.0 }).collect();
        let labels = self.set("labels", Tensor::new(Shape::u32(&[n]), labels));
        let weight = self.set("weight", Tensor::new(Shape::f32(&[n]), weight));
        let out = self.graph.apply(Loss { kind }, &[logits, labels, weight]).unwrap();
        [out[0], out[1], weight]
    }

    /// The graph's values with `change` added to element `element` of `value`.
    fn run(&self, change: Option<(Value, usize, f64)>) -> Interpreter<'_> {
        let mut run = Interpreter::new(&self.graph);
        run.scalars.insert("n_valid", self.n_valid as f64);
        for (value, tensor) in &self.inputs {
            run.set(*value, tensor.clone());
        }
        if let Some((value, element, by)) = change {
            let mut tensor = run.get(value).clone();
            tensor.data[element] += by;
            run.set(value, tensor);
        }
        run.run();
        run
    }

    /// Compares the gradients of `wrt` with the slopes of the objective.
    fn check(mut self, what: &str, kind: LossKind, logits: Value, wrt: &[Value]) {
        let [loss, seed, weight] = self.loss(kind, logits);
        let grads = self.graph.backward(&[(logits, seed)], wrt).unwrap();
        let at = self.run(None);
        // Constants of the objective: each sample's share by its loss where the slopes are taken.
        let shares: Vec<f64> = at.get(loss).data.iter().zip(&at.get(weight).data).map(|(l, w)| w / (w + l)).collect();
        let all: f64 = shares.iter().sum();
        let objective = |run: &Interpreter| {
            let losses = &run.get(loss).data;
            let sum: f64 = losses.iter().zip(&run.get(weight).data).map(|(l, w)| l * w).sum();
            match kind {
                LossKind::Flooding { level } => (sum - f64::from(level)).abs() + f64::from(level),
                LossKind::Reweighed => losses.iter().zip(&shares).map(|(l, share)| l * share / all).sum(),
                _ => sum,
            }
        };
        for value in wrt {
            let found = at.get(grads[value]);
            let slope = |i| {
                let [above, below] = [STEP, -STEP].map(|by| objective(&self.run(Some((*value, i, by)))));
                (above - below) / (2.0 * STEP)
            };
            let slopes = Tensor::new(found.shape.clone(), (0..found.data.len()).map(slope).collect());
            let error = found.relative_error(&slopes);
            println!("{what}, {kind:?}, {}: {error:.1e}", self.graph.name(*value));
            assert!(error <= ALLOWED, "{what}, {kind:?}, {}: {error:.2e} > {ALLOWED:.0e}", self.graph.name(*value));
        }
    }

    /// The smallest distance from zero among the elements of `value`.
    fn clearance(&self, value: Value) -> f64 {
        self.run(None).get(value).data.iter().fold(f64::INFINITY, |least, v| least.min(v.abs()))
    }
}

#[test]
fn products_have_their_slopes_as_gradients() {
    let mut setup = Setup::new(5, 6);
    let x = setup.normal("x", &[6, 2, 3, 4], 0.5, 1.0);
    let z = setup.normal("z", &[6, 2, 3, 4], 0.0, 1.0);
    let mask = setup.normal("mask", &[4], 1.0, 0.5);
    let product = setup.graph.apply(Multiply, &[x, z]).unwrap()[0];
    let masked = setup.graph.apply(Multiply, &[product, mask]).unwrap()[0];
    let logits = setup.graph.apply(GlobalAvgPool, &[masked]).unwrap()[0];
    setup.check("products", LossKind::CrossEntropy, logits, &[x, z]);
}

#[test]
fn each_loss_has_its_slope_as_gradient() {
    for kind in KINDS {
        let mut setup = Setup::new(3, 7);
        let logits = setup.normal("logits", &[8, 5], 0.0, 2.0);
        setup.check("loss alone", kind, logits, &[logits]);
    }
}

/// relu(bn2(relu(bn1(x))) + x), pooled, then a linear classifier; the last sample is padding. The ReLUs can be left out to see
/// what goes into them.
fn residual_block(seed: u64, relu: [bool; 2], train: bool) -> (Setup, [Value; 2], Value, Vec<Value>) {
    let (n, channels, classes) = (5, 8, 3);
    let mut setup = Setup::new(seed, n - 1);
    let x = setup.normal("x", &[n, 3, 2, channels], 0.5, 1.0);
    let mut wrt = vec![x];
    let mut h = x;
    let mut points = Vec::new();
    for (i, relu) in relu.into_iter().enumerate() {
        let norm = setup.norm(&format!("bn{}", i + 1), channels);
        let residual = i == 1;
        let mut inputs = vec![h];
        inputs.extend(norm);
        inputs.extend(residual.then_some(x));
        wrt.extend(&norm[..2]);
        h = if train {
            setup.graph.apply(BatchNorm { eps: 1e-5, momentum: 0.1, relu, residual }, &inputs).unwrap()[0]
        } else {
            setup.graph.apply(BatchNormEval { eps: 1e-5, relu, residual }, &inputs).unwrap()[0]
        };
        points.push(h);
    }
    let pooled = setup.graph.apply(GlobalAvgPool, &[h]).unwrap()[0];
    let w = setup.normal("w", &[classes, channels], 0.0, 1.0);
    let b = setup.normal("b", &[classes], 0.0, 1.0);
    let logits = setup.graph.apply(Linear, &[pooled, w, b]).unwrap()[0];
    wrt.extend([w, b]);
    (setup, [points[0], points[1]], logits, wrt)
}

/// The first seed that keeps all ReLU inputs of the block off zero.
fn clear_seed(train: bool) -> u64 {
    let clear = |seed: &u64| {
        let (first, points, ..) = residual_block(*seed, [false, true], train);
        let (second, later, ..) = residual_block(*seed, [true, false], train);
        first.clearance(points[0]) > CLEARANCE && second.clearance(later[1]) > CLEARANCE
    };
    (0..1000).find(clear).expect("one seed in a thousand keeps clear of zero")
}

#[test]
fn a_residual_block_in_training_has_its_slopes_as_gradients() {
    let seed = clear_seed(true);
    for kind in KINDS {
        let (setup, _, logits, wrt) = residual_block(seed, [true, true], true);
        setup.check("residual block", kind, logits, &wrt);
    }
}

#[test]
fn a_residual_without_relu_has_its_slopes_as_gradients() {
    // The first one stays: straight into another batch norm, its gamma and beta would have next to no effect.
    let (setup, _, logits, wrt) = residual_block(clear_seed(true), [true, false], true);
    setup.check("residual without relu", LossKind::CrossEntropy, logits, &wrt);
}

#[test]
fn a_residual_block_in_evaluation_has_its_slopes_as_gradients() {
    for relu in [[true, true], [false, false]] {
        let (setup, _, logits, wrt) = residual_block(clear_seed(false), relu, false);
        setup.check(&format!("evaluation, relu {relu:?}"), LossKind::Complementary, logits, &wrt);
    }
}

#[test]
fn features_are_standardised_with_the_right_gradient() {
    let mut setup = Setup::new(5, 9);
    let x = setup.normal("x", &[9, 12], 50.0, 1.0);
    let norm = setup.norm("bn", 12);
    let mut inputs = vec![x];
    inputs.extend(norm);
    let op = BatchNorm { eps: 1e-5, momentum: 0.1, relu: false, residual: false };
    let y = setup.graph.apply(op, &inputs).unwrap()[0];
    setup.check("rank 2", LossKind::Complementary, y, &[x, norm[0], norm[1]]);
}

#[test]
fn max_pooling_has_its_slopes_as_gradient() {
    let mut setup = Setup::new(6, 3);
    let x = setup.normal("x", &[3, 5, 4, 4], 0.0, 1.0);
    let y = setup.graph.apply(MaxPool(Window { kernel: 3, stride: 2, pad: 1 }), &[x]).unwrap()[0];
    let pooled = setup.graph.apply(GlobalAvgPool, &[y]).unwrap()[0];
    setup.check("max pool", LossKind::CrossEntropy, pooled, &[x]);
}

#[test]
fn attention_has_its_slope_as_gradient() {
    let mut setup = Setup::new(8, 3);
    let x = setup.normal("x", &[4, 3, 2, 8], 0.3, 1.0);
    let scale = setup.normal("scale", &[8], 1.0, 0.5);
    let teacher = setup.normal("teacher", &[4, 3, 2, 4], 0.0, 1.0);
    let weight = setup.set("weight", Tensor::new(Shape::f32(&[4]), vec![0.2, 1.5, 0.7, 0.0]));
    let student = setup.graph.apply(Multiply, &[x, scale]).unwrap()[0];
    let out = setup.graph.apply(Attention { beta: 3.0 }, &[student, teacher, weight]).unwrap();
    let grads = setup.graph.backward(&[(student, out[1])], &[x]).unwrap();
    let at = setup.run(None);
    let objective = |run: &Interpreter| -> f64 {
        run.get(out[0]).data.iter().zip(&run.get(weight).data).map(|(loss, weight)| loss * weight).sum()
    };
    let slope = |i| {
        let [above, below] = [STEP, -STEP].map(|by| objective(&setup.run(Some((x, i, by)))));
        (above - below) / (2.0 * STEP)
    };
    let found = at.get(grads[&x]);
    let slopes = Tensor::new(found.shape.clone(), (0..found.data.len()).map(slope).collect());
    let error = found.relative_error(&slopes);
    assert!(error <= ALLOWED && objective(&at) > 0.1, "{error:.2e}, objective {}", objective(&at));
}

/// What padding a batch relies on: a sample that weighs nothing cannot spoil the gradient.
#[test]
fn garbage_that_weighs_nothing_gives_no_gradient() {
    for kind in KINDS {
        let mut graph = Graph::new();
        let logits = graph.input("logits", Shape::f32(&[3, 2]));
        let labels = graph.input("labels", Shape::u32(&[3]));
        let weight = graph.input("weight", Shape::f32(&[3]));
        let out = graph.apply(Loss { kind }, &[logits, labels, weight]).unwrap();
        let mut run = Interpreter::new(&graph);
        run.set(logits, Tensor::new(Shape::f32(&[3, 2]), vec![1.0, 2.0, f64::INFINITY, f64::NAN, 3.0, 1.0]));
        run.set(labels, Tensor::new(Shape::u32(&[3]), vec![0.0, 1.0, 2.0]));
        run.set(weight, Tensor::new(Shape::f32(&[3]), vec![1.0, 0.0, 1.0]));
        run.run();
        let grad = &run.get(out[1]).data;
        assert!(grad[0].abs() > 1e-3 && grad[2..].iter().all(|g| *g == 0.0), "{kind:?}: {grad:?}");
        assert_eq!(run.get(out[0]).data[2], 0.0, "{kind:?}: a label out of range has no loss");
    }
}

/// The sums of three seeds are two nodes more, and no part of what is gone back through.
#[test]
fn the_gradients_of_three_losses_add_up() {
    let mut s = Setup::new(3, 4);
    let logits = s.normal("logits", &[4, 3], 0.0, 1.0);
    let [_, seed, _] = s.loss(LossKind::CrossEntropy, logits);
    let grads = s.graph.backward(&[(logits, seed), (logits, seed), (logits, seed)], &[logits]).unwrap();
    let run = s.run(None);
    let (sum, one) = (run.get(grads[&logits]), run.get(seed));
    sum.data.iter().zip(&one.data).for_each(|(sum, one)| assert!((sum - 3.0 * one).abs() <= 1e-12));
}
