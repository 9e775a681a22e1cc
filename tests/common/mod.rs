//! What the integration tests share.
#![allow(dead_code)]

use dau::data::{Dataset, LoadOptions, Spec, load};
use dau::gpu::{AdapterChoice, Gpu, Precision, Staging};
use dau::graph::{Shape, Tensor};
use dau::kernel::Kernels;
use dau::nn::ModelSpec;
use dau::train::Normalisation;

/// The machine's best adapter. No adapter fails the test: a run without one would prove nothing.
pub fn kernels() -> Kernels {
    open(AdapterChoice::default())
}

pub fn kernels_with(staging: Staging) -> Kernels {
    open(AdapterChoice { staging: Some(staging), ..Default::default() })
}

/// With mixed precision, where the best adapter offers it; else says so.
pub fn kernels_mixed() -> Option<Kernels> {
    let opened = Gpu::open(&AdapterChoice { precision: Precision::Mixed, ..Default::default() });
    opened.inspect_err(|e| println!("not run: {e}")).ok().map(Kernels::new)
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
    ModelSpec { name: "resnet18".into(), width: 8, classes: 10, image_size: 16 }
}

/// The first `n` training images of the embedded digits, and how they are normalised.
pub fn digits(n: usize) -> (Dataset, Normalisation) {
    let spec = Spec::find("digits").expect("the digits are built in");
    let train = load(&spec, &LoadOptions::default()).expect("the digits are built in").train;
    (train.subset(&(0..n).collect::<Vec<_>>()), Normalisation { mean: spec.mean, std: spec.std })
}
