//! Which classes hold a backdoor, by evidence that needs no order of learning: a class under attack falls into two halves that a
//! linear model tells apart, and either a model that has not seen the poisoned half calls it everything but the class's name, or
//! what sets it apart takes images of other classes into the class.

use serde::Serialize;

use super::ridge::{Ridge, View};
use crate::data::Dataset;
use crate::train::{Observer, TrainError};

/// Self-training ends after so many rounds at the latest.
const ROUNDS: usize = 10;
/// A half must be at least and at most so much of its class: classes without a backdoor end near one or the other.
const SHARE: [f64; 2] = [0.02, 0.95];
/// Ashman's D (Ashman et al. 1994) from which two halves count as distinct.
const DISTINCT: f64 = 3.0;
/// Of the greatest possible entropy over the other classes, ln(K - 1): what a half from many classes has at least.
const ENTROPY: f64 = 0.75;
/// Of the images of other classes, what the difference of the halves has to take into the class. Varieties: at most 20 %
/// (docs/method.md).
const TRANSFER: f64 = 0.4;

/// With fewer classes a half has too few names to be called by: the entropy says nothing.
const FEWEST_CLASSES: usize = 4;

/// What is seen of one class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassEvidence {
    pub class: u32,
    /// Samples with its label.
    pub samples: usize,
    /// Samples of the half under suspicion.
    pub half: usize,
    /// Ashman's D between the two halves.
    pub distinct: f64,
    /// Entropy of the names that the half is given by a model that has not seen it, as a share of the greatest possible; none
    /// where the halves are not distinct, cut by Otsu's threshold only, or the classes too few.
    pub entropy: Option<f64>,
    /// Share of other classes' images that what sets the half apart takes into the class; none where they are not distinct
    /// or the classes too few.
    pub transfer: Option<f64>,
    pub finding: Finding,
}

/// What a class is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finding {
    /// No two distinct halves, or only such as Otsu's threshold cuts from any class.
    Whole,
    /// Two distinct halves, of which none is called by many other classes' names or takes other classes' images along: a variety, or
    /// poison from one class.
    Varied,
    /// One half is poison.
    Backdoor,
}

/// A class in two halves.
pub(super) struct Halves {
    pub seen: ClassEvidence,
    /// The samples of the class, and how far each lies on the side under suspicion: above 0 it belongs to that half.
    pub members: Vec<(usize, f32)>,
}

/// The evidence that a sample is poisoned, about -1 to 1: a left-out regression on +1 for the `flagged` samples of its class and
/// -1 for the others. One value for each of `of`, which are all samples of one class.
pub(super) fn evidence(ridge: &Ridge, view: View, flagged: &[bool], of: &[usize]) -> Vec<f32> {
    let target: Vec<(usize, f32)> = of.iter().map(|&i| (i, if flagged[i] { 1.0 } else { -1.0 })).collect();
    ridge.leave_one_out(view, &target, of)
}

