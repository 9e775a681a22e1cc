//! Tests of [`super`]. At a rate of 0 the weights stay as they are, and a step's loss says which images it saw, and how.

use std::cell::{Cell, RefCell};

use rand::RngExt;

use super::*;
use crate::gpu::{AdapterChoice, Gpu};
use crate::nn::ModelSpec;
use crate::train::{Loses, Normalisation, Silent};

const SIZE: usize = 16;
const PLAIN: SgdConfig = SgdConfig { momentum: 0.0, nesterov: false, weight_decay: 0.0, crop_pad: 0, flip: false };
const CROPPED: SgdConfig = SgdConfig { crop_pad: 3, flip: true, ..PLAIN };

fn kernels() -> Kernels {
    Kernels::new(Gpu::open(&AdapterChoice::default()).expect("the tests need an adapter"))
}

fn network(kernels: &Kernels) -> Network {
    let spec = ModelSpec::new("resnet18", 4, 4, SIZE);
    Network::new(kernels, &spec, &Normalisation { mean: [0.5; 3], std: [0.3; 3] }, 1).unwrap()
}

/// `count` images of noise, labelled at random.
fn noise(count: usize) -> Dataset {
    let mut rng = rng::stream(4, "noise");
    Dataset {
        name: "noise".into(),
        size: SIZE,
        classes: ["a", "b", "c", "d"].map(String::from).to_vec(),
        pixels: (0..count * SIZE * SIZE * 3).map(|_| rng.random()).collect(),
        labels: (0..count).map(|_| rng.random_range(0..4)).collect(),
        paths: (0..count).map(|i| i.to_string()).collect(),
    }
}

/// `count` times one image: in whatever order they come, all batches are alike.
fn copies(count: usize) -> Dataset {
    noise(1).subset(&vec![0; count])
}

fn config(epochs: usize, batch: usize, lr: f64, sgd: SgdConfig) -> TrainConfig {
    TrainConfig { stage: "train".into(), loss: LossKind::CrossEntropy, epochs, batch, lr, sgd, learns: vec![], rho: 0.0, seed: 2 }
}

/// Lets one batch through at a time, and keeps what epochs said.
#[derive(Default)]
struct OneByOne {
    asked: Cell<bool>,
    records: RefCell<Vec<EpochRecord>>,
}

impl Observer for OneByOne {
    fn begin(&self, _: &str, _: u64) {
        self.asked.set(false);
    }
    fn advance(&self, _: u64) {}
    fn epoch(&self, record: &EpochRecord) -> Result<(), TrainError> {
        self.records.borrow_mut().push(record.clone());
        Ok(())
    }
    fn cancelled(&self) -> bool {
        self.asked.replace(true)
    }
}

/// The sum of the images' losses in each step of a training.
fn losses(kernels: &Kernels, data: &Dataset, config: &TrainConfig) -> Vec<f64> {
    let network = network(kernels);
    let mut trainer = Trainer::new(kernels, &network, data, config).unwrap();
    let (watch, mut sums) = (OneByOne::default(), Vec::new());
    while !trainer.done() {
        let (epoch, before) = (trainer.epoch(), trainer.at.loss);
        trainer.advance(SAVED_EVERY, &watch).unwrap();
        let after = match trainer.epoch() == epoch {
            true => trainer.at.loss,
            false => watch.records.borrow()[epoch].loss * data.len() as f64,
        };
        sums.push(after - before);
    }
    sums
}

/// Far more than what adding up takes away, far less than what another crop or another image does.
fn same(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-5 * a.abs()
}

fn all_differ(values: &[f64]) -> bool {
    (0..values.len()).all(|i| (0..i).all(|j| !same(values[i], values[j])))
}

