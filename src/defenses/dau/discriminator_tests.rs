//! Tests of [`super`] on features of noise around centres that are known.

use std::cell::{Cell, RefCell};

use super::*;
use crate::gpu::{AdapterChoice, Gpu};
use crate::train::{EpochRecord, Silent};

pub(in super::super) const DIMENSIONS: usize = 8;
/// Samples, an equal number of each label.
pub(in super::super) const SAMPLES: usize = 90;
const CLASSES: usize = 3;
/// What is planted: so many samples of label 0 lie around a centre of their own.
pub(in super::super) const PLANTED: usize = 12;

pub(in super::super) fn kernels() -> Kernels {
    Kernels::new(Gpu::open(&AdapterChoice::default()).expect("the tests need an adapter"))
}

/// Features around a centre for each class and one for what is planted; the labels; and who is planted.
pub(in super::super) struct Planted {
    pub features: Vec<f32>,
    pub data: Dataset,
    pub planted: Vec<bool>,
}

impl Planted {
    /// The centres lie along axes of their own, `distance` from the middle; the noise has deviation 1.
    pub fn new(distance: f64) -> Planted {
        let mut noise = rng::stream(6, "features");
        let labels: Vec<u32> = (0..SAMPLES).map(|i| (i % CLASSES) as u32).collect();
        let planted: Vec<bool> = (0..SAMPLES).map(|i| i % CLASSES == 0 && i < PLANTED * CLASSES).collect();
        let mut features = Vec::new();
        for (label, planted) in labels.iter().zip(&planted) {
            let centre = if *planted { CLASSES } else { *label as usize };
            features.extend((0..DIMENSIONS).map(|d| {
                let middle = if d == centre { distance } else { 0.0 };
                // Scales and middles of their own, which standardising takes away.
                ((middle + rng::normal(&mut noise)) * (d + 1) as f64 + 10.0 * d as f64) as f32
            }));
        }
        let data = Dataset {
            name: "planted".into(),
            size: 1,
            classes: ["a", "b", "c"].map(String::from).to_vec(),
            pixels: (0..3 * SAMPLES).map(|i| i as u8).collect(),
            paths: (0..SAMPLES).map(|i| i.to_string()).collect(),
            labels,
        };
        Planted { features, data, planted }
    }

    pub fn discriminator<'a>(&self, kernels: &'a Kernels, config: &'a DiscriminatorConfig, seed: u64) -> Discriminator<'a> {
        Discriminator::new(kernels, &self.features, &self.data, config, seed).unwrap()
    }

    /// D of those of `which`.
    fn of(belief: &[f32], which: impl Fn(usize) -> bool) -> Vec<f32> {
        (0..SAMPLES).filter(|i| which(*i)).map(|i| belief[i]).collect()
    }
}

/// Keeps the stages that began; wants to stop once asked more often than so.
#[derive(Default)]
pub(in super::super) struct Watch {
    pub stages: RefCell<Vec<String>>,
    asked: Cell<usize>,
    stop_after: Option<usize>,
}

impl Observer for Watch {
    fn begin(&self, stage: &str, _: u64) {
        self.stages.borrow_mut().push(stage.into());
    }
    fn advance(&self, _: u64) {}
    fn epoch(&self, _: &EpochRecord) -> Result<(), TrainError> {
        Ok(())
    }
    fn cancelled(&self) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.stop_after.is_some_and(|most| self.asked.get() > most)
    }
}

fn least(values: &[f32]) -> f32 {
    values.iter().copied().fold(f32::INFINITY, f32::min)
}