/// Every class in two halves. Which half is poison is for those to say who have not seen it: easy data has the clean half for
/// the easier one. Without `confirm` distinct halves are enough, and the easier one is suspected unless the other is confirmed.
/// `transfer`: of a class, one half and the other, as `Transfer::share`.
///
/// # Errors
/// A wish to stop; features that are not finite; those of `transfer`.
pub(super) fn find(
    ridge: &Ridge,
    data: &Dataset,
    confirm: bool,
    mut transfer: impl FnMut(u32, &[usize], &[usize]) -> Result<f64, TrainError>,
    observer: &dyn Observer,
) -> Result<Vec<Halves>, TrainError> {
    let classes = data.classes.len();
    let ease = ridge.ease(&data.labels, classes);
    let mut found = Vec::new();
    observer.begin("evidence by class", classes as u64);
    for class in 0..classes as u32 {
        if observer.cancelled() {
            return Err(TrainError::Cancelled);
        }
        observer.advance(1);
        let members: Vec<usize> = (0..data.len()).filter(|&i| data.labels[i] == class).collect();
        let Some(first) = self_train(ridge, &members, &ease, Border::Zero) else { continue };
        // A faint trigger lets the half under +1 grow over the whole class; a border that moves along holds it.
        let again = if first.apart { None } else { self_train(ridge, &members, &ease, Border::Otsu) };
        let faint = again.as_ref().is_some_and(|parted| parted.apart);
        let Parted { easy, margin, distinct, apart } = again.filter(|_| faint).unwrap_or(first);
        let easier = easy.iter().filter(|e| **e).count();
        let half =
            |side: bool| -> Vec<usize> { members.iter().zip(&easy).filter(|(_, e)| **e == side).map(|(i, _)| *i).collect() };
        let entropy = |half: &[usize]| {
            let names = ridge.leave_group_out(&data.labels, classes, half)?;
            Ok::<_, TrainError>(named(&names, class) / ((classes - 1) as f64).ln())
        };
        // Of the easier and of the harder half.
        let (mut entropies, mut transfers) = (None, None);
        if apart && classes >= FEWEST_CLASSES {
            let (easier, harder) = (half(true), half(false));
            // Otsu's threshold cuts any class in two, and the names of a part are soon many: only a trigger at work counts.
            entropies = if faint { None } else { Some([entropy(&easier)?, entropy(&harder)?]) };
            transfers = Some([transfer(class, &easier, &harder)?, transfer(class, &harder, &easier)?]);
        }
        // Names first: what sets a clean half apart from images of other classes draws its class, and takes some along by that.
        let reaches = |least: f64| move |of: &[f64; 2]| of[0].max(of[1]) >= least;
        let confirming = entropies.filter(reaches(ENTROPY)).or(transfers.filter(reaches(TRANSFER)));
        let side = confirming.or(entropies.filter(|_| confirm)).is_none_or(|[easier, harder]| easier >= harder);
        let finding = match apart {
            true if confirming.is_some() || !(confirm || faint) => Finding::Backdoor,
            true if !faint => Finding::Varied,
            _ => Finding::Whole,
        };
        let most = |of: Option<[f64; 2]>| of.map(|[easier, harder]| easier.max(harder));
        let seen = ClassEvidence {
            class,
            samples: members.len(),
            half: if side { easier } else { members.len() - easier },
            distinct,
            entropy: most(entropies),
            transfer: most(transfers),
            finding,
        };
        log::info!("{seen:?}; of the easier and the harder half: entropies {entropies:.2?}, transfers {transfers:.2?}");
        let sign = if side { 1.0 } else { -1.0 };
        found.push(Halves { seen, members: members.iter().zip(&margin).map(|(i, m)| (*i, sign * m)).collect() });
    }
    Ok(found)
}

/// Where self-training draws the border between the halves.
#[derive(Clone, Copy)]
enum Border {
    /// Where the regression puts it, between +1 and -1.
    Zero,
    /// At Otsu's threshold.
    Otsu,
}

/// A class in two, sample by sample.
struct Parted {
    /// Whether it belongs to the half that began as the easier one.
    easy: Vec<bool>,
    /// How far it lies on that half's side.
    margin: Vec<f32>,
    /// Ashman's D between the halves.
    distinct: f64,
    /// Whether these are two distinct halves.
    apart: bool,
}

/// Two halves of a class: begins with the easier samples, then names the half that left-out regressions, on the network's
/// features too, find most alike. Nothing for a class of fewer than two samples.
fn self_train(ridge: &Ridge, members: &[usize], ease: &[f32], border: Border) -> Option<Parted> {
    let mine: Vec<f32> = members.iter().map(|&i| ease[i]).collect();
    let level = otsu(&mine)?;
    let mut easy: Vec<bool> = mine.iter().map(|s| *s > level).collect();
    let mut flagged = vec![false; ease.len()];
    let mut margin = Vec::new();
    for _ in 0..ROUNDS {
        members.iter().zip(&easy).for_each(|(&i, e)| flagged[i] = *e);
        margin = evidence(ridge, View::All, &flagged, members);
        if let Border::Otsu = border {
            let level = otsu(&margin)?;
            margin.iter_mut().for_each(|m| *m -= level);
        }
        let next: Vec<bool> = margin.iter().map(|m| *m > 0.0).collect();
        let settled = next == easy;
        easy = next;
        if settled {
            break;
        }
    }
    let distinct = ashman(&margin, &easy);
    let share = easy.iter().filter(|e| **e).count() as f64 / members.len() as f64;
    let apart = (SHARE[0]..=SHARE[1]).contains(&share) && distinct >= DISTINCT;
    Some(Parted { easy, margin, distinct, apart })
}

