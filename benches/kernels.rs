//! Kernels alone, at shapes of ResNet-18 of width 64 and batch 32: `cargo bench --bench kernels -- conv2d`.

use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dau::gpu::{AdapterChoice, Gpu};
use dau::graph::{Op, Shape};
use dau::kernel::Kernels;
use dau::ops::{Alone, BatchNorm, Conv2d, Conv2dInputGrad, Conv2dWeightGrad};

const BATCH: usize = 32;
/// Channels, and the height and width they have.
const STAGES: [[usize; 2]; 4] = [[64, 32], [128, 16], [256, 8], [512, 4]];

fn kernels() -> Kernels {
    Kernels::new(Gpu::open(&AdapterChoice::default()).unwrap_or_else(|e| panic!("benches need an adapter: {e}")))
}

/// Wall-clock time of as many runs as criterion asks for, in one submit each time.
fn bench(c: &mut Criterion, kernels: &Kernels, stage: [usize; 2], op: impl Op + 'static, inputs: &[Shape]) {
    let mut group = c.benchmark_group(op.name());
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(10);
    group.throughput(match op.flops(inputs) {
        0 => Throughput::Bytes(inputs.iter().map(Shape::bytes).sum()),
        flops => Throughput::Elements(flops),
    });
    let [channels, side] = stage;
    let mut alone = Alone::new(kernels, Arc::new(op), inputs).unwrap_or_else(|e| panic!("{e}"));
    group.bench_function(BenchmarkId::from_parameter(format!("{channels}@{side}x{side}")), |b| {
        b.iter_custom(|times| alone.repeat(times as usize).unwrap_or_else(|e| panic!("{e}")));
    });
}

fn convolutions(c: &mut Criterion) {
    let kernels = kernels();
    for stage in STAGES {
        let [channels, side] = stage;
        let image = || Shape::f32(&[BATCH, side, side, channels]);
        let weights = || Shape::f32(&[3, 3, channels, channels]);
        bench(c, &kernels, stage, Conv2d { stride: 1, pad: 1 }, &[image(), weights()]);
        bench(c, &kernels, stage, Conv2dInputGrad { stride: 1, pad: 1, input: [side, side] }, &[image(), weights()]);
        bench(c, &kernels, stage, Conv2dWeightGrad { stride: 1, pad: 1, kernel: 3 }, &[image(), image()]);
    }
}

fn batch_norms(c: &mut Criterion) {
    let kernels = kernels();
    for stage in STAGES {
        let [channels, side] = stage;
        let vector = || Shape::f32(&[channels]);
        let inputs = [Shape::f32(&[BATCH, side, side, channels]), vector(), vector(), vector(), vector()];
        let op = BatchNorm { eps: 1e-5, momentum: 0.1, relu: true, residual: false };
        bench(c, &kernels, stage, op, &inputs);
    }
}

criterion_group!(benches, convolutions, batch_norms);
criterion_main!(benches);
