//! What the integration tests share.
#![allow(dead_code)]

pub mod program;

use std::collections::BTreeSet;
use std::io::Write;

use dau::data::{Dataset, LoadOptions, Spec, load};
use dau::gpu::{AdapterChoice, Gpu, Precision, Staging};
use dau::graph::{Elem, Graph, Plan, Shape, Tensor, Value};
use dau::kernel::Kernels;
use dau::nn::{ModelSpec, ParamKind, ParamSet};
use dau::train::Normalisation;
use safetensors::{Dtype, SafeTensors};

/// The machine's best adapter. No adapter fails the test: a run without one would prove nothing.
pub fn kernels() -> Kernels {
    open(AdapterChoice::default())
}

pub fn kernels_with(staging: Staging) -> Kernels {
    open(AdapterChoice { staging: Some(staging), ..Default::default() })
}

/// With matrix units, in mixed or split precision, where the best adapter offers these; else says so.
pub fn kernels_with_matrices(precision: Precision) -> Option<Kernels> {
    let opened = Gpu::open(&AdapterChoice { precision, ..Default::default() });
    opened.inspect_err(|e| skipped(&e.to_string())).ok().map(Kernels::new)
}

/// Says that the running test, or a part of it, is left out; past the harness, which keeps to itself what a test that passes prints.
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    writeln!(std::io::stderr(), "skipped: {}: {why}", thread.name().unwrap_or("a test")).expect("stderr takes a line");
}

fn open(choice: AdapterChoice) -> Kernels {
    let gpu = Gpu::open(&choice).unwrap_or_else(|e| panic!("the tests need an adapter: {e}"));
    Kernels::new(gpu)
}

/// Activations of rank 4 from PyTorch's order to ours, NCHW -> NHWC; other tensors as they are.
pub fn nhwc(t: Tensor) -> Tensor {
    let &[n, c, h, w] = &t.shape.dims[..] else { return t };
    let mut out = Tensor::zeros(Shape::f32(&[n, h, w, c]));
    for (i, v) in t.data.iter().enumerate() {
        let (image, channel, pixel) = (i / (c * h * w), i / (h * w) % c, i % (h * w));
        out.data[(image * h * w + pixel) * c + channel] = *v;
    }
    out
}

/// The smallest network that the tests train: ResNet-18 of width 8, for 16x16 images of ten classes.
pub fn resnet_w8() -> ModelSpec {
    ModelSpec::new("resnet18", 8, 10, 16)
}

/// The first `n` training images of the embedded digits, and how they are normalised.
pub fn digits(n: usize) -> (Dataset, Normalisation) {
    let spec = Spec::find("digits").expect("the digits are built in");
    let train = load(&spec, &LoadOptions::default()).expect("the digits are built in").train;
    (train.subset(&(0..n).collect::<Vec<_>>()), Normalisation { mean: spec.mean, std: spec.std })
}

/// A golden file.
pub struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    pub fn open(name: &str) -> Golden {
        let path = format!("tests/golden/{name}.safetensors");
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{path} is part of the repository: {e}"));
        Golden { bytes }
    }

    pub fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("a safetensors file")
    }

    /// What follows `prefix` in the names that begin with it.
    pub fn names(&self, prefix: &str) -> BTreeSet<String> {
        self.file().names().iter().filter_map(|name| name.strip_prefix(prefix)).map(String::from).collect()
    }

    /// A tensor in PyTorch's layout.
    pub fn get(&self, name: &str) -> Tensor {
        let file = self.file();
        let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let elem = if view.dtype() == Dtype::I32 { Elem::U32 } else { Elem::F32 };
        Tensor::from_bytes(Shape { dims: view.shape().to_vec(), elem }, view.data())
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.get(name).data.iter().map(|x| *x as f32).collect()
    }

    pub fn labels(&self, name: &str) -> Vec<u32> {
        self.get(name).data.iter().map(|x| *x as u32).collect()
    }

    /// Images of normal noise as a network takes them: NHWC with a fourth channel of 0.
    pub fn images(&self, name: &str) -> Vec<f32> {
        let x = nhwc(self.get(name));
        x.data.chunks_exact(3).flat_map(|rgb| [rgb[0] as f32, rgb[1] as f32, rgb[2] as f32, 0.0]).collect()
    }

    /// Writes init/* to the parameters, which must be the same ones by name.
    pub fn initialise(&self, params: &ParamSet) {
        let ours: BTreeSet<String> = params.params().iter().map(|p| p.name.clone()).collect();
        assert_eq!(ours, self.names("init/"));
        for p in params.params().iter().filter(|p| p.kind != ParamKind::Counter) {
            assert_eq!(self.get(&format!("init/{}", p.name)).shape.dims, p.kind.torch_shape(), "{}", p.name);
            params.write(p, &self.floats(&format!("init/{}", p.name)));
        }
    }
}

pub fn assert_near(what: &str, found: &Tensor, expected: &Tensor, allowed: f64) {
    assert_eq!(found.shape, expected.shape, "{what}");
    let error = found.relative_error(expected);
    println!("{what}: {error:.1e}");
    assert!(error <= allowed, "{what}: relative error {error:.2e}, allowed {allowed:.0e}");
}

/// Runs `plan` and fetches `values`.
pub fn fetch(plan: &mut Plan, graph: &Graph, values: &[Value]) -> Vec<Tensor> {
    let bytes = plan.run_and_fetch(values).unwrap().wait(plan.gpu()).unwrap();
    values.iter().zip(bytes).map(|(v, b)| Tensor::from_bytes(graph.shape(*v).clone(), &b)).collect()
}