/// Entropy, in nats, of the classes other than `class` that left-out samples are taken for, over the surer half of them.
fn named(predicted: &[Vec<f32>], class: u32) -> f64 {
    let mut best: Vec<(f32, usize)> = predicted
        .iter()
        .map(|row| {
            let mut others: Vec<usize> = (0..row.len()).filter(|k| *k != class as usize).collect();
            others.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            let runner_up = others.get(1).map_or(f32::NEG_INFINITY, |&k| row[k]);
            (row[others[0]] - runner_up, others[0])
        })
        .collect();
    best.sort_by(|a, b| b.0.total_cmp(&a.0));
    best.truncate(predicted.len().div_ceil(2));
    let mut counts = vec![0usize; predicted.first().map_or(0, Vec::len)];
    best.iter().for_each(|(_, k)| counts[*k] += 1);
    let total = best.len() as f64;
    counts.iter().filter(|c| **c > 0).map(|&c| c as f64 / total).map(|p| -p * p.ln()).sum()
}

/// The threshold that parts `values` into two groups of least variance within (Otsu 1979); none of fewer than two values.
fn otsu(values: &[f32]) -> Option<f32> {
    let mut sorted: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
    sorted.sort_by(f64::total_cmp);
    let (n, total) = (sorted.len(), sorted.iter().sum::<f64>());
    let mut below = 0.0;
    let mut best: Option<(f64, f64)> = None;
    for k in 1..n {
        below += sorted[k - 1];
        let (low, high) = (below / k as f64, (total - below) / (n - k) as f64);
        let between = (k * (n - k)) as f64 * (high - low).powi(2);
        if best.is_none_or(|(most, _)| between > most) {
            best = Some((between, f64::midpoint(sorted[k - 1], sorted[k])));
        }
    }
    best.map(|(_, level)| level as f32)
}

