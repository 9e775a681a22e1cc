//! The memory plan's promises, and what a plan says when it cannot be built or run.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::sync::{Arc, LazyLock};

use common::resnet_w8;
use dau::gpu::{Caps, Matrix, Staging};
use dau::graph::{
    Footprint, Graph, GraphError, Interpreter, Launch, Lifetime, Lowered, Lowering, Op, Param, Plan, Scalars, Shape, Slot,
    Source, Tensor, Value, Variables, assign, groups, launches,
};
use dau::kernel::{KernelId, Kernels};
use dau::nn::ModelSpec;
use dau::ops::{Add, Conv2d, Conv2dInputGrad, Conv2dWeightGrad, LossKind, OPS, Sgd};
use dau::train::{
    Network, Normalisation, SgdConfig, StepConfig, TrainError, TrainStep, check_batch, images_at_once, training_graph,
};
use proptest::prelude::*;

static KERNELS: LazyLock<Kernels> = LazyLock::new(common::kernels);

fn overlap(a: &Lifetime, b: &Lifetime) -> bool {
    a.first <= b.last && b.first <= a.last
}

fn lifetimes() -> impl Strategy<Value = Vec<Lifetime>> {
    let one = (0usize..40, 0usize..12, 1u64..2000).prop_map(|(first, length, quads)| Lifetime {
        first,
        last: first + length,
        bytes: 4 * quads,
    });
    prop::collection::vec(one, 0..60)
}

proptest! {
    #[test]
    fn lifetimes_that_overlap_share_no_buffer_and_each_fits_its_own(lifetimes in lifetimes()) {
        let found = assign(&lifetimes);
        prop_assert_eq!(found.of.len(), lifetimes.len());
        for (i, a) in lifetimes.iter().enumerate() {
            prop_assert!(a.bytes <= found.buffers[found.of[i]], "{i} does not fit");
            for (j, b) in lifetimes.iter().enumerate().skip(i + 1) {
                prop_assert!(!overlap(a, b) || found.of[i] != found.of[j], "{a:?} and {b:?} share");
            }
        }
    }

    #[test]
    fn the_buffers_hold_what_lives_at_once_and_never_more_than_without_sharing(lifetimes in lifetimes()) {
        let found = assign(&lifetimes);
        let total: u64 = found.buffers.iter().sum();
        let live = |step: usize| lifetimes.iter().filter(|l| l.first <= step && step <= l.last).map(|l| l.bytes).sum::<u64>();
        prop_assert!(total >= (0..60).map(live).max().unwrap_or(0));
        prop_assert!(total <= lifetimes.iter().map(|l| l.bytes).sum());
        for (b, bytes) in found.buffers.iter().enumerate() {
            let largest = (0..lifetimes.len()).filter(|&i| found.of[i] == b).map(|i| lifetimes[i].bytes).max();
            prop_assert_eq!(Some(*bytes), largest, "a buffer is as large as its largest tenant");
        }
        prop_assert_eq!(found, assign(&lifetimes), "and always the same");
    }

    #[test]
    fn lifetimes_in_a_row_take_one_buffer(bytes in prop::collection::vec(1u64..1000, 1..20)) {
        let row: Vec<Lifetime> = bytes.iter().enumerate().map(|(i, &bytes)| Lifetime { first: i, last: i, bytes }).collect();
        prop_assert_eq!(assign(&row).buffers, vec![*bytes.iter().max().expect("at least one")]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Sums of earlier values in any order, some of them kept: a temporary overwritten too early would show. Whole numbers, so
    /// that f32 is exact.
    #[test]
    fn a_plan_with_shared_buffers_computes_what_the_interpreter_does(
        sums in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), prop::bool::weighted(0.2)), 1..24)
    ) {
        let mut graph = Graph::new();
        let shape = Shape::f32(&[67]);
        let mut values: Vec<Value> = ["a", "b", "c"].map(|name| graph.input(name, shape.clone())).into();
        let inputs = values.clone();
        let mut keep = Vec::new();
        for (a, b, kept) in &sums {
            // The last few values, so that numbers stay small and lifetimes are short.
            let recent = &values[values.len().saturating_sub(5)..];
            let sum = graph.apply(Add, &[*a.get(recent), *b.get(recent)]).unwrap()[0];
            values.push(sum);
            keep.extend(kept.then_some(sum));
        }
        keep.extend(values.last().filter(|v| !keep.contains(v)).copied());
        let mut plan = Plan::new(&KERNELS, &graph, &keep, &Variables::new()).unwrap();
        let mut truth = Interpreter::new(&graph);
        for (i, v) in inputs.iter().enumerate() {
            let data: Vec<f32> = (0..67).map(|j| ((i * 31 + j * 7) % 11) as f32 / 1024.0).collect();
            // An input that no kept value needs has no buffer.
            let _ = plan.write(*v, &data);
            truth.set(*v, Tensor::new(shape.clone(), data.into_iter().map(f64::from).collect()));
        }
        truth.run();
        let bytes = plan.run_and_fetch(&keep).unwrap().wait(KERNELS.gpu()).unwrap();
        for (v, bytes) in keep.iter().zip(bytes) {
            let found = Tensor::from_bytes(shape.clone(), &bytes);
            prop_assert!(found.relative_error(truth.get(*v)) < 1e-6, "{}", graph.name(*v));
        }
    }
}