#[test]
fn each_epoch_goes_through_all_images_in_an_order_of_its_own() {
    let (kernels, data) = (kernels(), noise(24));
    let start = network(&kernels);
    let in_order = |batch: usize| -> Vec<f64> {
        let mut step = TrainStep::new(&kernels, &start, &StepConfig::new(batch, &[LossKind::CrossEntropy], &PLAIN)).unwrap();
        let of = |indices: &[usize]| {
            let batch = Batch::new(&data, &[Part { indices, weight: 1.0 }]);
            let parts = step.run(&start, &batch, 0.0, 0).unwrap().wait(kernels.gpu()).unwrap();
            bytemuck::pod_collect_to_vec::<u8, f32>(&parts[0]).iter().map(|loss| f64::from(*loss)).sum()
        };
        (0..24).collect::<Vec<_>>().chunks(batch).map(of).collect()
    };
    // Batch norm makes an image's loss depend on its companions.
    let steps = losses(&kernels, &data, &config(3, 8, 0.0, PLAIN));
    assert_eq!(steps.len(), 9);
    assert!(all_differ(&[&in_order(8)[..], &steps].concat()), "{steps:?}, in the data's order {:?}", in_order(8));
    // All in one batch: the order is of no account, and none is missing.
    let whole = losses(&kernels, &data, &config(2, 24, 0.0, PLAIN));
    assert!(whole.len() == 2 && whole.iter().all(|loss| same(*loss, in_order(24)[0])), "{whole:?}, not {:?}", in_order(24));
}

#[test]
fn each_step_crops_and_flips_its_own_way_and_so_does_each_training() {
    let (kernels, data) = (kernels(), copies(24));
    let plain = losses(&kernels, &data, &config(2, 8, 0.0, PLAIN));
    assert!(plain.len() == 6 && plain.iter().all(|loss| same(*loss, plain[0])), "all batches are alike: {plain:?}");
    let cropped = config(2, 8, 0.0, CROPPED);
    let steps = losses(&kernels, &data, &cropped);
    let others = losses(&kernels, &data, &TrainConfig { seed: 3, ..cropped });
    assert!(all_differ(&[&steps[..], &others, &plain[..1]].concat()), "{steps:?} {others:?} {plain:?}");
}

/// What is trained, all in one.
fn trained(network: &Network) -> Vec<f64> {
    let values = network.params.read().unwrap().into_iter().filter(|(param, _)| param.kind.trainable());
    values.flat_map(|(_, values)| values).map(f64::from).collect()
}

/// How far apart two networks are, as a share of how far the first has come from `start`.
fn apart(a: &[f64], b: &[f64], start: &[f64]) -> f64 {
    let square = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    (square(a, b) / square(a, start)).sqrt()
}

/// Loshchilov and Hutter 2017, eq. 5, with a least rate of 0.
#[test]
fn the_rate_of_every_step_lies_on_one_cosine_over_all_epochs() {
    let (kernels, data) = (kernels(), copies(16));
    let (peak, epochs, batch, steps) = (0.05, 2, 4, 8);
    let sgd = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4, ..PLAIN };
    let half_wave = |step: usize| peak / 2.0 * (1.0 + (std::f64::consts::PI * step as f64 / f64::from(steps)).cos());
    let by_hand = |rate: &dyn Fn(usize) -> f64| {
        let network = network(&kernels);
        let mut step = TrainStep::new(&kernels, &network, &StepConfig::new(batch, &[LossKind::CrossEntropy], &sgd)).unwrap();
        for i in 0..steps as usize {
            let batch = Batch::new(&data, &[Part { indices: &[0, 1, 2, 3], weight: 0.25 }]);
            step.run(&network, &batch, rate(i), 0).unwrap().wait(kernels.gpu()).unwrap();
        }
        trained(&network)
    };
    let (network, watch) = (network(&kernels), OneByOne::default());
    let start = trained(&network);
    let config = config(epochs, batch, peak, sgd);
    let mut trainer = Trainer::new(&kernels, &network, &data, &config).unwrap();
    while !trainer.done() {
        trainer.advance(SAVED_EVERY, &watch).unwrap();
    }
    let found = trained(&network);
    // A cosine that began anew with each epoch is another one too.
    let rates: [&dyn Fn(usize) -> f64; 3] = [&half_wave, &|_| peak, &|step| half_wave(2 * (step % 4))];
    let [right, constant, anew] = rates.map(|rate| apart(&found, &by_hand(rate), &start));
    assert!(right < 1e-3 && constant > 0.05 && anew > 0.05, "{right} from the cosine, {constant} and {anew} from others");
    let said: Vec<f64> = watch.records.borrow().iter().map(|record| record.lr).collect();
    assert!(said.len() == 2 && (said[0] - peak).abs() < 1e-12 && (said[1] - half_wave(4)).abs() < 1e-12, "{said:?}");
}

