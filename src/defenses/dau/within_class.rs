//! The within-class step: where much of a class was flagged, the class may hold two groups, and only one of them is poison.

use crate::data::Dataset;
use crate::rng;
use rand::RngExt;

/// A class is looked at when this share of it was flagged.
const FLAGGED_SHARE: f64 = 0.3;
/// Principal components kept.
const COMPONENTS: usize = 8;
/// The mean silhouette (Rousseeuw 1987) from which two groups count as real.
const SILHOUETTE: f64 = 0.2;
/// Samples of a class that the silhouette is measured on.
const SILHOUETTE_SAMPLES: usize = 500;

/// The discriminator and the groups agree when no more than this share of the other group was flagged.
const AGREEMENT: f64 = 0.25;

/// Re-splits each heavily flagged class by PCA and 2-means on its `features` [N, D], each sample's scaled to length 1. If the
/// groups are distinct, the one that holds more of the class's tenth of lowest `loss` is the poisoned one; where the flags
/// agree with it, flagged samples of the other group stay flagged. Says whether any class was re-split.
pub(super) fn refine(flagged: &mut [bool], features: &[f32], data: &Dataset, loss: &[f64], seed: u64) -> bool {
    let mut refined = false;
    let d = features.len() / data.len().max(1);
    for class in 0..data.classes.len() as u32 {
        let members: Vec<usize> = (0..data.len()).filter(|&i| data.labels[i] == class).collect();
        let count = members.iter().filter(|&&i| flagged[i]).count();
        if members.len() < 4 || (count as f64) < FLAGGED_SHARE * members.len() as f64 {
            continue;
        }
        let rows: Vec<Vec<f64>> = members.iter().map(|&i| unit(&features[i * d..(i + 1) * d])).collect();
        let points = principal(rows, COMPONENTS.min(d), seed);
        let mut group = two_means(&points, seed);
        if silhouette(&points, &group, seed) < SILHOUETTE {
            continue;
        }
        let easiest = easiest(&members, loss);
        let share = |side: bool, of: &dyn Fn(usize) -> bool| {
            let mine: Vec<usize> = members.iter().zip(&group).filter(|(_, g)| **g == side).map(|(i, _)| *i).collect();
            mine.iter().filter(|i| of(**i)).count() as f64 / mine.len().max(1) as f64
        };
        // How much of a group is among the class's easiest samples. The means of the losses mislead: on easy data a few hard
        // poisoned samples outweigh the rest.
        let easy = |side: bool| share(side, &|i| easiest.contains(&i));
        let poisoned = easy(true) > easy(false);
        let agree = share(!poisoned, &|i| flagged[i]) < AGREEMENT;
        group.iter_mut().for_each(|g| *g = *g == poisoned);
        for (&i, g) in members.iter().zip(&group) {
            flagged[i] = *g || (agree && flagged[i]);
        }
        refined = true;
    }
    refined
}

/// A row of length 1, so that what a sample shows counts and not how strongly.
fn unit(row: &[f32]) -> Vec<f64> {
    let norm = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    row.iter().map(|x| f64::from(*x) / norm).collect()
}

