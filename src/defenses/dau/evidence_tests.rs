//! The search on digits in which a part is changed: the truth is known, the search does not see it.

use super::*;
use crate::data::{LoadOptions, Spec, load};
use crate::defenses::dau::discriminator::tests::{Watch, kernels};
use crate::defenses::dau::{Answer, Border, DiscriminatorConfig, Findings, StageOneConfig, examine, judge};
use crate::rng;
use crate::train::Silent;

fn digits() -> Dataset {
    load(&Spec::find("digits").unwrap(), &LoadOptions::default()).unwrap().train
}

/// A white square of 3 pixels a side whose upper left corner is at (y, x).
fn stamp(data: &mut Dataset, i: usize, (y, x): (usize, usize)) {
    let size = data.size;
    for (dy, dx) in (0..9).map(|k| (k / 3, k % 3)) {
        data.image_mut(i)[((y + dy) * size + x + dx) * 3..][..3].fill(255);
    }
}

/// Every `step`-th digit, from `first` on, gets a square and the label that `relabel` gives.
fn poison(data: &mut Dataset, (first, step): (usize, usize), at: (usize, usize), relabel: impl Fn(u32) -> u32) -> Vec<usize> {
    let chosen: Vec<usize> = (first..data.len()).step_by(step).collect();
    for &i in &chosen {
        stamp(data, i, at);
        data.labels[i] = relabel(data.labels[i]);
    }
    chosen
}

fn look(data: &Dataset) -> Findings {
    examine(data, &Silent).unwrap()
}

fn accused(found: &Findings) -> Vec<u32> {
    found.classes.iter().filter(|c| c.finding.accuses()).map(|c| c.class).collect()
}

/// At least so much of the flags is right, and so much of the poison flagged.
fn assert_flags(found: &Findings, poison: &[usize], least: f64) {
    let flagged: Vec<usize> = (0..found.split.flagged.len()).filter(|&i| found.split.flagged[i]).collect();
    let right = flagged.iter().filter(|i| poison.contains(i)).count();
    assert!(
        right as f64 >= least * flagged.len().max(poison.len()) as f64,
        "{right} of {}, {} are poison",
        flagged.len(),
        poison.len()
    );
}

#[test]
fn finds_the_images_with_a_trigger_and_their_class() {
    let mut data = digits();
    let chosen = poison(&mut data, (3, 11), (13, 13), |_| 4);
    let found = look(&data);
    assert_eq!((found.answer, accused(&found)), (Answer::Backdoor, vec![4]));
    assert_flags(&found, &chosen, 0.97);
    let seen = &found.classes[4];
    assert!(seen.separation >= SEPARATE && seen.images > seen.suspects, "{seen:?}");
}

/// Features of noise around a centre for each digit, and one for those with a trigger.
#[test]
fn the_classifier_draws_the_border_in_as_many_rounds_as_it_is_told() {
    let mut data = digits();
    let shown = data.labels.clone();
    let chosen = poison(&mut data, (3, 11), (13, 13), |_| 4);
    let mut noise = rng::stream(2, "features");
    let mut features = Vec::new();
    for (i, digit) in shown.iter().enumerate() {
        let centre = if chosen.contains(&i) { 10 } else { *digit as usize };
        features.extend((0..12).map(|d| if d == centre { 6.0 } else { 0.0 } + rng::normal(&mut noise) as f32));
    }
    let kernels = kernels();
    for rounds in [DiscriminatorConfig::default().rounds, 2] {
        let discriminator = DiscriminatorConfig { rounds, ..Default::default() };
        let config = StageOneConfig { batch: 1, seed: 3, border: Border::Classifier, prefilter_share: 0.01, discriminator };
        let watch = Watch::default();
        let found = judge(&kernels, &features, &data, &config, &watch, None).unwrap();
        assert_eq!(accused(&found), [4]);
        assert_flags(&found, &chosen, 0.97);
        let stages = watch.stages.into_inner();
        assert_eq!(stages.iter().filter(|stage| stage.starts_with("discriminator")).count(), rounds, "{stages:?}");
    }
}