/// The network after whole trainings of `data`, and with the weights of `weights` where there are some.
fn after(kernels: &Kernels, data: &Dataset, config: &TrainConfig, weights: Option<Vec<f32>>) -> Network {
    let network = network(kernels);
    let mut trainer = Trainer::new(kernels, &network, data, config).unwrap();
    if let Some(weights) = weights {
        trainer = trainer.weighed(weights).unwrap();
    }
    while !trainer.done() {
        trainer.advance(SAVED_EVERY, &Silent).unwrap();
    }
    drop(trainer);
    network
}

#[test]
fn only_the_parameters_that_are_named_learn() {
    let (kernels, data) = (kernels(), noise(24));
    let config = TrainConfig { learns: vec!["linear.".into(), "layer4.1.bn2".into()], ..config(2, 8, 0.05, PLAIN) };
    let values = |network: &Network| network.params.read().unwrap();
    let (start, found) = (values(&network(&kernels)), values(&after(&kernels, &data, &config, None)));
    let mut moved: Vec<String> = Vec::new();
    for ((param, before), (_, now)) in start.iter().zip(&found).filter(|((param, _), _)| param.kind.trainable()) {
        if before != now {
            moved.push(param.name.clone());
        }
    }
    moved.sort();
    assert_eq!(moved, ["layer4.1.bn2.bias", "layer4.1.bn2.weight", "linear.bias", "linear.weight"]);
    let none = TrainConfig { learns: vec!["lin".into(), "head.".into()], ..config };
    let start = network(&kernels);
    let error = Trainer::new(&kernels, &start, &data, &none).err().expect("no such parameter").to_string();
    assert!(error.starts_with("no parameter's name begins with `head.`; there are conv1.weight, "), "{error}");
}

#[test]
fn a_sample_counts_as_much_as_it_weighs() {
    let (kernels, data) = (kernels(), noise(24));
    let config = config(2, 8, 0.02, PLAIN);
    // Of weight 0 is what has a wrong label: the same as if the label were another.
    let weights: Vec<f32> = (0..24).map(|i| if i % 3 == 0 { 0.0 } else { 1.0 }).collect();
    let mut wrong = data.clone();
    (0..24).step_by(3).for_each(|i| wrong.labels[i] = (wrong.labels[i] + 1) % 4);
    let [a, b] = [&data, &wrong].map(|data| trained(&after(&kernels, data, &config, Some(weights.clone()))));
    assert_eq!(a, b, "a sample of weight 0 has a say");
    // Without momentum and decay, twice the weight is twice the rate.
    let start = trained(&network(&kernels));
    let once = trained(&after(&kernels, &data, &config, None));
    let heavy = trained(&after(&kernels, &data, &config, Some(vec![2.0; 24])));
    let fast = trained(&after(&kernels, &data, &TrainConfig { lr: 0.04, ..config.clone() }, None));
    let [same, not] = [&fast, &once].map(|other| apart(&heavy, other, &start));
    assert!(same < 1e-4 && not > 0.1, "{same} from twice the rate, {not} from the same");

    let start = network(&kernels);
    let trainer = || Trainer::new(&kernels, &start, &data, &config).unwrap();
    let refused = |weights: Vec<f32>| trainer().weighed(weights).err().expect("refused").to_string();
    assert_eq!(refused(vec![1.0; 23]), "23 weights for 24 training images");
    let mut weights = vec![1.0; 24];
    weights[7] = f32::NAN;
    assert_eq!(refused(weights), "training image 7 weighs NaN: weights are 0 or more");
    // A state says whether its samples had weights, and which.
    let path = std::env::temp_dir().join(format!("dau-weighed-{}.safetensors", std::process::id()));
    trainer().weighed(vec![2.0; 24]).unwrap().save(&path).unwrap();
    assert!(trainer().load(&path).is_err() && trainer().weighed(vec![1.0; 24]).unwrap().load(&path).is_err());
    trainer().weighed(vec![2.0; 24]).unwrap().load(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
}

/// Gradients add up: without momentum and decay, a batch in parts moves the network by the sum of what each part does alone, batch
/// norm seeing the same images.
#[test]
fn a_batch_in_parts_moves_by_the_sum_of_its_parts() {
    let (kernels, data) = (kernels(), noise(20));
    let start = network(&kernels);
    let from = trained(&start);
    let whole: Vec<usize> = (0..20).collect();
    let moved = |config: &StepConfig, which: &[usize], steps: usize| {
        let network = start.duplicate(&kernels).unwrap();
        let mut step = TrainStep::new(&kernels, &network, config).unwrap();
        let mut losses = Vec::new();
        for _ in 0..steps {
            let batch = Batch::new(&data, &[Part { indices: which, weight: 0.05 }]);
            let parts = step.run(&network, &batch, 0.05, 0).unwrap().wait(kernels.gpu()).unwrap();
            losses = bytemuck::pod_collect_to_vec::<u8, f32>(&parts[0])[..which.len()].to_vec();
        }
        let to = trained(&network);
        (to.iter().zip(&from).map(|(to, from)| to - from).collect::<Vec<f64>>(), losses)
    };
    let at_once =
        |batch, at_once, sgd: &SgdConfig| StepConfig { at_once, ..StepConfig::new(batch, &[LossKind::CrossEntropy], sgd) };
    let (found, losses) = moved(&at_once(20, 8, &PLAIN), &whole, 1);
    let parts = [&whole[..8], &whole[8..16], &whole[16..]].map(|part| moved(&at_once(8, 8, &PLAIN), part, 1));
    let sum: Vec<f64> = (0..found.len()).map(|i| parts.iter().map(|(moved, _)| moved[i]).sum()).collect();
    let none = vec![0.0; found.len()];
    assert!(apart(&found, &sum, &none) < 1e-4, "{} from the sum of the parts", apart(&found, &sum, &none));
    assert!(apart(&found, &parts[2].0, &none) > 0.3, "that of the last part alone");
    let each: Vec<f32> = parts.iter().flat_map(|(_, losses)| losses.clone()).collect();
    assert_eq!(losses, each, "the losses of the parts, one after the other");
    // Batches that come after one another: what was added up for one is gone in the next, and the velocity is that of whole batches.
    let sgd = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4, ..PLAIN };
    let twice: Vec<usize> = (0..8).chain(0..8).collect();
    let [parts, once] = [8, 16].map(|part| moved(&at_once(16, part, &sgd), &twice, 3).0);
    assert!(apart(&parts, &once, &none) < 1e-3, "{} from one part", apart(&parts, &once, &none));
    let flooding = StepConfig { at_once: 8, ..StepConfig::new(20, &[LossKind::Flooding { level: 0.5 }], &PLAIN) };
    let error = TrainStep::new(&kernels, &start, &flooding).err().expect("refused").to_string();
    assert!(error.starts_with("a batch of 20 does not fit: flooding asks for the mean loss of a whole batch"), "{error}");
}