/// Ashman's D = sqrt(2) |m1 - m2| / sqrt(v1 + v2) between the values of two groups; 0 where one has fewer than two.
fn ashman(values: &[f32], group: &[bool]) -> f64 {
    let of = |side: bool| {
        let mine: Vec<f64> = values.iter().zip(group).filter(|(_, g)| **g == side).map(|(v, _)| f64::from(*v)).collect();
        let mean = mine.iter().sum::<f64>() / mine.len() as f64;
        (mine.len(), mean, mine.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / mine.len() as f64)
    };
    let (a, b) = (of(true), of(false));
    if a.0 < 2 || b.0 < 2 {
        return 0.0;
    }
    std::f64::consts::SQRT_2 * (a.1 - b.1).abs() / (a.2 + b.2).max(f64::MIN_POSITIVE).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{LoadOptions, Spec, load};
    use crate::train::Silent;
    use approx::assert_relative_eq;

    #[test]
    fn otsu_parts_two_clusters_between_them() {
        let level = otsu(&[0.1, 0.9, 0.2, 1.0, 0.15]).unwrap();
        assert_relative_eq!(level, 0.55, epsilon = 1e-6);
        assert_eq!(otsu(&[1.0]), None);
    }

    #[test]
    fn ashman_of_two_groups_by_hand() {
        // Means 1 and 5, variances 1 and 1: sqrt(2) 4 / sqrt(2).
        assert_relative_eq!(ashman(&[0.0, 2.0, 4.0, 6.0], &[true, true, false, false]), 4.0, epsilon = 1e-9);
        assert!(ashman(&[1.0, 2.0], &[true, false]).abs() < 1e-12);
    }

    #[test]
    fn entropy_counts_the_other_classes_that_the_surer_half_is_called() {
        let row = |best: usize, by: f32| (0..4).map(|k| if k == best { by } else { 0.0 }).collect::<Vec<f32>>();
        // Of four, the surer two are called 1 and 2; class 0 itself does not count.
        let rows = [row(1, 0.9), row(2, 0.8), row(3, 0.1), vec![5.0, 0.0, 0.0, 0.05]];
        assert_relative_eq!(named(&rows, 0), 2f64.ln(), epsilon = 1e-9);
    }

    /// The digits; with `poison` every eleventh has a white corner and the label 0.
    fn digits(poison: bool) -> (Dataset, Vec<bool>) {
        let options = LoadOptions::default();
        let mut data = load(&Spec::find("digits").unwrap(), &options).unwrap().train;
        let truth: Vec<bool> = (0..data.len()).map(|i| poison && i % 11 == 3).collect();
        let side = data.size;
        for i in (0..data.len()).filter(|&i| truth[i]) {
            data.labels[i] = 0;
            for (y, x) in (0..9).map(|k| (side - 1 - k / 3, side - 1 - k % 3)) {
                data.pixels[((i * side + y) * side + x) * 3..][..3].fill(255);
            }
        }
        (data, truth)
    }

    /// From the images alone: no network was trained.
    fn halves(data: &Dataset, confirm: bool) -> Vec<Halves> {
        taking(data, confirm, |_, _, _| Ok(0.0))
    }

    /// The same, with what `transfer` says.
    fn taking(
        data: &Dataset,
        confirm: bool,
        transfer: impl FnMut(u32, &[usize], &[usize]) -> Result<f64, TrainError>,
    ) -> Vec<Halves> {
        let ridge = Ridge::new(&super::super::shallow::features(data), &[], data.len()).unwrap();
        let found = find(&ridge, data, confirm, transfer, &Silent).unwrap();
        assert_eq!(found.len(), data.classes.len());
        found.into_iter().filter(|h| h.seen.finding == Finding::Backdoor).collect()
    }

    #[test]
    fn finds_the_poisoned_half_of_the_class_under_attack() {
        let (data, truth) = digits(true);
        let found = halves(&data, true);
        assert_eq!(found.iter().map(|h| h.seen.class).collect::<Vec<_>>(), [0]);
        let half: Vec<usize> = found[0].members.iter().filter(|(_, m)| *m > 0.0).map(|(i, _)| *i).collect();
        let right = half.iter().filter(|i| truth[**i]).count();
        let (flagged, poisoned) = (half.len(), truth.iter().filter(|t| **t).count());
        assert!(right as f64 >= 0.9 * flagged.max(poisoned) as f64, "{right} of {flagged} flagged, {poisoned} poisoned");
        let seen = &found[0].seen;
        assert_eq!((seen.half, seen.samples), (flagged, data.labels.iter().filter(|l| **l == 0).count()));
        assert!(seen.distinct >= DISTINCT && seen.entropy.is_some_and(|e| (ENTROPY..=1.0).contains(&e)), "{seen:?}");
    }

    /// Where the names speak they say which half it is; where they do not, the half that takes other classes along.
    #[test]
    fn names_decide_and_then_what_takes_other_classes_along() {
        let (data, truth) = digits(true);
        let poison = |half: &[usize]| half.iter().filter(|i| truth[**i]).count() * 2 > half.len();
        let found = taking(&data, true, |class, half, _| Ok(if class == 0 && !poison(half) { 0.9 } else { 0.1 }));
        assert_eq!(found.len(), 1);
        let seen = &found[0].seen;
        assert!(seen.class == 0 && seen.transfer == Some(0.9) && seen.entropy.is_some_and(|e| e >= ENTROPY), "{seen:?}");
        assert!(poison(&found[0].members.iter().filter(|(_, m)| *m > 0.0).map(|(i, _)| *i).collect::<Vec<_>>()));
        // Class 1 falls into two natural halves, which the names do not confirm: the smaller one is taken at its word.
        let smaller = |half: &[usize], rest: &[usize]| half.len() < rest.len();
        let found = taking(&digits(false).0, true, |class, half, rest| {
            Ok(if class == 1 && smaller(half, rest) { TRANSFER } else { 0.0 })
        });
        assert_eq!(found.iter().map(|h| h.seen.class).collect::<Vec<_>>(), [1]);
        assert!(2 * found[0].seen.half < found[0].seen.samples, "{:?}", found[0].seen);
    }

    /// Class 5 has no two halves at zero, but two at Otsu's threshold: these count by a trigger at work only.
    #[test]
    fn faint_halves_count_only_if_they_take_other_classes_along() {
        let (data, _) = digits(false);
        let found = taking(&data, true, |class, _, _| Ok(if class == 5 { TRANSFER } else { 0.0 }));
        let seen: Vec<_> = found.iter().map(|h| (h.seen.class, h.seen.entropy, h.seen.transfer)).collect();
        assert_eq!(seen, [(5, None, Some(TRANSFER))]);
        assert!(halves(&data, false).iter().all(|h| h.seen.class != 5));
    }

    #[test]
    fn finds_nothing_where_nothing_was_poisoned() {
        assert!(halves(&digits(false).0, true).is_empty());
    }

    #[test]
    fn with_three_classes_nothing_is_confirmed_and_halves_count_only_unasked() {
        let (all, _) = digits(true);
        let few: Vec<usize> = (0..all.len()).filter(|&i| all.labels[i] < 3).collect();
        let mut data = all.subset(&few);
        data.classes.truncate(3);
        assert!(halves(&data, true).is_empty());
        let unasked = halves(&data, false);
        assert!(unasked.iter().any(|h| h.seen.class == 0 && h.seen.entropy.is_none()));
    }
}
