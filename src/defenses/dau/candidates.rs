//! Which subset of a class a linear model can tell from everything else, the images of other classes included. Poison that carries
//! the same trigger is such a set; the bright half of a class is not, since other classes hold bright images too.

use faer::{Mat, MatRef};

use super::duplicates::near_duplicates;
use super::products::product;
use super::ridge::{ClassRows, Ridge, View};
use super::statistics::{Moments, otsu, separation};
use crate::data::Dataset;
use crate::rng;

/// Directions in which a class varies although the data does not: so many are tried.
const DIRECTIONS: usize = 12;
/// Rounds of subspace iteration.
const ITERATIONS: usize = 15;
/// Share of a class that a seed at either end of a direction takes.
const END: f64 = 0.03;
/// Self-training ends after so many rounds at the latest.
const ROUNDS: usize = 10;
/// Fewer images are no set.
pub(super) const FEWEST: usize = 10;
/// More of a class is the class.
const WHOLE: f64 = 0.97;
/// Two sets that share so much of their union are one.
pub(super) const SAME: f64 = 0.8;
/// D within the class from which a set is apart from it as well.
const APART: f64 = 3.0;
/// A set of at least so many images can be the best of its class.
pub(super) const LEAST: usize = 20;
/// A set of images of one class.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// By member of the class.
    pub set: Vec<bool>,
    /// Left-out prediction of +1 for the set and 0 for all else, by member.
    pub score: Vec<f32>,
    /// D of the set against all images of other classes.
    pub others: f64,
    /// D of the set against the rest of its class.
    pub class: f64,
}

impl Candidate {
    /// How separate the set is: from other classes, and from its own unless that is plain.
    pub fn separation(&self) -> f64 {
        if self.class >= APART { self.others } else { self.others.min(self.class) }
    }

    pub fn len(&self) -> usize {
        self.set.iter().filter(|s| **s).count()
    }
}

/// The sets of a class that a linear model can tell from everything else.
pub(super) struct Found {
    /// The most separate first.
    pub candidates: Vec<Candidate>,
    /// By member: whether it is in a set that was passed over, since that set is of near-duplicates.
    pub duplicates: Vec<bool>,
    /// The largest separation of such a set; 0 without one.
    pub duplicates_separation: f64,
}

/// The sets of the class of `members`, sorted; `rows` are theirs and `margin` is every image's. Sets of near-duplicates are passed over where they
/// would be the most separate ones.
pub(super) fn find(ridge: &Ridge, rows: &ClassRows, data: &Dataset, members: &[usize], margin: &[f32]) -> Found {
    let mine: Vec<f32> = members.iter().map(|&i| margin[i]).collect();
    let sets = distinct(grow(rows, &seeds(rows, &mine)));
    let mut found: Vec<Candidate> = judge(ridge, rows, members, &sets).into_iter().filter(|c| c.len() >= LEAST).collect();
    found.sort_by(|a, b| b.separation().total_cmp(&a.separation()));
    log::debug!("sets of {} images: {:.2?}", members.len(), found.iter().map(|c| (c.len(), c.separation())).collect::<Vec<_>>());
    let copies = |candidate: &Candidate| {
        let side = |side: bool| -> Vec<usize> {
            members.iter().zip(&candidate.set).filter(|(_, s)| **s == side).map(|(i, _)| *i).collect()
        };
        near_duplicates(data, &side(true), &side(false))
    };
    let passed = found.iter().take_while(|candidate| copies(candidate)).count();
    let mut duplicates = vec![false; members.len()];
    let mut duplicates_separation = 0.0f64;
    for copies in found.drain(..passed) {
        duplicates.iter_mut().zip(&copies.set).for_each(|(d, s)| *d |= s);
        duplicates_separation = duplicates_separation.max(copies.separation());
    }
    Found { candidates: found, duplicates, duplicates_separation }
}

/// Sets [n, s] of 0 and 1 to begin with: of each direction and of the margin, what lies above and below Otsu's threshold and at both
/// ends.
fn seeds(rows: &ClassRows, margin: &[f32]) -> Mat<f32> {
    let projections = directions(rows);
    let n = margin.len();
    let end = ((END * n as f64) as usize).max(FEWEST).min(n);
    let mut sets: Vec<Vec<bool>> = Vec::new();
    for column in (0..projections.ncols()).map(|j| projections.col_as_slice(j)).chain([margin]) {
        let Some(level) = otsu(column) else { continue };
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| column[a].total_cmp(&column[b]));
        sets.push(column.iter().map(|v| *v > level).collect());
        sets.push(column.iter().map(|v| *v <= level).collect());
        for ends in [&order[n - end..], &order[..end]] {
            let mut set = vec![false; n];
            ends.iter().for_each(|i| set[*i] = true);
            sets.push(set);
        }
    }
    Mat::from_fn(n, sets.len(), |i, j| f32::from(u8::from(sets[j][i])))
}

