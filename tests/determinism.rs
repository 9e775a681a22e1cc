//! The same seed gives the same network, bit for bit; and padding a batch changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use common::{digits, resnet_w8};
use dau::gpu::{Precision, Staging};
use dau::graph::{Shape, Tensor};
use dau::kernel::Kernels;
use dau::nn::Param;
use dau::ops::LossKind;
use dau::train::{Batch, Network, Part, SgdConfig, Silent, StepConfig, TrainConfig, TrainStep, fit};

fn values(network: &Network) -> Vec<(Param, Vec<f32>)> {
    network.params.read().expect("parameters can be read")
}

fn bits(network: &Network) -> Vec<(String, Vec<u32>)> {
    values(network).into_iter().map(|(p, v)| (p.name, v.into_iter().map(f32::to_bits).collect())).collect()
}

/// The weights after an epoch on 128 digits in batches of 48, 48 and 32, with random crops and flips.
fn after_an_epoch(kernels: &Kernels, init_seed: u64, seed: u64) -> Vec<(String, Vec<u32>)> {
    let (data, norm) = digits(128);
    let network = Network::new(kernels, &resnet_w8(), &norm, init_seed).unwrap();
    let start = bits(&network);
    let sgd = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4, crop_pad: 2, flip: true };
    let config = TrainConfig {
        stage: "train".into(),
        loss: LossKind::CrossEntropy,
        epochs: 1,
        batch: 48,
        lr: 0.05,
        sgd,
        learns: vec![],
        rho: 0.0,
        seed,
    };
    fit(kernels, &network, &data, &config, &Silent, None).unwrap();
    let end = bits(&network);
    for ((name, before), (_, after)) in start.iter().zip(&end) {
        assert_ne!(before, after, "{name} was not trained");
    }
    assert_eq!(network.steps(), 3);
    end
}

#[test]
fn the_same_seed_gives_bit_identical_weights_after_an_epoch() {
    let forced = [Staging::WorkgroupTile, Staging::WinogradTile, Staging::RegisterBlock].map(common::kernels_with);
    let matrices: Vec<_> = [Precision::Mixed, Precision::Split].into_iter().filter_map(common::kernels_with_matrices).collect();
    for kernels in [common::kernels()].iter().chain(&forced).chain(&matrices) {
        let (first, second) = (after_an_epoch(kernels, 1, 2), after_an_epoch(kernels, 1, 2));
        for ((name, a), (_, b)) in first.iter().zip(&second) {
            assert_eq!(a, b, "{name}");
        }
    }
}

#[test]
fn another_seed_gives_other_weights() {
    let differ = |a: &[(String, Vec<u32>)], b: &[(String, Vec<u32>)]| a.iter().zip(b).all(|(a, b)| a.1 != b.1);
    let kernels = common::kernels();
    let one = after_an_epoch(&kernels, 1, 2);
    assert!(differ(&one, &after_an_epoch(&kernels, 1, 3)), "the seed of the training decides order and augmentation");
    assert!(differ(&one, &after_an_epoch(&kernels, 4, 2)), "the seed of the network decides its start");
}

/// A step without momentum, whose velocities keep nothing of the steps before.
fn step(kernels: &Kernels, network: &Network, batch: usize) -> TrainStep {
    let sgd = SgdConfig { momentum: 0.0, nesterov: false, weight_decay: 5e-4, crop_pad: 0, flip: false };
    TrainStep::new(kernels, network, &StepConfig::new(batch, &[LossKind::CrossEntropy], &sgd)).unwrap()
}

#[test]
fn a_padded_batch_trains_as_one_of_its_own_size_does() {
    let kernels = common::kernels();
    let (data, norm) = digits(40);
    let indices = [3, 14, 15, 9, 26];
    let weight = 1.0 / indices.len() as f32;
    let start = Network::new(&kernels, &resnet_w8(), &norm, 7).unwrap();
    let run = |step: &mut TrainStep, network: &Network, indices: &[usize], lr: f64| -> Vec<f32> {
        let batch = Batch::new(&data, &[Part { indices, weight }]);
        let bytes = step.run(network, &batch, lr, 0).unwrap().wait(kernels.gpu()).unwrap();
        bytemuck::pod_collect_to_vec::<u8, f32>(&bytes[0])[..indices.len()].to_vec()
    };

    let exact = start.duplicate(&kernels).unwrap();
    let exact_losses = run(&mut step(&kernels, &exact, 5), &exact, &indices, 0.5);

    // A full batch first, so that other images lie where the padding will be; then back to the start.
    let padded = start.duplicate(&kernels).unwrap();
    let mut padded_step = step(&kernels, &padded, 8);
    run(&mut padded_step, &padded, &[30, 31, 32, 33, 34, 35, 36, 37], 0.5);
    for (param, values) in values(&start) {
        padded.params.write(&param, &values);
    }
    let padded_losses = run(&mut padded_step, &padded, &indices, 0.5);

    let tensor = |v: &[f32]| Tensor::new(Shape::f32(&[v.len()]), v.iter().map(|x| f64::from(*x)).collect());
    assert!(tensor(&padded_losses).relative_error(&tensor(&exact_losses)) <= 1e-5, "{padded_losses:?} {exact_losses:?}");
    let mut worst = (0.0, String::new());
    for (((p, before), (_, e)), (_, found)) in values(&start).iter().zip(&values(&exact)).zip(&values(&padded)) {
        assert!(tensor(e).relative_error(&tensor(before)) > 1e-3, "{} was hardly trained", p.name);
        let error = tensor(found).relative_error(&tensor(e));
        assert!(error <= 1e-5, "{}: relative error {error:.2e}", p.name);
        if error > worst.0 {
            worst = (error, p.name.clone());
        }
    }
    println!("the worst: {worst:?}");
}