/// All values, running statistics included, as bits.
fn bits(network: &Network) -> Vec<u32> {
    network.params.read().unwrap().into_iter().flat_map(|(_, values)| values).map(f32::to_bits).collect()
}

/// Too small a radius to move anything: all that is left of the second pass is that there is one.
#[test]
fn sharpness_aware_minimisation_that_looks_nowhere_is_plain_training() {
    let (kernels, data) = (kernels(), noise(20));
    let sgd = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4, ..CROPPED };
    let plain = config(2, 8, 0.05, sgd);
    let after = |rho| bits(&after(&kernels, &data, &TrainConfig { rho, ..plain.clone() }, None));
    let [none, nowhere, far] = [0.0, 1e-30, 0.5].map(after);
    assert!(none == nowhere, "the second pass counts in the running statistics, or the update is another one");
    assert!(none != far);
}

/// Two plain steps of rate 1, the second from where the first one's gradient leads, make one that is sharpness-aware.
#[test]
fn a_sharpness_aware_step_takes_the_gradient_where_the_loss_is_higher() {
    let (kernels, data, start) = (kernels(), noise(8), network(&kernels()));
    let (which, rho) = ((0..8).collect::<Vec<_>>(), 0.5);
    let stepped = |network: &Network, config: &StepConfig| {
        let network = network.duplicate(&kernels).unwrap();
        let mut step = TrainStep::new(&kernels, &network, config).unwrap();
        let batch = Batch::new(&data, &[Part { indices: &which, weight: 0.125 }]);
        step.run(&network, &batch, 1.0, 0).unwrap().wait(kernels.gpu()).unwrap();
        network
    };
    let moves = |from: &[f64], to: &[f64]| from.iter().zip(to).map(|(from, to)| from - to).collect::<Vec<f64>>();
    let learns = vec!["layer".to_string(), "linear".into()];
    let plain = StepConfig { learns, ..StepConfig::new(8, &[LossKind::CrossEntropy], &PLAIN) };
    let w = trained(&start);
    let g = moves(&w, &trained(&stepped(&start, &plain)));
    let norm = w.iter().zip(&g).map(|(w, g)| (w * g).powi(2)).sum::<f64>().sqrt();
    let ascended: Vec<f32> = w.iter().zip(&g).map(|(w, g)| (w + rho * w * w * g / norm) as f32).collect();
    let there = start.duplicate(&kernels).unwrap();
    let mut rest = &ascended[..];
    for (param, values) in start.params.read().unwrap().into_iter().filter(|(param, _)| param.kind.trainable()) {
        let (own, behind) = rest.split_at(values.len());
        there.params.write(&param, own);
        rest = behind;
    }
    let expected = moves(&trained(&there), &trained(&stepped(&there, &plain)));
    let found = moves(&w, &trained(&stepped(&start, &StepConfig { rho: rho as f32, ..plain })));
    let none = vec![0.0; w.len()];
    let [right, plain] = [&expected, &g].map(|other| apart(&found, other, &none));
    assert!(right < 1e-3 && plain > 0.05, "{right} from the gradient there, {plain} from the gradient here");
    let still = |values: &[f64]| values[..108].iter().all(|x| *x == 0.0);
    assert!(still(&found) && !still(&w), "what does not learn stays, and is moved nowhere");
}