/// Projections [n, <= 12] on the leading right singular vectors of the class's centred rows, by subspace iteration from a fixed seed.
fn directions(rows: &ClassRows) -> Mat<f32> {
    let (d, n) = (rows.z.nrows(), rows.z.ncols());
    let m = DIRECTIONS.min(n.saturating_sub(1)).min(d);
    let mean = rows.weights(Mat::<f32>::from_fn(n, 1, |_, _| 1.0 / n as f32).as_ref());
    // C q and C' b for the centred rows C = Z' - 1 mean'.
    let across = |q: MatRef<f32>| {
        let level = mean.transpose() * q;
        let mut b = product(rows.z.transpose(), q);
        for j in 0..b.ncols() {
            b.col_as_slice_mut(j).iter_mut().for_each(|v| *v -= level[(0, j)]);
        }
        b
    };
    let back = |b: MatRef<f32>| {
        let sums = Mat::<f32>::from_fn(1, b.ncols(), |_, j| b.col(j).iter().sum());
        rows.weights(b) - &mean * sums
    };
    let mut rng = rng::stream(0, "directions");
    let start = Mat::<f32>::from_fn(d, m, |_, _| rng::normal(&mut rng) as f32);
    let mut q = start.qr().compute_thin_Q();
    for _ in 0..ITERATIONS {
        q = back(across(q.as_ref()).as_ref()).qr().compute_thin_Q();
    }
    let b = across(q.as_ref());
    match b.thin_svd() {
        Ok(svd) => &b * svd.V(),
        Err(_) => b,
    }
}

/// Self-training of all sets [n, s] at once: regress +1 on the set and 0 on everything else of the data, left out, and keep what lies over
/// half the set's mean. Sets that die out or take the whole class are dropped.
fn grow(rows: &ClassRows, seeds: &Mat<f32>) -> Vec<Vec<bool>> {
    let (n, count) = (seeds.nrows(), seeds.ncols());
    let mut sets = seeds.clone();
    for _ in 0..ROUNDS {
        let predicted = rows.leave_one_out(sets.as_ref());
        let mut next = Mat::<f32>::zeros(n, count);
        for j in 0..count {
            let (p, s) = (predicted.col_as_slice(j), sets.col_as_slice(j));
            let size: f32 = s.iter().sum();
            let half = p.iter().zip(s).map(|(p, s)| p * s).sum::<f32>() / size.max(1.0) / 2.0;
            let taken = p.iter().filter(|p| **p > half).count();
            if size > 0.0 && taken >= FEWEST && taken as f64 <= WHOLE * n as f64 {
                next.col_as_slice_mut(j).iter_mut().zip(p).for_each(|(s, p)| *s = f32::from(u8::from(*p > half)));
            }
        }
        let settled = next == sets;
        sets = next;
        if settled {
            break;
        }
    }
    let columns = (0..count).map(|j| sets.col_as_slice(j).iter().map(|s| *s > 0.0).collect::<Vec<bool>>());
    columns.filter(|set| set.contains(&true)).collect()
}

/// The sets less those that nearly are an earlier one.
fn distinct(sets: Vec<Vec<bool>>) -> Vec<Vec<bool>> {
    let mut kept: Vec<Vec<bool>> = Vec::new();
    for set in sets {
        if kept.iter().all(|other| overlap(&set, other) <= SAME) {
            kept.push(set);
        }
    }
    kept
}

/// Share that two sets have in common of what either has (Jaccard).
pub(super) fn overlap(a: &[bool], b: &[bool]) -> f64 {
    let both = a.iter().zip(b).filter(|(a, b)| **a && **b).count();
    let either = a.iter().zip(b).filter(|(a, b)| **a || **b).count();
    both as f64 / either.max(1) as f64
}

/// The sets of the class of `members` with their separation over the whole data set.
pub(super) fn judge(ridge: &Ridge, rows: &ClassRows, members: &[usize], sets: &[Vec<bool>]) -> Vec<Candidate> {
    let n = members.len();
    let targets = Mat::<f32>::from_fn(n, sets.len(), |i, j| f32::from(u8::from(sets[j][i])));
    let own = rows.leave_one_out(targets.as_ref());
    let mut other = vec![true; ridge.samples()];
    members.iter().for_each(|&i| other[i] = false);
    let elsewhere = ridge.leave_one_out_of_others(View::Images, rows.weights(targets.as_ref()).as_ref(), targets.as_ref());
    let judged = sets.iter().enumerate().map(|(j, set)| {
        let score = own.col_as_slice(j);
        let [inside, rest] = Moments::of_groups(score, set);
        let beyond = Moments::of(elsewhere.col_as_slice(j).iter().zip(&other).filter(|(_, o)| **o).map(|(p, _)| *p));
        Candidate {
            set: set.clone(),
            score: score.to_vec(),
            others: separation([inside, beyond]),
            class: separation([inside, rest]),
        }
    });
    judged.collect()
}
