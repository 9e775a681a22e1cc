//! A small instance of each other network against PyTorch in float64: logits, loss, gradients (`tests/golden/README.md` has the keys).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use common::{Golden, assert_near, fetch};
use dau::gpu::Staging;
use dau::graph::{Graph, Plan, Shape, Tensor, Value};
use dau::kernel::Kernels;
use dau::nn::{MODELS, ModelSpec, Param, ParamSet, Stem};
use dau::ops::{Loss, LossKind};

/// PyTorch's own float32 differs by 3e-6.
const ALLOWED: f64 = 1e-4;
const BATCH: usize = 4;

fn golden(name: &str, width: usize, image_size: usize) -> (Golden, ModelSpec) {
    (Golden::open(&format!("network_{name}_{width}_{image_size}")), ModelSpec::new(name, width, 10, image_size))
}

fn training_agrees(kernels: &Kernels, (golden, spec): (Golden, ModelSpec)) {
    let size = spec.image_size;
    let mut graph = Graph::new();
    let images = graph.input("images", Shape::f32(&[BATCH, size, size, 4]));
    let labels = graph.input("labels", Shape::u32(&[BATCH]));
    let weight = graph.input("weight", Shape::f32(&[BATCH]));
    let (out, params) = spec.build(&mut graph, images, true).unwrap();
    let loss = graph.apply(Loss { kind: LossKind::CrossEntropy }, &[out.logits, labels, weight]).unwrap();
    let expected = golden.names("grad/");
    let trained: Vec<Param> = params.iter().filter(|p| expected.contains(&p.name)).cloned().collect();
    assert!(trained.len() == expected.len() && trained.len() > 30, "{} of {}", trained.len(), expected.len());
    let values: Vec<Value> = trained.iter().map(|p| graph.find_variable(&p.name).expect("in the graph")).collect();
    let grads = graph.backward(&[(out.logits, loss[1])], &values).unwrap();

    let set = ParamSet::new(kernels.gpu(), params).unwrap();
    golden.initialise(&set);
    let keep: Vec<Value> = [out.logits, loss[0]].into_iter().chain(values.iter().map(|v| grads[v])).collect();
    let mut plan = Plan::new(kernels, &graph, &keep, set.variables()).unwrap();
    plan.write(images, &golden.images("x")).unwrap();
    plan.write(labels, &golden.labels("labels")).unwrap();
    plan.write(weight, &[1.0 / BATCH as f32; BATCH]).unwrap();
    plan.set("n_valid", BATCH as f64).unwrap();
    let mut found = fetch(&mut plan, &graph, &keep).into_iter();
    assert_near("logits", &found.next().unwrap(), &golden.get("logits"), ALLOWED);
    let losses = found.next().unwrap().data;
    let mean = Tensor::new(Shape::f32(&[1]), vec![losses.iter().sum::<f64>() / BATCH as f64]);
    assert_near("loss", &mean, &golden.get("loss"), ALLOWED);
    for (p, grad) in trained.iter().zip(found) {
        let device: Vec<f32> = grad.data.iter().map(|x| *x as f32).collect();
        let torch = p.kind.to_torch(&device).into_iter().map(f64::from).collect();
        let name = format!("grad/{}", p.name);
        assert_near(&name, &Tensor::new(Shape::f32(&p.kind.torch_shape()), torch), &golden.get(&name), ALLOWED);
    }
}

fn evaluation_agrees(kernels: &Kernels, (golden, spec): (Golden, ModelSpec)) {
    let size = spec.image_size;
    let mut graph = Graph::new();
    let images = graph.input("images", Shape::f32(&[BATCH, size, size, 4]));
    let (out, params) = spec.build(&mut graph, images, false).unwrap();
    let set = ParamSet::new(kernels.gpu(), params).unwrap();
    golden.initialise(&set);
    let mut plan = Plan::new(kernels, &graph, &[out.logits], set.variables()).unwrap();
    plan.write(images, &golden.images("x")).unwrap();
    let found = fetch(&mut plan, &graph, &[out.logits]).remove(0);
    assert_near("eval_logits", &found, &golden.get("eval_logits"), ALLOWED);
}

fn agrees(name: &str, width: usize, size: usize) {
    both_agree(|| golden(name, width, size));
}

fn both_agree(case: impl Fn() -> (Golden, ModelSpec)) {
    let tile = common::kernels_with(Staging::WorkgroupTile);
    for kernels in [common::kernels(), tile] {
        training_agrees(&kernels, case());
        evaluation_agrees(&kernels, case());
    }
}

#[test]
fn resnet34_agrees_with_pytorch() {
    agrees("resnet34", 4, 16);
}

#[test]
fn resnet18_with_the_imagenet_stem_agrees_with_pytorch() {
    agrees("resnet18", 4, 64);
}

#[test]
fn resnet18_with_the_imagenet_stem_on_small_images_agrees_with_pytorch() {
    let spec = ModelSpec { stem: Stem::Large, ..ModelSpec::new("resnet18", 4, 10, 32) };
    both_agree(|| (Golden::open("network_resnet18_4_32_large"), spec.clone()));
}

#[test]
fn preact_resnet18_agrees_with_pytorch() {
    agrees("preact-resnet18", 4, 16);
}

#[test]
fn wide_resnet_agrees_with_pytorch() {
    agrees("wrn-16", 1, 16);
}

#[test]
fn the_standard_networks_have_as_many_weights_as_published() {
    // Millions: PyTorch's ResNet-18 and -34 with 1,000 classes, WRN-16-1, WRN-28-10 and WRN-40-2 of the paper's tables.
    for (name, width, classes, size, millions) in [
        ("resnet18", 64, 1000, 224, 11.69),
        ("resnet34", 64, 1000, 224, 21.80),
        ("resnet18", 64, 10, 32, 11.17),
        ("preact-resnet18", 64, 10, 32, 11.17),
        ("wrn-16", 1, 10, 32, 0.18),
        ("wrn-28", 10, 10, 32, 36.5),
        ("wrn-40", 2, 10, 32, 2.24),
    ] {
        let spec = ModelSpec::new(name, width, classes, size);
        let mut graph = Graph::new();
        let images = graph.input("images", Shape::f32(&[1, size, size, 4]));
        let params = spec.build(&mut graph, images, true).unwrap().1;
        let weights: usize =
            params.iter().filter(|p| p.kind.trainable()).map(|p| p.kind.torch_shape().iter().product::<usize>()).sum();
        let found = weights as f64 / 1e6;
        assert!((found - millions).abs() < 0.006 * millions.max(1.0), "{name} of width {width}: {found} million");
    }
    assert_eq!(MODELS.len(), 6);
}
