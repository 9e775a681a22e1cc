//! Ops on this machine's adapter against PyTorch in float64 (`tests/golden/README.md` lists the cases).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::collections::HashMap;

use common::nhwc;
use dau::gpu::Staging;
use dau::graph::{Elem, Graph, Plan, Shape, Tensor, Value, Variables};
use dau::kernel::Kernels;
use dau::nn::ParamKind;
use dau::ops::{Adam, BatchNorm, BatchNormEval, Conv2d, GlobalAvgPool, Linear, Loss, LossKind, MaxPool, Sgd, Window};
use safetensors::{Dtype, SafeTensors};

const ALLOWED: f64 = 1e-5;

/// One case of the file: its tensors by name; activations NHWC where PyTorch has NCHW, weights as PyTorch has them.
struct Golden {
    name: String,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    /// The cases of `op`, in the order of their names.
    fn cases(op: &str) -> Vec<Golden> {
        let file = std::fs::read("tests/golden/ops.safetensors").expect("the golden file is part of the repository");
        let file = SafeTensors::deserialize(&file).expect("a safetensors file");
        let mut cases: Vec<Golden> = Vec::new();
        let mut names = file.names();
        names.sort();
        for name in names {
            let parts: Vec<&str> = name.split('/').collect();
            let &[of, case, tensor] = &parts[..] else { panic!("{name} is not op/case/tensor") };
            if of != op {
                continue;
            }
            if cases.last().is_none_or(|c| c.name != format!("{op}/{case}")) {
                cases.push(Golden { name: format!("{op}/{case}"), tensors: HashMap::new() });
            }
            let view = file.tensor(name).expect("a listed tensor");
            let elem = if view.dtype() == Dtype::I32 { Elem::U32 } else { Elem::F32 };
            let read = Tensor::from_bytes(Shape { dims: view.shape().to_vec(), elem }, view.data());
            let read = if ["w", "dw"].contains(&tensor) { read } else { nhwc(read) };
            cases.last_mut().unwrap().tensors.insert(tensor.to_string(), read);
        }
        assert!(!cases.is_empty(), "no case of {op}");
        cases
    }

    fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{} has no {name}", self.name))
    }

    /// Compares `found` with the file and prints the error.
    fn compare(&self, name: &str, found: &Tensor) {
        let error = found.relative_error(self.get(name));
        println!("{}/{name}: {error:.1e}", self.name);
        assert!(error <= ALLOWED, "{}/{name}: relative error {error:.2e}, allowed {ALLOWED:.0e}", self.name);
    }
}

/// A graph on the device whose inputs are all variables, so that ops may change them.
struct Bench {
    kernels: Kernels,
    graph: Graph,
    variables: Variables,
}

impl Bench {
    fn new() -> Bench {
        Bench::on(&common::kernels())
    }

    fn on(kernels: &Kernels) -> Bench {
        Bench { kernels: kernels.clone(), graph: Graph::new(), variables: Variables::new() }
    }

    fn variable(&mut self, name: &str, tensor: &Tensor) -> Value {
        let buffer = self.kernels.gpu().buffer(name, tensor.shape.len()).unwrap();
        self.kernels.gpu().upload(&buffer, &tensor.to_bytes());
        self.variables.insert(name.to_string(), buffer);
        self.graph.variable(name, tensor.shape.clone())
    }

    fn variables(&mut self, golden: &Golden, names: &[&str]) -> Vec<Value> {
        names.iter().map(|name| self.variable(name, golden.get(name))).collect()
    }

    /// Runs the graph and compares each value with the file's tensor of that name.
    fn compare(&self, golden: &Golden, scalars: &[(&str, f64)], values: &[(&str, Value)]) {
        let keep: Vec<Value> = values.iter().map(|(_, v)| *v).collect();
        for ((name, _), found) in values.iter().zip(self.run(scalars, &keep)) {
            golden.compare(name, &found);
        }
    }

    fn run(&self, scalars: &[(&str, f64)], values: &[Value]) -> Vec<Tensor> {
        let mut plan = Plan::new(&self.kernels, &self.graph, values, &self.variables).unwrap();
        for (name, value) in scalars {
            plan.set(name, *value).unwrap();
        }
        let bytes = plan.run_and_fetch(values).unwrap().wait(self.kernels.gpu()).unwrap();
        values.iter().zip(bytes).map(|(v, b)| Tensor::from_bytes(self.graph.shape(*v).clone(), &b)).collect()
    }
}

/// The same pixels with their channels cut to `channels`, or filled up with zeros.
fn with_channels(t: &Tensor, channels: usize) -> Tensor {
    let mut shape = t.shape.clone();
    *shape.dims.last_mut().expect("activations have channels") = channels;
    let pad = |pixel: &[f64]| pixel.iter().copied().chain(std::iter::repeat(0.0)).take(channels).collect::<Vec<_>>();
    Tensor::new(shape, t.data.chunks_exact(t.shape.last()).flat_map(pad).collect())
}