/// No label changes: the side comes from what is separate from everything else.
#[test]
fn finds_the_right_side_of_a_class_that_keeps_its_labels() {
    let mut data = digits();
    let class: Vec<usize> = (0..data.len()).filter(|&i| data.labels[i] == 6).collect();
    // More of the class is poison than is not.
    let chosen: Vec<usize> = class.iter().copied().enumerate().filter(|(k, _)| k % 3 > 0).map(|(_, i)| i).collect();
    for &i in &chosen {
        let size = data.size;
        for (p, v) in data.image_mut(i).iter_mut().enumerate() {
            let wave = (p / 3 % size) as f32 * std::f32::consts::TAU * 3.0 / size as f32;
            *v = (f32::from(*v) + 40.0 * wave.sin()).clamp(0.0, 255.0) as u8;
        }
    }
    let found = look(&data);
    assert_eq!(accused(&found), [6]);
    assert_flags(&found, &chosen, 0.95);
}

/// Poison with two triggers: the more separate set is but one part of it.
#[test]
fn takes_in_every_part_of_the_poison_that_is_separate() {
    let mut data = digits();
    let mut chosen = poison(&mut data, (3, 13), (13, 13), |_| 4);
    chosen.extend(poison(&mut data, (5, 13), (0, 0), |_| 4));
    let found = look(&data);
    assert_eq!(accused(&found), [4]);
    assert_flags(&found, &chosen, 0.95);
}

#[test]
fn two_classes_under_attack_do_not_hide_each_other() {
    let mut data = digits();
    let mut chosen = poison(&mut data, (3, 13), (13, 13), |_| 0);
    chosen.extend(poison(&mut data, (5, 13), (0, 0), |_| 7));
    let found = look(&data);
    assert_eq!(accused(&found), [0, 7]);
    assert_flags(&found, &chosen, 0.95);
}

#[test]
fn poison_that_goes_from_each_class_to_the_next_is_found_in_all_of_them() {
    let mut data = digits();
    let chosen = poison(&mut data, (2, 9), (13, 13), |label| (label + 1) % 10);
    let found = look(&data);
    assert!(found.all_to_all && found.answer == Answer::Backdoor, "{:?}", found.pooled);
    assert_flags(&found, &chosen, 0.95);
}

#[test]
fn nothing_is_flagged_where_nothing_was_poisoned() {
    let all = digits();
    for data in [all.limit_per_class(30, 1), all.limit_per_class(80, 2), all] {
        let found = look(&data);
        assert!(accused(&found).is_empty() && !found.split.flagged.contains(&true) && !found.all_to_all, "{:?}", found.classes);
    }
}

/// Digits of one class are alike; in noise, thirty copies of one picture are separate from everything else, and are named.
#[test]
fn near_duplicates_are_named_and_not_accused() {
    let mut data = digits();
    let mut rng = crate::rng::stream(8, "noise");
    data.pixels.iter_mut().for_each(|p| *p = rand::RngExt::random(&mut rng));
    let class: Vec<usize> = (0..data.len()).filter(|&i| data.labels[i] == 3).collect();
    let picture = data.image(class[0]).to_vec();
    for &i in &class[1..30] {
        let own = data.image(i).to_vec();
        let mixed = picture.iter().zip(own).map(|(p, o)| (f32::from(*p) * 0.9 + f32::from(o) * 0.1) as u8).collect::<Vec<u8>>();
        data.image_mut(i).copy_from_slice(&mixed);
    }
    let found = look(&data);
    assert!(accused(&found).is_empty(), "{:?}", found.classes);
    assert!(found.classes[3].duplicates >= 25, "{:?}", found.classes[3]);
}

