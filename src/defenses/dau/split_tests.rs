//! Tests of [`super`].

use super::super::discriminator::tests::{PLANTED, Planted, SAMPLES, Watch, kernels};
use super::super::{DiscriminatorConfig, StageOneConfig};
use super::*;
use crate::ops::LossKind;
use crate::options::Options;
use crate::train::{SgdConfig, Silent, TrainConfig};

#[test]
fn flags_from_a_belief_of_an_eighth_on_and_doubts_up_to_a_half() {
    // Log-odds of 1/9, 1/7 (just over an eighth), even, 9.
    let split = cut(&[(1.0f32 / 9.0).ln(), (1.0f32 / 6.9).ln(), 0.0, 9f32.ln(), f32::NEG_INFINITY]);
    assert_eq!(split.flagged, [false, true, true, true, false]);
    assert_eq!((0..5).map(|i| split.doubtful(i)).collect::<Vec<_>>(), [false, true, true, false, false]);
    assert!((split.score[3] - 0.9).abs() < 1e-6 && split.score[4] == 0.0);
}

/// The samples that are flagged.
fn flagged(odds: &[f32]) -> Vec<usize> {
    let flagged = cut(odds).flagged;
    (0..odds.len()).filter(|&i| flagged[i]).collect()
}

/// What is planted: even odds and a little more, as the images have it. The rest of class 0: as much less. Other classes are not accused.
fn odds_of_images(planted: &Planted, little: f32) -> Vec<f32> {
    let of = |i: usize| match (planted.data.labels[i], planted.planted[i]) {
        (0, true) => little,
        (0, false) => -little,
        _ => f32::NEG_INFINITY,
    };
    // No two alike: there is an order.
    (0..SAMPLES).map(|i| of(i) * (1.0 + i as f32 / 1000.0)).collect()
}

#[test]
fn the_images_evidence_and_the_classifiers_belief_count_the_same() {
    let (kernels, config, planted) = (kernels(), DiscriminatorConfig::default(), Planted::new(8.0));
    let mut images = odds_of_images(&planted, 2.0);
    let members: Vec<usize> = (0..SAMPLES).filter(|&i| planted.planted[i]).collect();
    let clean: Vec<usize> = (0..SAMPLES).filter(|&i| planted.data.labels[i] == 0 && !planted.planted[i]).collect();
    // Weak evidence gives way to a sure classifier; strong evidence does not, on either side.
    (images[members[0]], images[members[1]], images[clean[0]]) = (-1.0, -40.0, 40.0);
    let discriminator = planted.discriminator(&kernels, &config, 3);
    let odds = by_classifier(&images, discriminator, 5, config.rounds, &Silent).unwrap();
    let mut expected: Vec<usize> = members.iter().copied().filter(|i| *i != members[1]).chain([clean[0]]).collect();
    expected.sort_unstable();
    let found: Vec<usize> = (0..SAMPLES).filter(|&i| odds[i] > 0.0).collect();
    assert_eq!(found, expected, "{odds:?}");
    // A class that is not accused is not accused by the classifier.
    let others = (0..SAMPLES).filter(|&i| planted.data.labels[i] != 0);
    assert!(others.into_iter().all(|i| odds[i] == f32::NEG_INFINITY), "{odds:?}");
}

/// The log-odds of independent evidence add up (Bayes); the classifier first learns the samples of highest odds, then the last verdict.
#[test]
fn each_round_adds_what_the_discriminator_says_to_the_images_odds() {
    let (kernels, config, planted) = (kernels(), DiscriminatorConfig { steps: 20, ..Default::default() }, Planted::new(2.0));
    let images = odds_of_images(&planted, 0.5);
    let of = |rounds: usize| by_classifier(&images, planted.discriminator(&kernels, &config, 3), 5, rounds, &Silent).unwrap();
    let mut by_hand = planted.discriminator(&kernels, &config, 3);
    // The odds rise with the index among what is planted: the last five.
    let mut believed: Vec<bool> = (0..SAMPLES).map(|i| planted.planted[i] && i >= 3 * (PLANTED - 5)).collect();
    assert_eq!(believed.iter().filter(|b| **b).count(), 5);
    let mut verdicts = vec![believed.clone()];
    for rounds in 1..=3 {
        let belief = by_hand.round(&believed, &Silent).unwrap();
        let odds = of(rounds);
        for ((odds, image), d) in odds.iter().zip(&images).zip(belief) {
            let expected = f64::from(*image) + (f64::from(d) / (1.0 - f64::from(d))).ln();
            assert!(*odds == *image || (f64::from(*odds) - expected).abs() < 1e-4, "{odds}, not {expected}");
            assert!(image.is_infinite() || *odds != *image, "the classifier says something");
        }
        believed = odds.iter().map(|odds| *odds > 0.0).collect();
        verdicts.push(believed.clone());
    }
    assert!(verdicts[0] != verdicts[1] && verdicts[1] != verdicts[2], "{verdicts:?}");
}

/// The first round holds the head small, and its belief lies near a half where a class has samples on either side.
#[test]
fn the_usual_rounds_clear_those_whom_the_first_leaves_in_doubt() {
    let (kernels, config, planted) = (kernels(), DiscriminatorConfig::default(), Planted::new(8.0));
    let (images, watch) = (odds_of_images(&planted, 1.5), Watch::default());
    let of = |rounds: usize| by_classifier(&images, planted.discriminator(&kernels, &config, 3), 4, rounds, &watch).unwrap();
    let (one, usual) = (of(1), of(config.rounds));
    let members: Vec<usize> = (0..SAMPLES).filter(|&i| planted.planted[i]).collect();
    assert_eq!(flagged(&usual), members, "{usual:?}");
    let one = flagged(&one);
    assert!(one.len() > PLANTED && members.iter().all(|i| one.contains(i)), "{one:?}");
    let stages = [1, 1, 2, 3, 4].map(|round| format!("discriminator, round {round}"));
    assert_eq!(watch.stages.into_inner(), stages);
}

#[test]
fn the_rounds_are_the_usual_ones_unless_chosen() {
    let (stage, loss, sgd) = ("train".into(), LossKind::CrossEntropy, SgdConfig::default());
    let training = TrainConfig { stage, loss, epochs: 1, batch: 8, lr: 0.1, sgd, learns: vec![], rho: 0.0, seed: 5 };
    let of = |options: &Options| StageOneConfig::of(options, &training).discriminator;
    assert_eq!(of(&Options::default()), DiscriminatorConfig::default());
    let seven = DiscriminatorConfig { rounds: 7, ..Default::default() };
    assert_eq!(of(&Options::from([("rounds", 7.0.into())])), seven);
}
