//! UMAP (McInnes, Healy and Melville 2018): points of a few dimensions laid out in two, so that neighbours stay neighbours.
//!
//! The paper's algorithm, with exact neighbours. The layout begins with the first two principal components, not with a spectral one, and is
//! made by one thread, so that a seed gives one layout.

use faer::Mat;
use rand::RngExt;
use rayon::prelude::*;

use crate::rng;
use crate::train::{Observer, TrainError};

/// 1 / (1 + A d^(2 B)) is the closest of its kind to exp(-d), which is what a least distance of 0 and a spread of 1 ask for.
const A: f64 = 1.932_808_397_5;
const B: f64 = 0.790_494_997_3;
/// Of an image pushed away for each that is drawn near.
const NEGATIVES: usize = 5;
/// No step is longer.
const CLIP: f64 = 4.0;
/// Points with more than so many have fewer rounds.
const MANY: usize = 10_000;
const ROUNDS: [usize; 2] = [500, 200];
/// The layout begins so wide.
const WIDE: f64 = 10.0;
/// Points whose neighbours are found between two questions whether to go on.
const AT_ONCE: usize = 1024;

/// An edge of the neighbourhood graph.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Edge {
    pub from: usize,
    pub to: usize,
    /// That the two are neighbours, 0 to 1.
    pub weight: f64,
}

/// `rows` [n, d] laid out in two dimensions by their `neighbours` nearest points, themselves included; `start` [n, 2] is scaled first.
///
/// # Errors
/// A wish to stop, which is asked for every second or so.
pub(super) fn layout(
    rows: &[Vec<f64>],
    neighbours: usize,
    start: &Mat<f64>,
    seed: u64,
    observer: &dyn Observer,
) -> Result<Vec<[f64; 2]>, TrainError> {
    let edges = graph(&nearest(rows, neighbours, observer)?, neighbours);
    let widest = (0..2).map(|j| start.col_as_slice(j).iter().fold(0.0f64, |w, x| w.max(x.abs()))).fold(1e-12, f64::max);
    let mut noise = rng::stream(seed, "umap start");
    // Points that lie on one another are parted by a little noise.
    let mut at: Vec<[f64; 2]> =
        (0..rows.len()).map(|i| [0, 1].map(|j| WIDE * start[(i, j)] / widest + 1e-4 * rng::normal(&mut noise))).collect();
    improve(&mut at, &edges, seed, observer)?;
    Ok(at)
}