#[test]
fn a_sharpness_aware_training_goes_on_with_the_same_bits() {
    let (kernels, data) = (kernels(), noise(24));
    let config = TrainConfig { rho: 0.5, ..config(2, 8, 0.05, CROPPED) };
    let place = tempfile::tempdir().unwrap();
    let state = place.path().join("state");
    let network = network(&kernels);
    let mut trainer = Trainer::new(&kernels, &network, &data, &config).unwrap();
    let watch = OneByOne::default();
    (0..2).for_each(|_| trainer.advance(SAVED_EVERY, &watch).unwrap());
    trainer.save(&state).unwrap();
    let plain = TrainConfig { rho: 0.0, ..config.clone() };
    assert!(Trainer::new(&kernels, &network, &data, &plain).unwrap().load(&state).is_err(), "the state of another training");
    let other = Network::new(&kernels, &network.spec, &network.norm, 9).unwrap();
    Trainer::new(&kernels, &other, &data, &config).unwrap().finish(&Silent, Some(&state)).unwrap();
    assert_eq!(bits(&other), bits(&after(&kernels, &data, &config, None)));
}

#[test]
fn a_student_learns_to_look_where_its_teacher_looks() {
    let (kernels, data) = (kernels(), noise(24));
    let teacher = Network::new(&kernels, &network(&kernels).spec, &network(&kernels).norm, 7).unwrap();
    let before = bits(&teacher);
    let config = config(6, 8, 0.02, PLAIN);
    let taught = |betas: [f32; 3]| {
        let (network, watch) = (network(&kernels), OneByOne::default());
        let teacher = Teacher { network: &teacher, betas: betas.to_vec() };
        let mut trainer = Trainer::taught(&kernels, &network, &data, &config, Some(&teacher)).unwrap();
        while !trainer.done() {
            trainer.advance(SAVED_EVERY, &watch).unwrap();
        }
        let losses: Vec<f64> = watch.records.borrow().iter().map(|record| record.loss).collect();
        (bits(&network), losses)
    };
    let (unheard, losses) = taught([0.0; 3]);
    assert_eq!(unheard, bits(&after(&kernels, &data, &config, None)), "a teacher that counts nothing changes nothing");
    let (_, heard) = taught([50.0, 100.0, 100.0]);
    assert!(heard[0] > losses[0] + 1.0 && heard[5] < 0.7 * heard[0], "{heard:?}, of cross-entropy alone {losses:?}");
    assert_eq!(bits(&teacher), before, "the teacher learns nothing");
    let five = Teacher { network: &teacher, betas: vec![1.0; 5] };
    let start = network(&kernels);
    let refused = Trainer::taught(&kernels, &start, &data, &config, Some(&five)).err().expect("refused").to_string();
    assert_eq!(refused, "attention of 5 stages is asked for, and a network has 4");
}

