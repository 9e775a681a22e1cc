//! A width-8 ResNet-18 on this machine's adapter against PyTorch in float64 (`tests/golden/README.md` has the keys).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::collections::BTreeSet;

use common::{Golden, assert_near, fetch, nhwc, resnet_w8};
use dau::data::Dataset;
use dau::gpu::{Precision, Staging};
use dau::graph::{Graph, Plan, Shape, Tensor, Value};
use dau::kernel::Kernels;
use dau::nn::{Built, ModelSpec, Param, ParamSet};
use dau::ops::{Loss, LossKind};
use dau::train::{Batch, Network, Normalisation, Part, SgdConfig, StepConfig, TrainStep};

/// Activations, gradients and logits of one batch.
const ALLOWED: f64 = 1e-4;
/// Losses of the training steps, and what they leave.
const ALLOWED_TRAINED: f64 = 1e-3;
/// Height and width of the images of the training steps.
const STEP_SIZE: usize = 6;

/// Before the names of the graph's variables.
const SCOPE: &str = "student/";

/// Activations and loss to within `forward`, gradients to within `backward`.
fn activations_and_gradients_agree(kernels: &Kernels, [forward, backward]: [f64; 2]) {
    let golden = Golden::open("resnet_w8");
    let mut graph = Graph::new();
    let images = graph.input("images", Shape::f32(&[6, 16, 16, 4]));
    let labels = graph.input("labels", Shape::u32(&[6]));
    let weight = graph.input("weight", Shape::f32(&[6]));
    let Built { outputs: out, params, activations, stages, .. } =
        resnet_w8().build_scoped(&mut graph, images, true, SCOPE).unwrap();
    let after = |layer: &str| activations.iter().find(|(name, _)| name == layer).expect("a layer of this name").1;
    let scoped = |graph: &Graph, p: &Param| graph.find_variable(&format!("{SCOPE}{}", p.name)).expect("in the graph");
    let loss = graph.apply(Loss { kind: LossKind::CrossEntropy }, &[out.logits, labels, weight]).unwrap();
    let trained: Vec<Param> = params.iter().filter(|p| p.kind.trainable()).cloned().collect();
    let values: Vec<Value> = trained.iter().map(|p| scoped(&graph, p)).collect();
    let grads = graph.backward(&[(out.logits, loss[1])], &values).unwrap();

    let mut wanted = vec![("stem".to_string(), after("bn1"))];
    wanted.extend((1..=4).map(|i| (format!("layer{i}"), after(&format!("layer{i}.1.bn2")))));
    assert_eq!(stages, wanted[1..].iter().map(|(_, value)| *value).collect::<Vec<_>>());
    wanted.extend([("pooled".to_string(), out.features), ("logits".to_string(), out.logits)]);
    assert_eq!(wanted.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>(), golden.names("act/"));
    assert_eq!(trained.iter().map(|p| p.name.clone()).collect::<BTreeSet<_>>(), golden.names("grad/"));

    let set = ParamSet::new(kernels.gpu(), params).unwrap();
    golden.initialise(&set);
    let keep: Vec<Value> = wanted.iter().map(|(_, v)| *v).chain([loss[0]]).chain(values.iter().map(|v| grads[v])).collect();
    let mut plan = Plan::new(kernels, &graph, &keep, &set.variables_in(SCOPE)).unwrap();
    plan.write(images, &golden.images("batch/x")).unwrap();
    plan.write(labels, &golden.labels("batch/labels")).unwrap();
    plan.write(weight, &[1.0f32 / 6.0; 6]).unwrap();
    plan.set("n_valid", 6.0).unwrap();
    let mut found = fetch(&mut plan, &graph, &keep).into_iter();

    for (name, _) in &wanted {
        assert_near(&format!("act/{name}"), &found.next().unwrap(), &nhwc(golden.get(&format!("act/{name}"))), forward);
    }
    let losses = found.next().unwrap().data;
    let mean = Tensor::new(Shape::f32(&[1]), vec![losses.iter().sum::<f64>() / 6.0]);
    assert_near("loss", &mean, &golden.get("loss"), forward);
    for (p, grad) in trained.iter().zip(found) {
        let device: Vec<f32> = grad.data.iter().map(|x| *x as f32).collect();
        let torch = p.kind.to_torch(&device).into_iter().map(f64::from).collect();
        let name = format!("grad/{}", p.name);
        assert_near(&name, &Tensor::new(Shape::f32(&p.kind.torch_shape()), torch), &golden.get(&name), backward);
    }
}

#[test]
fn activations_and_all_gradients_agree_with_pytorch_in_the_adapters_own_staging() {
    activations_and_gradients_agree(&common::kernels(), [ALLOWED; 2]);
}

#[test]
fn activations_and_all_gradients_agree_with_pytorch_with_workgroup_tiles() {
    activations_and_gradients_agree(&common::kernels_with(Staging::WorkgroupTile), [ALLOWED; 2]);
}

#[test]
fn activations_and_all_gradients_agree_with_pytorch_with_register_blocks() {
    activations_and_gradients_agree(&common::kernels_with(Staging::RegisterBlock), [ALLOWED; 2]);
}