/// One step of SGD on four numbers, and the buffers of its variables.
fn sgd() -> (Graph, [Value; 3], Variables) {
    let mut graph = Graph::new();
    let shape = Shape::f32(&[4]);
    let values = [graph.variable("w", shape.clone()), graph.input("grad", shape.clone()), graph.variable("velocity/w", shape)];
    graph.apply(Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.0 }, &values).unwrap();
    let variables = ["w", "velocity/w"].map(|name| (name.to_string(), KERNELS.gpu().buffer(name, 4).unwrap()));
    (graph, values, variables.into())
}

fn refused<T>(result: Result<T, GraphError>) -> String {
    match result {
        Ok(_) => panic!("not refused"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn names_a_variable_that_is_missing_or_has_another_length() {
    let (graph, _, mut variables) = sgd();
    variables.insert("velocity/w".into(), KERNELS.gpu().buffer("short", 3).unwrap());
    let message = refused(Plan::new(&KERNELS, &graph, &[], &variables));
    assert_eq!(message, "\"velocity/w\" holds 4 elements, got 3");
    variables.remove("velocity/w");
    let message = refused(Plan::new(&KERNELS, &graph, &[], &variables));
    assert_eq!(message, "the plan needs the variable \"velocity/w\", which was not given");
}

#[test]
fn refuses_to_run_with_a_scalar_that_was_never_set_and_knows_its_scalars() {
    let (graph, [w, grad, _], variables) = sgd();
    let mut plan = Plan::new(&KERNELS, &graph, &[], &variables).unwrap();
    assert_eq!(refused(plan.run()), "the scalar \"lr\" was never set");
    assert_eq!(refused(plan.set("momentum", 0.9)), "the plan has no scalar called \"momentum\"");
    assert!(plan.has_scalar("lr") && !plan.has_scalar("momentum"));
    plan.set("lr", 0.5).unwrap();
    plan.write(w, &[1.0f32, 2.0, 3.0, 4.0]).unwrap();
    plan.write(grad, &[1.0f32; 4]).unwrap();
    plan.run().unwrap();
    assert_eq!(KERNELS.gpu().read::<f32>(plan.buffer(w).unwrap()).unwrap(), [0.5, 1.5, 2.5, 3.5]);
}

#[test]
fn many_runs_in_one_submit_each_have_their_own_scalars() {
    let (graph, [w, grad, velocity], variables) = sgd();
    let mut plan = Plan::new(&KERNELS, &graph, &[], &variables).unwrap();
    assert_eq!(refused(plan.run_many(1, |_, _| Ok(()))), "the scalar \"lr\" was never set");
    let g = [1.0f32, -0.5, 0.25, 3.0];
    plan.write(w, &[1.0f32, 2.0, 3.0, 4.0]).unwrap();
    plan.write(grad, &g).unwrap();
    plan.write(velocity, &[0.0f32; 4]).unwrap();
    let rates = [0.5, 0.125, 0.03125];
    plan.run_many(3, |plan, i| plan.set("lr", rates[i])).unwrap();
    plan.run().unwrap();
    // v = .9 v + g, w -= lr v; the run after has the last rate.
    let expected: Vec<f64> = (0..4)
        .map(|i| {
            let mut v = 0.0;
            rates.iter().chain(&rates[2..]).fold((i + 1) as f64, |w, lr| {
                v = 0.9 * v + f64::from(g[i]);
                w - lr * v
            })
        })
        .collect();
    let found = KERNELS.gpu().read::<f32>(plan.buffer(w).unwrap()).unwrap();
    for (found, expected) in found.iter().zip(&expected) {
        assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
    }
}

#[test]
fn refuses_to_write_more_than_a_value_holds() {
    let (graph, [_, grad, _], variables) = sgd();
    let plan = Plan::new(&KERNELS, &graph, &[], &variables).unwrap();
    assert_eq!(refused(plan.write(grad, &[0.0f32; 5])), "\"grad\" holds 4 elements, got 5");
}

#[test]
fn a_value_that_is_not_kept_cannot_be_read() {
    let mut graph = Graph::new();
    let x = graph.input("x", Shape::f32(&[4]));
    let twice = graph.apply(Add, &[x, x]).unwrap()[0];
    let four_times = graph.apply(Add, &[twice, twice]).unwrap()[0];
    let mut plan = Plan::new(&KERNELS, &graph, &[four_times], &Variables::new()).unwrap();
    plan.write(x, &[1.0f32; 4]).unwrap();
    assert!(plan.run_and_fetch(&[twice]).is_err());
    let bytes = plan.run_and_fetch(&[four_times]).unwrap().wait(KERNELS.gpu()).unwrap();
    assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&bytes[0]), [4.0; 4]);
}

/// `add`, with the launch changed.
#[derive(Debug)]
struct Wrong(fn(&mut Launch));

impl Op for Wrong {
    fn name(&self) -> &'static str {
        "wrong"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        Add.outputs(inputs)
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let mut lowered = Add.lower(l);
        (self.0)(&mut lowered.launches[0]);
        lowered
    }

    fn oracle(&self, inputs: &[&Tensor], scalars: &Scalars) -> Vec<Tensor> {
        Add.oracle(inputs, scalars)
    }
}