#[test]
fn a_training_whose_device_is_lost_goes_on_on_another() {
    let (data, config) = (noise(24), config(4, 8, 0.05, CROPPED));
    let trained = |kernels: &Kernels, observer: &dyn Observer, state: &Path| {
        let network = network(kernels);
        fit(kernels, &network, &data, &config, observer, Some(state))?;
        let values = network.params.read()?.into_iter().flat_map(|(_, values)| values);
        Ok::<_, TrainError>(values.map(f32::to_bits).collect::<Vec<_>>())
    };
    let place = tempfile::tempdir().unwrap();
    let whole = trained(&kernels(), &Silent, &place.path().join("whole")).unwrap();
    // In the first epoch, in the third, with its last batch.
    for images in [8, 2 * 24 + 16, 4 * 24] {
        let (first, state) = (kernels(), place.path().join(images.to_string()));
        let loses = Loses { gpu: first.gpu(), left: Cell::new(images) };
        let said = trained(&first, &loses, &state).expect_err("a loss").to_string();
        assert!(said.contains("was lost"), "{said}");
        assert_eq!(state.is_file(), images > 24, "of {images} images");
        assert!(trained(&kernels(), &Silent, &state).unwrap() == whole, "after {images} images");
    }
}

/// Cannot keep what an epoch says.
struct Full;

impl Observer for Full {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn epoch(&self, _: &EpochRecord) -> Result<(), TrainError> {
        Err(TrainError::Data("no room".into()))
    }
    fn cancelled(&self) -> bool {
        false
    }
}

#[test]
fn an_epoch_that_cannot_be_recorded_is_not_saved_as_done() {
    let (kernels, place) = (kernels(), tempfile::tempdir().unwrap());
    let state = place.path().join("state");
    let network = network(&kernels);
    let done = fit(&kernels, &network, &noise(24), &config(2, 8, 0.05, PLAIN), &Full, Some(&state));
    assert!(done.is_err_and(|e| e.to_string() == "no room") && !state.exists());
}

/// By an image's share of a batch its gradient moves the network: by hand, from what each image does alone and its loss. Batch norm sees
/// the whole batch in either case.
#[test]
fn reweighed_images_count_by_how_hard_another_network_finds_them() {
    let (kernels, data) = (kernels(), noise(8));
    let start = network(&kernels);
    let from = trained(&start);
    let biased: Vec<f32> = (0..8).map(|i| 0.1 + 0.4 * i as f32).collect();
    let moved = |loss: LossKind, weights: Vec<f32>| {
        let network = start.duplicate(&kernels).unwrap();
        let config = TrainConfig { loss, ..config(1, 8, 0.05, PLAIN) };
        let trainer = Trainer::new(&kernels, &network, &data, &config).unwrap().weighed(weights).unwrap();
        trainer.finish(&Silent, None).unwrap();
        trained(&network).iter().zip(&from).map(|(to, from)| to - from).collect::<Vec<f64>>()
    };
    let mut step =
        TrainStep::new(&kernels, &start.duplicate(&kernels).unwrap(), &StepConfig::new(8, &[LossKind::CrossEntropy], &PLAIN))
            .unwrap();
    let all: Vec<usize> = (0..8).collect();
    let batch = Batch::new(&data, &[Part { indices: &all, weight: 0.0 }]);
    let parts = step.run(&start, &batch, 0.0, 0).unwrap().wait(kernels.gpu()).unwrap();
    let losses: Vec<f32> = bytemuck::pod_collect_to_vec(&parts[0]);
    let shares: Vec<f32> = biased.iter().zip(&losses).map(|(b, c)| b / (b + c)).collect();
    let total: f32 = shares.iter().sum();
    let found = moved(LossKind::Reweighed, biased);
    // Cross-entropy's mean over the batch divides by 8.
    let by_hand = moved(LossKind::CrossEntropy, shares.iter().map(|share| 8.0 * share / total).collect());
    let alike = moved(LossKind::CrossEntropy, vec![1.0; 8]);
    let none = vec![0.0; found.len()];
    let [right, wrong] = [&by_hand, &alike].map(|other| apart(&found, other, &none));
    assert!(right < 1e-3 && wrong > 0.1, "{right} from the shares by hand, {wrong} from equal ones");
}