/// `t` with `convert` applied to its elements, as a tensor of `shape`.
fn converted(t: &Tensor, shape: Shape, convert: impl Fn(&[f32]) -> Vec<f32>) -> Tensor {
    let data: Vec<f32> = t.data.iter().map(|x| *x as f32).collect();
    Tensor::new(shape, convert(&data).into_iter().map(f64::from).collect())
}

fn conv2d_agrees_with_pytorch(kernels: &Kernels) {
    let cases = Golden::cases("conv2d");
    assert_eq!(cases.len(), 8);
    for golden in cases {
        let stride = if golden.name.contains("s2") { 2 } else { 1 };
        let &[out, inputs, kernel, _] = &golden.get("w").shape.dims[..] else { panic!("weights are OIHW") };
        let kind = ParamKind::Conv { out, inputs, kernel };
        let device_w = converted(golden.get("w"), kind.device_shape(), |w| kind.to_device(w));
        let mut bench = Bench::on(kernels);
        let x = bench.variable("x", &with_channels(golden.get("x"), inputs.next_multiple_of(4)));
        let w = bench.variable("w", &device_w);
        let gy = bench.variable("gy", golden.get("gy"));
        let y = bench.graph.apply(Conv2d { stride, pad: (kernel / 2) as u32 }, &[x, w]).unwrap()[0];
        let grads = bench.graph.backward(&[(y, gy)], &[x, w]).unwrap();
        let found = bench.run(&[], &[y, grads[&x], grads[&w]]);
        golden.compare("y", &found[0]);
        golden.compare("dx", &with_channels(&found[1], inputs));
        golden.compare("dw", &converted(&found[2], Shape::f32(&kind.torch_shape()), |w| kind.to_torch(w)));
        // Padded channels are zero in x, so their weights, zero too, must stay so.
        let returned = converted(&found[2], kind.device_shape(), |w| kind.to_device(&kind.to_torch(w)));
        assert_eq!(returned, found[2], "{}: a padded weight has a gradient", golden.name);
    }
}

#[test]
fn conv2d_agrees_with_pytorch_in_the_adapters_own_staging() {
    conv2d_agrees_with_pytorch(&common::kernels());
}

#[test]
fn conv2d_agrees_with_pytorch_with_workgroup_tiles() {
    conv2d_agrees_with_pytorch(&common::kernels_with(Staging::WorkgroupTile));
}

#[test]
fn conv2d_agrees_with_pytorch_with_winograd_on_tiles() {
    conv2d_agrees_with_pytorch(&common::kernels_with(Staging::WinogradTile));
}

#[test]
fn conv2d_agrees_with_pytorch_with_register_blocks() {
    conv2d_agrees_with_pytorch(&common::kernels_with(Staging::RegisterBlock));
}

#[test]
fn batch_norm_agrees_with_pytorch() {
    for golden in Golden::cases("batch_norm") {
        let (relu, residual) = (golden.name.contains("relu"), golden.name.contains("residual"));
        let mut bench = Bench::new();
        let mut inputs = bench.variables(&golden, &["x", "gamma", "beta", "running_mean", "running_var"]);
        if residual {
            inputs.extend(bench.variables(&golden, &["residual"]));
        }
        if golden.name.contains("eval") {
            let y = bench.graph.apply(BatchNormEval { eps: 1e-5, relu, residual }, &inputs).unwrap()[0];
            bench.compare(&golden, &[], &[("y", y)]);
            continue;
        }
        let y = bench.graph.apply(BatchNorm { eps: 1e-5, momentum: 0.1, relu, residual }, &inputs).unwrap()[0];
        let gy = bench.variable("gy", golden.get("gy"));
        let grads = bench.graph.backward(&[(y, gy)], &inputs).unwrap();
        let mut values = vec![
            ("y", y),
            ("new_running_mean", inputs[3]),
            ("new_running_var", inputs[4]),
            ("dx", grads[&inputs[0]]),
            ("dgamma", grads[&inputs[1]]),
            ("dbeta", grads[&inputs[2]]),
        ];
        if residual {
            values.push(("dresidual", grads[&inputs[5]]));
        }
        let samples = golden.get("x").shape.dims[0] as f64;
        bench.compare(&golden, &[("n_valid", samples)], &values);
    }
}

#[test]
fn global_avg_pool_agrees_with_pytorch() {
    for golden in Golden::cases("global_avg_pool") {
        let mut bench = Bench::new();
        let inputs = bench.variables(&golden, &["x", "gy"]);
        let y = bench.graph.apply(GlobalAvgPool, &inputs[..1]).unwrap()[0];
        let grads = bench.graph.backward(&[(y, inputs[1])], &inputs[..1]).unwrap();
        bench.compare(&golden, &[], &[("y", y), ("dx", grads[&inputs[0]])]);
    }
}