/// The tenth of `members` with the lowest loss, at least one.
fn easiest(members: &[usize], loss: &[f64]) -> Vec<usize> {
    let mut order = members.to_vec();
    order.sort_by(|&a, &b| loss[a].total_cmp(&loss[b]));
    order.truncate((members.len() / 10).max(1));
    order
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn distance2(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}

/// Coordinates along the first principal components, by orthogonal iteration on the centred rows.
fn principal(mut rows: Vec<Vec<f64>>, components: usize, seed: u64) -> Vec<Vec<f64>> {
    let (n, d) = (rows.len(), rows[0].len());
    let mean: Vec<f64> = (0..d).map(|j| rows.iter().map(|r| r[j]).sum::<f64>() / n as f64).collect();
    for row in &mut rows {
        row.iter_mut().zip(&mean).for_each(|(x, m)| *x -= m);
    }
    let mut rng = rng::stream(seed, "pca");
    let mut basis: Vec<Vec<f64>> = (0..components).map(|_| (0..d).map(|_| rng::normal(&mut rng)).collect()).collect();
    for _ in 0..30 {
        for b in 0..components {
            let mut next = vec![0.0; d];
            for row in &rows {
                let along = dot(row, &basis[b]);
                for (n, x) in next.iter_mut().zip(row) {
                    *n += along * x;
                }
            }
            for earlier in &basis[..b] {
                let along = dot(&next, earlier);
                for (n, e) in next.iter_mut().zip(earlier) {
                    *n -= along * e;
                }
            }
            let norm = dot(&next, &next).sqrt();
            if norm > 0.0 {
                next.iter_mut().for_each(|x| *x /= norm);
            }
            basis[b] = next;
        }
    }
    rows.iter().map(|row| basis.iter().map(|b| dot(row, b)).collect()).collect()
}

/// Lloyd's 2-means, the best of ten seeded starts.
fn two_means(points: &[Vec<f64>], seed: u64) -> Vec<bool> {
    let mut rng = rng::stream(seed, "two means");
    let mut best: Option<(f64, Vec<bool>)> = None;
    for _ in 0..10 {
        let pick = |rng: &mut _| points[RngExt::random_range(rng, 0..points.len())].clone();
        let mut centres = [pick(&mut rng), pick(&mut rng)];
        let mut group = vec![false; points.len()];
        for _ in 0..50 {
            let next: Vec<bool> = points.iter().map(|p| distance2(p, &centres[1]) < distance2(p, &centres[0])).collect();
            for (side, centre) in centres.iter_mut().enumerate() {
                let mine: Vec<&Vec<f64>> = points.iter().zip(&next).filter(|(_, g)| **g == (side == 1)).map(|(p, _)| p).collect();
                if !mine.is_empty() {
                    for (j, c) in centre.iter_mut().enumerate() {
                        *c = mine.iter().map(|p| p[j]).sum::<f64>() / mine.len() as f64;
                    }
                }
            }
            let settled = next == group;
            group = next;
            if settled {
                break;
            }
        }
        let cost: f64 = points.iter().zip(&group).map(|(p, g)| distance2(p, &centres[usize::from(*g)])).sum();
        if best.as_ref().is_none_or(|(c, _)| cost < *c) {
            best = Some((cost, group));
        }
    }
    best.map(|(_, group)| group).unwrap_or_default()
}

/// Mean silhouette over a seeded sample of the points; 0 where a group is empty.
fn silhouette(points: &[Vec<f64>], group: &[bool], seed: u64) -> f64 {
    let mut sample: Vec<usize> = (0..points.len()).collect();
    rng::shuffle(&mut rng::stream(seed, "silhouette"), &mut sample);
    sample.truncate(SILHOUETTE_SAMPLES);
    let mut sum = 0.0;
    for &i in &sample {
        let mean_to = |side: bool| {
            let others: Vec<f64> = sample
                .iter()
                .filter(|&&j| j != i && group[j] == side)
                .map(|&j| distance2(&points[i], &points[j]).sqrt())
                .collect();
            (!others.is_empty()).then(|| others.iter().sum::<f64>() / others.len() as f64)
        };
        if let (Some(own), Some(other)) = (mean_to(group[i]), mean_to(!group[i])) {
            sum += (other - own) / own.max(other);
        }
    }
    sum / sample.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two clouds in 12 dimensions, `far` apart along a direction that is no axis.
    fn clouds(n: usize, far: f64) -> (Vec<f32>, Vec<bool>) {
        let mut rng = rng::stream(3, "clouds");
        let mut features = Vec::new();
        let mut truth = Vec::new();
        for i in 0..n {
            let second = i % 3 == 0;
            for j in 0..12 {
                let shift = if j % 2 == 1 {
                    4.0
                } else if second {
                    far
                } else {
                    0.0
                };
                features.push((rng::normal(&mut rng) + shift) as f32);
            }
            truth.push(second);
        }
        (features, truth)
    }

    fn one_class(n: usize) -> Dataset {
        Dataset {
            name: "test".into(),
            size: 1,
            classes: vec!["only".into()],
            pixels: vec![7; 3 * n],
            labels: vec![0; n],
            paths: vec![String::new(); n],
        }
    }

    #[test]
    fn keeps_the_half_that_was_learned_first_where_a_flagged_class_has_two() {
        let (features, truth) = clouds(90, 6.0);
        let loss: Vec<f64> = truth.iter().map(|second| if *second { 0.1 } else { 0.9 }).collect();
        let mut flagged = vec![true; 90];
        assert!(refine(&mut flagged, &features, &one_class(90), &loss, 1));
        assert_eq!(flagged, truth);
    }

    #[test]
    fn leaves_a_class_without_two_groups_alone() {
        let (features, _) = clouds(90, 0.0);
        let mut flagged: Vec<bool> = (0..90).map(|i| i % 2 == 0).collect();
        let before = flagged.clone();
        assert!(!refine(&mut flagged, &features, &one_class(90), &[0.5; 90], 1));
        assert_eq!(flagged, before);
    }
}
