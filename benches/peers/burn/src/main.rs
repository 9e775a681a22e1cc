//! Times in Burn what `dau bench --step` times: a training step and inference of ResNet-18 with the CIFAR stem, on wgpu.
//! Prints one line of JSON. `burn-step [--width 64] [--batch 64] [--image-size 32]`

use std::time::Instant;

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::prelude::*;
use burn::tensor::activation::relu;
use burn::tensor::{DeviceKind, TensorData};
use serde_json::{Value, json};

/// As `dau bench --step`: the median of 5 samples of 4 batches, after one to warm up.
const SAMPLES: usize = 5;
const STEPS: usize = 4;
const CLASSES: usize = 10;

#[derive(Module, Debug)]
struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm,
}

impl ConvNorm {
    fn new(from: usize, to: usize, kernel: usize, stride: usize, device: &Device) -> ConvNorm {
        let pad = kernel / 2;
        let conv = Conv2dConfig::new([from, to], [kernel; 2])
            .with_stride([stride; 2])
            .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
            .with_bias(false);
        ConvNorm { conv: conv.init(device), norm: BatchNormConfig::new(to).init(device) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.norm.forward(self.conv.forward(x))
    }
}

#[derive(Module, Debug)]
struct Block {
    first: ConvNorm,
    second: ConvNorm,
    shortcut: Option<ConvNorm>,
}

impl Block {
    fn new(from: usize, to: usize, stride: usize, device: &Device) -> Block {
        Block {
            first: ConvNorm::new(from, to, 3, stride, device),
            second: ConvNorm::new(to, to, 3, 1, device),
            shortcut: (stride != 1 || from != to).then(|| ConvNorm::new(from, to, 1, stride, device)),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.second.forward(relu(self.first.forward(x.clone())));
        let shortcut = match &self.shortcut {
            Some(project) => project.forward(x),
            None => x,
        };
        relu(y + shortcut)
    }
}

#[derive(Module, Debug)]
struct ResNet18 {
    stem: ConvNorm,
    blocks: Vec<Block>,
    linear: Linear,
}

impl ResNet18 {
    fn new(width: usize, device: &Device) -> ResNet18 {
        let mut from = width;
        let mut blocks = Vec::new();
        for stage in 0..4 {
            let to = width << stage;
            blocks.push(Block::new(from, to, if stage == 0 { 1 } else { 2 }, device));
            blocks.push(Block::new(to, to, 1, device));
            from = to;
        }
        let linear = LinearConfig::new(from, CLASSES).init(device);
        ResNet18 { stem: ConvNorm::new(3, width, 3, 1, device), blocks, linear }
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.blocks.iter().fold(relu(self.stem.forward(images)), |x, block| block.forward(x));
        let [n, channels, ..] = x.dims();
        self.linear.forward(x.mean_dims(&[2, 3]).reshape([n, channels]))
    }
}

/// Images as a data loader gives them, uploaded anew for each step as in dau.
fn upload(pixels: &TensorData, device: &Device) -> Tensor<4> {
    let x = Tensor::<4, Int>::from_data(pixels.clone(), device).float();
    ((x / 255.0 - 0.5) / 0.25).permute([0, 3, 1, 2])
}

/// Milliseconds of one batch.
fn median_ms(mut sample: impl FnMut()) -> f64 {
    sample();
    let mut seconds: Vec<f64> = (0..SAMPLES)
        .map(|_| {
            let start = Instant::now();
            sample();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    1e3 * seconds[SAMPLES / 2] / STEPS as f64
}

/// The value of `--name`, or what it is without.
fn option(name: &str, default: usize) -> Result<usize, String> {
    let mut args = std::env::args().skip_while(|arg| arg != name);
    if args.next().is_none() {
        return Ok(default);
    }
    let value = args.next().unwrap_or_default();
    value.parse().ok().filter(|n| *n > 0).ok_or(format!("{name} {value}: give a whole number of 1 or more"))
}

/// Burn's version, from the lock file that this was built with.
fn version() -> &'static str {
    let lock = include_str!("../Cargo.lock");
    lock.split_once("name = \"burn\"\nversion = \"").and_then(|(_, rest)| rest.split('"').next()).unwrap_or("unknown")
}

fn main() -> Result<(), String> {
    let [width, batch, size] = [option("--width", 64)?, option("--batch", 64)?, option("--image-size", 32)?];
    let plain = Device::wgpu(DeviceKind::DefaultDevice);
    let device = plain.clone().autodiff();

    // Any numbers do.
    let bytes: Vec<u8> = (0..batch * size * size * 3).map(|i| (i * 2_654_435_761 >> 7) as u8).collect();
    let pixels = TensorData::new(bytes, [batch, size, size, 3]);
    let labels = TensorData::new((0..batch).map(|i| (i % CLASSES) as i32).collect::<Vec<_>>(), [batch]);

    let mut network = ResNet18::new(width, &device);
    let loss = CrossEntropyLossConfig::new().init(&device);
    let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0).with_nesterov(true);
    let mut sgd = SgdConfig::new().with_momentum(Some(momentum)).with_weight_decay(Some(WeightDecayConfig::new(5e-4))).init();

    let training = median_ms(|| {
        let mut losses = Vec::new();
        for _ in 0..STEPS {
            let targets = Tensor::<1, Int>::from_data(labels.clone(), &device);
            let value = loss.forward(network.forward(upload(&pixels, &device)), targets);
            let grads = GradientsParams::from_grads(value.backward(), &network);
            network = sgd.step(1e-3, network.clone(), grads);
            losses.push(value.detach());
        }
        // Reading waits for all of it.
        let _ = Tensor::cat(losses, 0).into_data();
        if let Err(e) = plain.sync() {
            panic!("the device failed: {e:?}");
        }
    });
    let network = network.valid();
    let inference = median_ms(|| {
        let logits = (0..STEPS).map(|_| network.forward(upload(&pixels, &plain))).collect();
        let _ = Tensor::cat(logits, 0).into_data();
    });

    let speed = |ms: f64| -> Value { json!({"ms": ms, "images_per_second": 1e3 * batch as f64 / ms}) };
    let line = json!({
        "peer": "burn",
        "adapter": format!("{plain:?}"),
        "versions": {"burn": version()},
        "width": width,
        "batch": batch,
        "image_size": size,
        "mode": "fp32",
        "training": speed(training),
        "inference": speed(inference),
    });
    println!("{line}");
    Ok(())
}