/// The operands of a convolution in f16 change its output by at most sqrt(2) 2^-11 of it (`Case::allowed`), 20 of them one after the
/// other by sqrt(20) times that, e. A change of e puts about e of the values of each ReLU, which are normal as batch norm leaves
/// them, on its other side, and so changes e of a gradient's terms altogether: sqrt(e) of the gradient for each of 17 ReLUs.
#[test]
fn activations_and_all_gradients_agree_with_pytorch_with_cooperative_matrices() {
    let Some(kernels) = common::kernels_with_matrices(Precision::Mixed) else { return };
    let forward = 20f64.sqrt() * 2f64.sqrt() * 2f64.powi(-11);
    activations_and_gradients_agree(&kernels, [forward, (17.0 * forward).sqrt()]);
}

#[test]
fn activations_and_all_gradients_agree_with_pytorch_with_split_operands_as_with_f32() {
    let Some(kernels) = common::kernels_with_matrices(Precision::Split) else { return };
    activations_and_gradients_agree(&kernels, [ALLOWED; 2]);
}

#[test]
fn logits_in_evaluation_agree_with_pytorch() {
    let forced = [Staging::WorkgroupTile, Staging::RegisterBlock].map(common::kernels_with);
    for kernels in std::iter::once(common::kernels()).chain(forced) {
        let golden = Golden::open("resnet_w8");
        let mut graph = Graph::new();
        let images = graph.input("images", Shape::f32(&[6, 16, 16, 4]));
        let (out, params) = resnet_w8().build(&mut graph, images, false).unwrap();
        let set = ParamSet::new(kernels.gpu(), params).unwrap();
        golden.initialise(&set);
        let mut plan = Plan::new(&kernels, &graph, &[out.logits], set.variables()).unwrap();
        plan.write(images, &golden.images("batch/x")).unwrap();
        let found = fetch(&mut plan, &graph, &[out.logits]).remove(0);
        assert_near("eval_logits", &found, &golden.get("eval_logits"), ALLOWED);
    }
}

/// The pool of images for the training steps.
fn pool(golden: &Golden) -> Dataset {
    let labels = golden.labels("train/labels");
    Dataset {
        name: "golden".into(),
        size: STEP_SIZE,
        classes: (0..10).map(|c| c.to_string()).collect(),
        pixels: golden.file().tensor("train/images").expect("listed").data().to_vec(),
        paths: vec![String::new(); labels.len()],
        labels,
    }
}

fn twenty_steps_agree(kernels: &Kernels) {
    let golden = Golden::open("resnet_w8");
    let norm = Normalisation { mean: [0.4914, 0.4822, 0.4465], std: [0.2470, 0.2430, 0.2610] };
    let spec = ModelSpec { image_size: STEP_SIZE, ..resnet_w8() };
    let network = Network::new(kernels, &spec, &norm, 0).unwrap();
    golden.initialise(&network.params);
    let sgd = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4, crop_pad: 0, flip: false };
    let mut step = TrainStep::new(kernels, &network, &StepConfig::new(16, &[LossKind::CrossEntropy], &sgd)).unwrap();
    let data = pool(&golden);
    let expected = golden.get("steps_losses").data;
    assert_eq!((expected.len(), data.len()), (20, 64));
    for (i, expected) in expected.into_iter().enumerate() {
        let indices: Vec<usize> = (0..16).map(|j| (16 * i + j) % 64).collect();
        let parts = [Part { indices: &indices, weight: 1.0 / 16.0 }];
        let bytes = step.run(&network, &Batch::new(&data, &parts), 0.02, 0).unwrap().wait(kernels.gpu()).unwrap();
        let losses: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes[0]);
        let mean = losses.iter().map(|l| f64::from(*l)).sum::<f64>() / 16.0;
        let scalar = |x| Tensor::new(Shape::f32(&[1]), vec![x]);
        assert_near(&format!("loss of step {i}"), &scalar(mean), &scalar(expected), ALLOWED_TRAINED);
    }
    let left = network.params.read().unwrap();
    let names = golden.names("steps_final/");
    assert_eq!(names.len(), 2);
    for name in names {
        let (p, values) = left.iter().find(|(p, _)| p.name == name).expect("a parameter of this name");
        let found = Tensor::new(Shape::f32(&p.kind.torch_shape()), values.iter().map(|x| f64::from(*x)).collect());
        assert_near(&format!("{name} after the steps"), &found, &golden.get(&format!("steps_final/{name}")), ALLOWED_TRAINED);
    }
    assert_eq!(network.steps(), 20);
}

#[test]
fn twenty_steps_of_sgd_agree_with_pytorch_in_the_adapters_own_staging() {
    twenty_steps_agree(&common::kernels());
}

#[test]
fn twenty_steps_of_sgd_agree_with_pytorch_with_workgroup_tiles() {
    twenty_steps_agree(&common::kernels_with(Staging::WorkgroupTile));
}

#[test]
fn twenty_steps_of_sgd_agree_with_pytorch_with_register_blocks() {
    twenty_steps_agree(&common::kernels_with(Staging::RegisterBlock));
}