#[test]
fn a_class_of_fewer_than_twenty_images_is_not_looked_at() {
    let all = digits();
    let mut left = 19;
    let few: Vec<usize> = (0..all.len())
        .filter(|&i| {
            let keep = all.labels[i] != 2 || left > 0;
            left -= i32::from(all.labels[i] == 2 && keep);
            keep
        })
        .collect();
    let found = look(&all.subset(&few));
    assert_eq!((found.classes[2].finding, found.classes[2].images), (Finding::Small, 19));
    assert_eq!(found.answer, Answer::Unclear);
}

/// A wave through images of all classes that keep their labels: they stand out, and that is said.
#[test]
fn images_that_are_changed_alike_but_rightly_labelled_are_not_flagged() {
    let mut data = digits();
    let chosen = poison(&mut data, (2, 9), (13, 13), |label| label);
    assert!(chosen.len() > 100);
    let found = look(&data);
    assert!(!found.split.flagged.contains(&true) && !found.all_to_all, "{:?}", found.pooled);
}

fn class_set(class: u32, separation: f64) -> ClassSet {
    let (images, suspects) = (100, 40);
    let finding = Finding::Nothing;
    let seen = ClassEvidence {
        class,
        images,
        suspects,
        separation,
        within: 4.0,
        rest: 2.0,
        entropy: None,
        own: None,
        duplicates: 0,
        duplicates_separation: 0.0,
        transplant: None,
        finding,
    };
    ClassSet::none(seen, Vec::new())
}

/// Classes that count as poison, and whether the pooled set does.
fn decided(separations: &[f64], pooled: Option<&PooledEvidence>) -> (Vec<u32>, bool) {
    let mut classes: Vec<ClassSet> = separations.iter().zip(0..).map(|(d, k)| class_set(k, *d)).collect();
    let all = decide(&mut classes, pooled).pooled_accused;
    (classes.iter().filter(|c| c.seen.finding.accuses()).map(|c| c.seen.class).collect(), all)
}

#[test]
fn a_class_stands_out_by_itself_and_beside_the_others() {
    assert_eq!(decided(&[2.0, 7.6, 4.0, 3.0], None).0, [1]);
    // Separate enough, but no more than others: easy data.
    assert_eq!(decided(&[7.2, 7.0, 6.0, 5.9], None).0, [0u32; 0]);
    assert_eq!(decided(&[2.0, 4.9, 1.0, 1.0], None).0, [0u32; 0]);
    assert_eq!(decided(&[9.0, 3.0, 8.0, 3.5], None).0, [0, 2]);
    // More than half of the classes are no few that stand out.
    assert_eq!(decided(&[9.0, 8.0, 8.0, 3.5], None).0, [0u32; 0]);
}

#[test]
fn the_pooled_set_counts_if_it_is_separate_spread_and_more_than_any_class() {
    let pooled = |separation: f64, by_class: [usize; 3]| PooledEvidence {
        suspects: by_class.iter().sum(),
        separation,
        settled: 1.0,
        by_class: by_class.to_vec(),
        own: 0.1,
        own_elsewhere: 0.6,
    };
    assert!(decided(&[2.0, 2.5, 3.0], Some(&pooled(8.0, [20, 30, 25]))).1);
    assert!(!decided(&[2.0, 2.5, 3.0], Some(&pooled(5.0, [20, 30, 25]))).1);
    assert!(!decided(&[2.0, 2.5, 3.0], Some(&pooled(8.0, [2, 90, 3]))).1);
    assert_eq!(decided(&[20.0, 2.5, 3.0], Some(&pooled(8.0, [20, 30, 25]))), (vec![0], false));
    // Cover images: changed alike, with their true labels.
    let fitting = PooledEvidence { own: 0.5, ..pooled(8.0, [20, 30, 25]) };
    assert!(!decided(&[2.0, 2.5, 3.0], Some(&fitting)).1);
    let unsettled = PooledEvidence { settled: 0.5, ..pooled(8.0, [20, 30, 25]) };
    assert!(!decided(&[2.0, 2.5, 3.0], Some(&unsettled)).1);
}