#[test]
fn names_file_entry_point_and_binding_where_an_op_and_its_shader_disagree() {
    let wrong = |change: fn(&mut Launch)| {
        let mut graph = Graph::new();
        let x = graph.input("x", Shape::f32(&[4]));
        let y = graph.apply_arc(Arc::new(Wrong(change)), &[x, x]).unwrap();
        refused(Plan::new(&KERNELS, &graph, &y, &Variables::new()))
    };
    assert_eq!(
        wrong(|l| l.bind.push(("c", Slot::In(0)))),
        "add.add<QUADS=1>: the op binds `c`, which the entry point does not use"
    );
    assert_eq!(wrong(|l| l.bind.truncate(1)), "add.add<QUADS=1>: the entry point uses `b`, which the op does not bind");
    assert_eq!(wrong(|l| l.params.push(("m", Param::U32(1)))), "add.add<QUADS=1>: Params has no member `m`");
    assert_eq!(wrong(|l| l.params.clear()), "add.add<QUADS=1>: Params.n is not given");
    assert_eq!(wrong(|l| l.params[0].1 = Param::F32(4.0)), "add.add<QUADS=1>: Params.n is of the other type");
    assert_eq!(wrong(|l| l.kernel = KernelId::new("add", "sum")), "add.sum: no entry point `sum`");
    assert_eq!(wrong(|l| l.kernel = KernelId::new("sum", "add")), "no shader file \"sum\" under shaders/");
    let message = wrong(|l| l.kernel = KernelId::new("add", "add").with(&[("SIZE", 4)]));
    assert_eq!(message, "shaders/add.wgsl has no `const SIZE = ...u;`");
}

#[test]
fn an_op_refuses_shapes_it_cannot_take_with_the_numbers() {
    let mut graph = Graph::new();
    let (a, b) = (graph.input("a", Shape::f32(&[4, 3])), graph.input("b", Shape::f32(&[4, 2])));
    let message = refused(graph.apply(Add, &[a, b]));
    assert!(message.starts_with("add: ") && message.contains('3') && message.contains('2'), "{message}");
    for entry in OPS {
        for case in (entry.cases)() {
            let message = refused(case.op.outputs(&[]));
            assert!(message.starts_with(&format!("{}: ", case.op.name())), "{} {}: {message}", entry.name, case.name);
        }
    }
}

#[test]
fn more_dispatches_than_a_query_set_has_times_for_are_profiled_too() {
    const COUNT: usize = 2100;
    let mut graph = Graph::new();
    let x = graph.input("x", Shape::f32(&[4]));
    let mut sum = x;
    for _ in 0..COUNT {
        sum = graph.apply(Add, &[sum, x]).unwrap()[0];
    }
    let mut plan = Plan::new(&KERNELS, &graph, &[sum], &Variables::new()).unwrap();
    plan.write(x, &[1.0f32, 2.0, -1.5, 0.25]).unwrap();
    let timings = plan.profile().unwrap().expect("the tests' adapter has timestamps");
    assert_eq!(timings.len(), COUNT);
    assert!(timings.iter().all(|t| t.op == "add" && t.nanoseconds >= 0.0));
    let found = common::fetch(&mut plan, &graph, &[sum]);
    assert_eq!(found[0].data, [1.0, 2.0, -1.5, 0.25].map(|v| v * (COUNT + 1) as f64));
}