fn most(values: &[f32]) -> f32 {
    values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

#[test]
fn the_believed_samples_keep_their_label_and_the_others_lose_it() {
    let (kernels, config, planted) = (kernels(), DiscriminatorConfig::default(), Planted::new(8.0));
    let mut discriminator = planted.discriminator(&kernels, &config, 3);
    // A small head first, and then one that is sure.
    for (round, gap) in [(1, 0.2), (2, 0.5)] {
        let belief = discriminator.round(&planted.planted, &Silent).unwrap();
        let (inside, outside) = (Planted::of(&belief, |i| planted.planted[i]), Planted::of(&belief, |i| !planted.planted[i]));
        assert_eq!((inside.len(), outside.len()), (PLANTED, SAMPLES - PLANTED));
        assert!(least(&inside) > most(&outside) + gap, "round {round}: {inside:?} {outside:?}");
    }
}

/// Of twelve samples that are alike three are believed: they speak for all in the first round, and are outvoted in the second.
#[test]
fn the_first_round_weighs_the_sides_alike_and_a_later_one_is_a_majority_vote() {
    let (kernels, config, planted) = (kernels(), DiscriminatorConfig::default(), Planted::new(8.0));
    let few: Vec<bool> = (0..SAMPLES).map(|i| planted.planted[i] && i < 3 * CLASSES).collect();
    assert_eq!(few.iter().filter(|few| **few).count(), 3);
    let mut discriminator = planted.discriminator(&kernels, &config, 3);
    let first = discriminator.round(&few, &Silent).unwrap();
    let second = discriminator.round(&few, &Silent).unwrap();
    let [first, second] = [first, second].map(|belief| Planted::of(&belief, |i| planted.planted[i] && !few[i]));
    assert!(least(&first) > 0.5, "in the first round {first:?}");
    assert!(most(&second) < 0.5, "in the second round {second:?}");
}

#[test]
fn a_round_begins_with_a_head_of_its_own_whatever_was_believed_before() {
    let (kernels, config, planted) = (kernels(), DiscriminatorConfig { steps: 12, ..Default::default() }, Planted::new(3.0));
    let others: Vec<bool> = planted.planted.iter().map(|p| !p).collect();
    let second = |first: &[bool], seed: u64| {
        let mut discriminator = planted.discriminator(&kernels, &config, seed);
        let first = discriminator.round(first, &Silent).unwrap();
        (first, discriminator.round(&planted.planted, &Silent).unwrap())
    };
    let (a, b, other_seed) = (second(&planted.planted, 3), second(&others, 3), second(&planted.planted, 4));
    assert_ne!(a.0, b.0);
    assert_eq!(a.1, b.1);
    assert_ne!(a.1, other_seed.1);
}

#[test]
fn a_wish_to_stop_is_heard_between_submits() {
    let (kernels, config, planted) = (kernels(), DiscriminatorConfig::default(), Planted::new(3.0));
    let watch = Watch { stop_after: Some(2), ..Watch::default() };
    let stopped = planted.discriminator(&kernels, &config, 3).round(&planted.planted, &watch);
    assert!(matches!(stopped, Err(TrainError::Cancelled)));
    assert_eq!((watch.asked.get(), watch.stages.into_inner()), (3, vec!["discriminator, round 1".to_string()]));
}

/// The round in f64, from its description: softmax regression on standardised features by Adam (Kingma and Ba 2015) with its gradients
/// by hand.
fn by_hand(planted: &Planted, believed: &[bool], config: &DiscriminatorConfig, (seed, round): (u64, usize)) -> Vec<f64> {
    let (n, d, k) = (SAMPLES, DIMENSIONS, CLASSES);
    let mut x: Vec<f64> = planted.features.iter().map(|x| f64::from(*x)).collect();
    for column in 0..d {
        let at = |i: usize| i * d + column;
        let mean = (0..n).map(|i| x[at(i)]).sum::<f64>() / n as f64;
        let variance = (0..n).map(|i| (x[at(i)] - mean).powi(2)).sum::<f64>() / n as f64;
        (0..n).for_each(|i| x[at(i)] = (x[at(i)] - mean) / variance.sqrt());
    }
    let count = believed.iter().filter(|b| **b).count() as f64;
    // Either side adds up to 1 at first, all samples to 2 later.
    let weight = |believed: bool| match (round, believed) {
        (0, true) => 1.0 / count,
        (0, false) => 1.0 / (n as f64 - count),
        _ => 2.0 / n as f64,
    };
    let l2 = config.l2[round.min(1)];
    let mut rng = rng::stream(seed, &format!("head {round}"));
    // Weights [k, d], then biases.
    let mut theta: Vec<f64> = (0..k * d).map(|_| 0.01 * rng::normal(&mut rng)).chain(vec![0.0; k]).collect();
    let (mut m, mut v) = (vec![0.0; theta.len()], vec![0.0; theta.len()]);
    let softmax = |theta: &[f64], i: usize| -> Vec<f64> {
        let logit = |c: usize| theta[k * d + c] + (0..d).map(|j| theta[c * d + j] * x[i * d + j]).sum::<f64>();
        let logits: Vec<f64> = (0..k).map(logit).collect();
        let total: f64 = logits.iter().map(|z| z.exp()).sum();
        logits.iter().map(|z| z.exp() / total).collect()
    };
    let label = |i: usize| planted.data.labels[i] as usize;
    for step in 0..config.steps {
        let mut gradient: Vec<f64> = theta.iter().take(k * d).map(|w| 2.0 * f64::from(l2) * w).chain(vec![0.0; k]).collect();
        for i in 0..n {
            let (p, y) = (softmax(&theta, i), label(i));
            for c in 0..k {
                let own = if c == y { 1.0 } else { 0.0 };
                // Of -log p_y, and of -log(1 - p_y).
                let slope = if believed[i] { p[c] - own } else { (own - p[c]) * p[y] / (1.0 - p[y]) };
                let slope = weight(believed[i]) * slope;
                (0..d).for_each(|j| gradient[c * d + j] += slope * x[i * d + j]);
                gradient[k * d + c] += slope;
            }
        }
        let rate = config.lr / 2.0 * (1.0 + (std::f64::consts::PI * step as f64 / config.steps as f64).cos());
        for (i, g) in gradient.iter().enumerate() {
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.999 * v[i] + 0.001 * g * g;
            let [first, second] = [(0.9f64, m[i]), (0.999, v[i])].map(|(keep, x)| x / (1.0 - keep.powi(step as i32 + 1)));
            theta[i] -= rate * first / (second.sqrt() + 1e-8);
        }
    }
    (0..n).map(|i| softmax(&theta, i)[label(i)]).collect()
}

#[test]
fn both_kinds_of_round_give_what_the_same_regression_gives_in_f64() {
    let (kernels, planted, seed) = (kernels(), Planted::new(2.0), 9);
    // A last submit that is not full.
    let config = DiscriminatorConfig { steps: 37, ..Default::default() };
    // Not quite those that are planted.
    let believed: Vec<bool> = (0..SAMPLES).map(|i| planted.planted[i] != (i % 17 == 0)).collect();
    let mut discriminator = planted.discriminator(&kernels, &config, seed);
    for round in 0..3 {
        let found = discriminator.round(&believed, &Silent).unwrap();
        let expected = by_hand(&planted, &believed, &config, (seed, round));
        let errors = found.iter().zip(&expected).map(|(found, expected)| (f64::from(*found) - expected).abs());
        let worst = errors.fold(0.0, f64::max);
        println!("round {round}: {worst:.1e}");
        assert!(worst < 1e-3, "round {round}: {worst:.2e} off");
    }
}

#[test]
fn features_in_parts_give_the_same_beliefs() {
    let (kernels, config, planted) = (kernels(), DiscriminatorConfig::default(), Planted::new(2.0));
    let beliefs = |part: usize| {
        let mut discriminator = Discriminator::in_parts(&kernels, &planted.features, &planted.data, &config, 3, part).unwrap();
        [&planted.planted[..], &planted.planted].map(|believed| discriminator.round(believed, &Silent).unwrap()).concat()
    };
    let whole = beliefs(SAMPLES);
    assert!(whole.iter().any(|d| *d > 0.9) && whole.iter().any(|d| *d < 0.1), "{whole:?}");
    // The last of four parts has 21 samples, not 23.
    for part in [SAMPLES / 2, 23] {
        let far = whole.iter().zip(beliefs(part)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-4, "{far} apart in parts of {part}");
    }
}

/// Features of 50,000 images at width 128, and gradients' partial sums of 200 classes: both are over WebGPU's 128 MiB.
#[test]
fn parts_are_as_small_as_the_adapter_asks() {
    let kernels = kernels();
    let allowed = kernels.gpu().max_binding();
    for extents in [[50_000, 1024, 10], [100_000, 512, 200]] {
        let mut part = extents[0];
        while !fits(&kernels, extents, part).unwrap() {
            part = part.div_ceil(2);
        }
        assert!((4 * part * extents[1]) as u64 <= allowed && part > 1000, "{part} of {extents:?}");
    }
    assert!(!fits(&kernels, [allowed as usize / 512, 1024, 10], allowed as usize / 512).unwrap());
}
