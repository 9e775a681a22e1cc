//! A training step of ResNet-18, width 16, batch 32, on 32x32 images: `cargo bench --bench step`.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dau::bench::Steps;
use dau::gpu::{AdapterChoice, Gpu};
use dau::kernel::Kernels;
use dau::nn::ModelSpec;

const BATCH: usize = 32;

fn step(c: &mut Criterion) {
    let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).unwrap_or_else(|e| panic!("benches need an adapter: {e}")));
    let spec = ModelSpec::new("resnet18", 16, 10, 32);
    let mut steps = Steps::new(&kernels, &spec, BATCH).unwrap_or_else(|e| panic!("{e}"));
    let mut group = c.benchmark_group("training step");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5)).sample_size(10);
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("resnet18, width 16, batch 32", |b| {
        b.iter_custom(|count| steps.train(count as usize).unwrap_or_else(|e| panic!("{e}")));
    });
}

criterion_group!(benches, step);
criterion_main!(benches);