#[test]
fn grids_fold_past_65535_groups_and_leave_nothing_out() {
    for items in [0usize, 1, 64, 65, 65_535 * 64, 65_535 * 64 + 1, 1 << 28] {
        let [x, y, z] = groups(items, 64);
        let all = u64::from(x) * u64::from(y);
        assert!(z == 1 && (1..=65_535).contains(&x) && (1..=65_535).contains(&y), "{items}: {x} {y} {z}");
        assert!(all * 64 >= items as u64 && all < (items as u64).div_ceil(64).max(1) + u64::from(y), "{items}: {x} {y}");
    }
}

const SGD: SgdConfig = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4, crop_pad: 0, flip: false };

#[test]
fn a_training_step_takes_less_memory_than_its_temporaries_do_unshared() {
    let norm = Normalisation { mean: [0.5; 3], std: [0.5; 3] };
    let network = Network::new(&KERNELS, &resnet_w8(), &norm, 0).unwrap();
    let mut step = TrainStep::new(&KERNELS, &network, &StepConfig::new(8, &[LossKind::CrossEntropy], &SGD)).unwrap();
    let Footprint { bytes, unshared, largest } = step.plan().footprint().clone();
    println!("{bytes} of {unshared} bytes, the largest {largest:?}");
    assert!(bytes < unshared);
    // The largest by far are the activations of the first stage.
    assert!(bytes > largest.1 && largest.1 >= 8 * 16 * 16 * 8 * 4, "{largest:?}");
}

#[test]
fn a_step_of_the_standard_network_with_128_images_fits_into_2_gib_in_every_staging() {
    let spec = ModelSpec::new("resnet18", 64, 10, 32);
    let graph = training_graph(&spec, 128, &SGD).unwrap();
    let variables: u64 = graph.values().filter(|v| *graph.source(*v) == Source::Variable).map(|v| graph.shape(v).bytes()).sum();
    // What the backward pass needs, however it computes: the inputs of all convolutions, u8 pixels and logits left out.
    let needed: u64 = graph
        .nodes()
        .iter()
        .filter(|n| n.op.name() == "conv2d")
        .map(|n| n.inputs[0])
        .collect::<std::collections::HashSet<_>>()
        .into_iter()
        .map(|v| graph.shape(v).bytes())
        .sum();
    for staging in Staging::ALL {
        for cpu in [false, true] {
            let footprint = Footprint::of(
                &graph,
                &[],
                Caps { subgroup: Some(8), wide: cpu, gathers: cpu, cpu, matrix: Some(Matrix::default()), staging, own: None },
            );
            let total = variables + footprint.bytes;
            println!("{} cpu {cpu}: {total} bytes, {variables} of variables; activations needed {needed}", staging.name());
            assert!(footprint.bytes > needed, "less than the activations: {footprint:?}");
            assert!(total <= 2 << 30, "{}: {total} bytes, {footprint:?}", staging.name());
        }
    }
}

/// The kernels of a training step of the standard network with so many images.
fn kernels_of_a_step(images: usize, caps: Caps) -> std::collections::HashSet<KernelId> {
    let graph = training_graph(&ModelSpec::new("resnet18", 64, 10, 32), images, &SGD).unwrap();
    launches(&graph, &[], caps).into_iter().map(|(_, launch)| launch.kernel).collect()
}

/// Where a load costs much, few channels are not worth Winograd's transforms.
#[test]
fn convolutions_of_few_channels_go_by_winograd_where_loads_are_gathers() {
    let (staging, matrix) = (Staging::SubgroupShuffle, None);
    for gathers in [false, true] {
        let caps = Caps { subgroup: Some(8), wide: true, gathers, cpu: true, matrix, staging, own: None };
        for (channels, wins) in [(8, false), (16, gathers), (32, true)] {
            let shape = Shape::f32(&[32, 32, 32, channels]);
            let weights = Shape::f32(&[3, 3, channels, channels]);
            let ops: [(Arc<dyn Op>, [&Shape; 2]); 3] = [
                (Arc::new(Conv2d { stride: 1, pad: 1 }), [&shape, &weights]),
                (Arc::new(Conv2dInputGrad { stride: 1, pad: 1, input: [32, 32] }), [&shape, &weights]),
                (Arc::new(Conv2dWeightGrad { stride: 1, pad: 1, kernel: 3 }), [&shape, &shape]),
            ];
            for (op, shapes) in ops {
                let mut graph = Graph::new();
                let [a, b] = [("a", shapes[0]), ("b", shapes[1])].map(|(name, shape)| graph.input(name, shape.clone()));
                let y = graph.apply_arc(op.clone(), &[a, b]).unwrap();
                let found = launches(&graph, &y, caps).iter().any(|(_, launch)| launch.kernel.file == "winograd");
                assert_eq!(found, wins, "{} of {channels} channels, gathers {gathers}", op.name());
            }
        }
    }
}