#[test]
fn max_pool_agrees_with_pytorch_ties_included() {
    for golden in Golden::cases("max_pool") {
        let mut bench = Bench::new();
        let inputs = bench.variables(&golden, &["x", "gy"]);
        let y = bench.graph.apply(MaxPool(Window { kernel: 3, stride: 2, pad: 1 }), &inputs[..1]).unwrap()[0];
        let grads = bench.graph.backward(&[(y, inputs[1])], &inputs[..1]).unwrap();
        bench.compare(&golden, &[], &[("y", y), ("dx", grads[&inputs[0]])]);
    }
}

#[test]
fn linear_agrees_with_pytorch() {
    for golden in Golden::cases("linear") {
        let mut bench = Bench::new();
        let inputs = bench.variables(&golden, &["x", "w", "b"]);
        let gy = bench.variable("gy", golden.get("gy"));
        let y = bench.graph.apply(Linear, &inputs).unwrap()[0];
        let grads = bench.graph.backward(&[(y, gy)], &inputs).unwrap();
        let values = [("y", y), ("dx", grads[&inputs[0]]), ("dw", grads[&inputs[1]]), ("db", grads[&inputs[2]])];
        bench.compare(&golden, &[], &values);
    }
}

#[test]
fn losses_agree_with_pytorch() {
    for golden in Golden::cases("losses") {
        let case = golden.name.trim_start_matches("losses/").to_string();
        let kind = match case.as_str() {
            "ce" | "ce_extreme" => LossKind::CrossEntropy,
            "cce" | "cce_extreme" => LossKind::Complementary,
            "gga" => LossKind::GradientAscent,
            "lga" => LossKind::LocalAscent { level: 0.5 },
            "flooding_above" | "flooding_below" => LossKind::Flooding { level: 0.5 },
            "reweighed" => LossKind::Reweighed,
            _ => panic!("unknown loss {case}"),
        };
        let mut bench = Bench::new();
        let inputs = bench.variables(&golden, &["logits", "labels", "weight"]);
        let outputs = bench.graph.apply(Loss { kind }, &inputs).unwrap();
        let found = bench.run(&[], &outputs);
        golden.compare("loss", &found[0]);
        golden.compare("dlogits", &found[1]);
        if golden.tensors.contains_key("total") {
            let sum: f64 = found[0].data.iter().zip(&golden.get("weight").data).map(|(l, w)| l * w).sum();
            golden.compare("total", &Tensor::new(Shape::f32(&[1]), vec![(sum - 0.5).abs() + 0.5]));
        }
    }
}

/// Three steps from param0 with the file's gradients; `apply` adds the step to the graph, `scalars` are those of step t.
fn three_steps(
    golden: &Golden,
    state: &[&str],
    apply: impl Fn(&mut Graph, &[Value]),
    scalars: impl Fn(i32) -> Vec<(&'static str, f64)>,
) {
    let mut bench = Bench::new();
    let start = golden.get("param0");
    let mut inputs = vec![bench.variable("param", start), bench.variable("grad", golden.get("g0"))];
    inputs.extend(state.iter().map(|name| bench.variable(name, &Tensor::zeros(start.shape.clone()))));
    apply(&mut bench.graph, &inputs);
    for step in 1..=3 {
        let grad = golden.get(&format!("g{}", step - 1));
        bench.kernels.gpu().upload(&bench.variables["grad"], &grad.to_bytes());
        let param = bench.run(&scalars(step), &inputs[..1]).remove(0);
        golden.compare(&format!("param{step}"), &param);
    }
}

#[test]
fn sgd_agrees_with_pytorch() {
    for golden in Golden::cases("sgd") {
        let nesterov = golden.name.contains("nesterov");
        let weight_decay = if golden.name.contains("weight_decay") { 0.05 } else { 0.0 };
        let apply = |g: &mut Graph, inputs: &[Value]| {
            g.apply(Sgd { momentum: 0.9, nesterov, weight_decay }, inputs).unwrap();
        };
        three_steps(&golden, &["velocity"], apply, |_| vec![("lr", 0.1)]);
    }
}

#[test]
fn adam_agrees_with_pytorch() {
    for golden in Golden::cases("adam") {
        let weight_decay = if golden.name.contains("weight_decay") { 0.06 } else { 0.0 };
        let apply = |g: &mut Graph, inputs: &[Value]| {
            g.apply(Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay }, inputs).unwrap();
        };
        let scalars = |t| vec![("lr", 0.05), ("bias1", 1.0 - 0.9f64.powi(t)), ("bias2", 1.0 - 0.999f64.powi(t))];
        three_steps(&golden, &["m", "v"], apply, scalars);
    }
}