/// Of each row its nearest rows, itself the first, with their distances.
pub(super) fn nearest(rows: &[Vec<f64>], count: usize, observer: &dyn Observer) -> Result<Vec<Vec<(usize, f64)>>, TrainError> {
    let near = |i: usize| {
        let square = |j: usize| rows[i].iter().zip(&rows[j]).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
        let mut all: Vec<(f64, usize)> = (0..rows.len()).map(|j| (if i == j { -1.0 } else { square(j) }, j)).collect();
        let count = count.min(all.len());
        if count < all.len() {
            all.select_nth_unstable_by(count - 1, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            all.truncate(count);
        }
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        all.into_iter().map(|(square, j)| (j, square.max(0.0).sqrt())).collect()
    };
    let mut found = Vec::with_capacity(rows.len());
    while found.len() < rows.len() {
        observer.go_on()?;
        found.par_extend((found.len()..rows.len().min(found.len() + AT_ONCE)).into_par_iter().map(near));
    }
    Ok(found)
}

/// The fuzzy union of everybody's neighbourhoods: a + b - a b of the two views that an edge's ends have of it.
pub(super) fn graph(nearest: &[Vec<(usize, f64)>], neighbours: usize) -> Vec<Edge> {
    let mut of: std::collections::BTreeMap<(usize, usize), [f64; 2]> = std::collections::BTreeMap::new();
    for (i, near) in nearest.iter().enumerate() {
        let distances: Vec<f64> = near.iter().skip(1).map(|(_, d)| *d).collect();
        for ((j, _), weight) in near.iter().skip(1).zip(memberships(&distances, neighbours)) {
            let side = usize::from(i > *j);
            of.entry((i.min(*j), i.max(*j))).or_default()[side] = weight;
        }
    }
    let edge = |((from, to), [a, b]): ((usize, usize), [f64; 2])| Edge { from, to, weight: a + b - a * b };
    of.into_iter().map(edge).filter(|edge| edge.weight > 0.0).collect()
}

/// exp(-(d - rho) / sigma) of the distances to the others, ascending: rho is the least that is not 0, sigma such that the sum is log2 of the
/// number of neighbours.
pub(super) fn memberships(distances: &[f64], neighbours: usize) -> Vec<f64> {
    const ROUNDS: usize = 64;
    let rho = distances.iter().copied().find(|d| *d > 0.0).unwrap_or_default();
    let wanted = (neighbours as f64).log2();
    let of = |sigma: f64| distances.iter().map(move |d| (-(d - rho).max(0.0) / sigma).exp());
    let (mut low, mut high, mut sigma) = (0.0f64, f64::INFINITY, 1.0f64);
    for _ in 0..ROUNDS {
        let sum: f64 = of(sigma).sum();
        if (sum - wanted).abs() < 1e-5 {
            break;
        }
        if sum > wanted {
            high = sigma
        } else {
            low = sigma
        }
        sigma = if high.is_finite() { f64::midpoint(low, high) } else { 2.0 * sigma };
    }
    // Not so small that only one neighbour is left.
    let mean = distances.iter().sum::<f64>() / distances.len().max(1) as f64;
    of(sigma.max(1e-3 * mean).max(f64::MIN_POSITIVE)).collect()
}

/// Moves the points by the gradient of the cross-entropy between the graph and the layout's closeness, an edge as often as it weighs.
fn improve(at: &mut [[f64; 2]], edges: &[Edge], seed: u64, observer: &dyn Observer) -> Result<(), TrainError> {
    let rounds = ROUNDS[usize::from(at.len() > MANY)];
    let most = edges.iter().map(|edge| edge.weight).fold(0.0, f64::max);
    let kept: Vec<Edge> = edges.iter().copied().filter(|edge| edge.weight >= most / rounds as f64).collect();
    let every: Vec<f64> = kept.iter().map(|edge| most / edge.weight).collect();
    let mut next = every.clone();
    let mut draw = rng::stream(seed, "umap");
    let clip = |step: f64| step.clamp(-CLIP, CLIP);
    for round in 1..=rounds {
        observer.go_on()?;
        let rate = 1.0 - (round - 1) as f64 / rounds as f64;
        for ((edge, every), next) in kept.iter().zip(&every).zip(&mut next) {
            if *next > round as f64 {
                continue;
            }
            *next += every;
            for (a, b) in [(edge.from, edge.to), (edge.to, edge.from)] {
                let square = distance(at[a], at[b]);
                if square > 0.0 {
                    let pull = -2.0 * A * B * square.powf(B - 1.0) / (1.0 + A * square.powf(B));
                    at[a] = moved(at[a], at[b], |apart| rate * clip(pull * apart));
                }
                for _ in 0..NEGATIVES {
                    let other = draw.random_range(0..at.len());
                    let square = distance(at[a], at[other]);
                    if other == a || square == 0.0 {
                        continue;
                    }
                    let push = 2.0 * B / ((0.001 + square) * (1.0 + A * square.powf(B)));
                    at[a] = moved(at[a], at[other], |apart| rate * clip(push * apart));
                }
            }
        }
    }
    Ok(())
}

/// `a` after the step that its distance from `b` asks for, along each axis.
fn moved(a: [f64; 2], b: [f64; 2], step: impl Fn(f64) -> f64) -> [f64; 2] {
    [a[0] + step(a[0] - b[0]), a[1] + step(a[1] - b[1])]
}

fn distance(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{Silent, Stops};
    use std::cell::Cell;

    /// SciPy: `brentq(lambda s: np.exp(-np.maximum(d - d[0], 0) / s).sum() - np.log2(6), 1e-6, 1e3)` for the distances d.
    #[test]
    fn memberships_add_up_to_the_logarithm_of_the_number_of_neighbours() {
        let distances = [0.5, 0.7, 1.1, 1.2, 3.0];
        let sigma = 0.708_824_5;
        for (found, d) in memberships(&distances, 6).iter().zip(distances) {
            let expected = (-(d - 0.5f64) / sigma).exp();
            assert!((found - expected).abs() < 1e-4, "{found} for {expected}");
        }
    }

    #[test]
    fn an_edge_has_the_fuzzy_union_of_what_its_ends_say() {
        let rows: Vec<Vec<f64>> = [0.0, 1.0, 3.0, 7.0, 7.5].map(|x| vec![x]).to_vec();
        let near = nearest(&rows, 4, &Silent).unwrap();
        assert_eq!(near[2], [(2, 0.0), (1, 2.0), (0, 3.0), (3, 4.0)]);
        let of = |i: usize| memberships(&near[i].iter().skip(1).map(|(_, d)| *d).collect::<Vec<_>>(), 4);
        let edges = graph(&near, 4);
        let weight = |from, to| edges.iter().find(|edge| (edge.from, edge.to) == (from, to)).map(|edge| edge.weight);
        // 3 is the third of 2's neighbours, and 2 the second of 3's; 4 is nobody's but 3's, whose nearest it is.
        let (a, b) = (of(2)[2], of(3)[1]);
        assert!(a != b && weight(2, 3).is_some_and(|w| (w - (a + b - a * b)).abs() < 1e-12), "{a}, {b}");
        assert_eq!((near[3][1].0, weight(0, 4)), (4, None));
    }

    /// Two far groups of ten dimensions, whose first two components tell little: in the layout everybody's neighbours are of the same group.
    #[test]
    fn neighbours_stay_neighbours() {
        let mut noise = rng::stream(4, "groups");
        let rows: Vec<Vec<f64>> = (0..120)
            .map(|i| (0..10).map(|j| rng::normal(&mut noise) + if j == 7 && i % 3 == 0 { 20.0 } else { 0.0 }).collect())
            .collect();
        let start = Mat::from_fn(120, 2, |i, j| rows[i][j]);
        let laid_out = |observer: &dyn Observer| layout(&rows, 15, &start, 1, observer);
        let at = laid_out(&Silent).unwrap();
        let points: Vec<Vec<f64>> = at.iter().map(|p| p.to_vec()).collect();
        let found = nearest(&points, 10, &Silent).unwrap();
        let strange = found
            .iter()
            .enumerate()
            .map(|(i, near)| near.iter().filter(|(j, _)| (i % 3 == 0) != (j % 3 == 0)).count())
            .sum::<usize>();
        assert!(strange <= 12, "{strange} of 1200 neighbours are of the other group");
        assert_eq!(laid_out(&Silent).unwrap(), at, "a seed gives one layout");
        let stops = |at| Stops(Cell::new(at));
        assert!(matches!(nearest(&rows, 10, &stops(1)), Err(TrainError::Cancelled)));
        assert!(matches!(laid_out(&stops(8)), Err(TrainError::Cancelled)), "it is asked before each round");
    }
}