/// Unlearning's steps, 64 clean images with 16 flagged and 16 restored, run what training's steps of the usual sizes have compiled.
#[test]
fn unlearning_needs_no_kernels_of_its_own_on_a_gpu() {
    let caps = Caps { cpu: false, ..common::kernels().gpu().caps() };
    let matrix = Some(Matrix::default());
    for (staging, matrix, after_128) in [
        (Staging::WorkgroupTile, None, 0),
        (Staging::WinogradTile, None, 1),
        (Staging::RegisterBlock, None, 0),
        (Staging::CooperativeMatrix, matrix, 2),
    ] {
        let caps = Caps { staging, matrix, ..caps };
        // The data sets' usual batch, and BackdoorBench's: there a smaller tile comes in, of matrices once for each direction.
        for (trained, few) in [(64, 0), (128, after_128)] {
            let there = kernels_of_a_step(trained, caps);
            for unlearned in [80, 96] {
                let new: Vec<_> = kernels_of_a_step(unlearned, caps).difference(&there).map(ToString::to_string).collect();
                assert!(new.len() <= few, "{staging:?}, {unlearned} images after {trained}: {new:?} of {}", there.len());
            }
        }
    }
}

/// The number that follows `before` in `text`.
fn number_after(text: &str, before: &str) -> usize {
    let rest = text.split_once(before).unwrap_or_else(|| panic!("no `{before}` in: {text}")).1;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number after `{before}` in: {text}"))
}

#[test]
fn refuses_a_batch_that_does_not_fit_and_names_one_that_does() {
    let spec = ModelSpec::new("resnet18", 64, 10, 32);
    let batch = 1 << 20;
    let error = check_batch(&KERNELS, &spec, batch).expect_err("256 GiB an activation do not fit");
    let message = error.to_string();
    println!("{message}");
    assert!(matches!(error, TrainError::Batch { batch: 1_048_576, .. }), "{message}");
    assert!(message.starts_with("a batch of 1048576 does not fit: "), "{message}");
    // What needs how much, and how much whose adapter allows.
    let largest = batch as u64 * 32 * 32 * 64 * 4;
    assert!(message.contains(&format!(" needs {} in one buffer", dau::gpu::human_bytes(largest))), "{message}");
    let gpu = KERNELS.gpu();
    assert!(message.contains(&format!("{} allows {}", gpu.info().name, dau::gpu::human_bytes(gpu.max_binding()))), "{message}");
    let fitting = number_after(&message, "Try --batch ");
    check_batch(&KERNELS, &spec, fitting).expect("the batch it names fits");
    check_batch(&KERNELS, &spec, 2 * fitting).expect_err("and twice that does not");
}

#[test]
fn a_batch_goes_through_in_the_fewest_equal_parts_that_fit() {
    let spec = ModelSpec::new("resnet18", 64, 10, 32);
    assert_eq!(images_at_once(&KERNELS, &spec, 100).unwrap(), 100);
    // An activation of the first layers takes 256 KiB an image.
    let most = (KERNELS.gpu().max_binding() >> 18) as usize;
    for batch in [4 * most, 5 * most + 3] {
        let part = images_at_once(&KERNELS, &spec, batch).unwrap();
        let halvings = (0..20).find(|h| batch.div_ceil(1 << h) == part).expect("equal parts");
        assert!(part <= most && 2 * part > most / 2, "{part} of {batch} at once, and {most} would fit");
        check_batch(&KERNELS, &spec, part).expect("it fits");
        check_batch(&KERNELS, &spec, batch.div_ceil(1 << (halvings - 1))).expect_err("half as many parts do not");
    }
    let large = ModelSpec { image_size: 1 << 14, ..spec.clone() };
    images_at_once(&KERNELS, &large, 4).expect_err("not one image fits");
}

#[test]
fn says_so_when_not_even_one_image_fits() {
    let spec = ModelSpec::new("resnet18", 64, 10, 1 << 14);
    let message = check_batch(&KERNELS, &spec, 4).expect_err("64 GiB an activation do not fit").to_string();
    assert!(message.ends_with("No batch fits: try a smaller --width or --image-size"), "{message}");
}
