//! The field's figures (BackdoorBench's definitions), with numerators and denominators.

use serde::{Deserialize, Serialize};

/// So many of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub hits: usize,
    pub of: usize,
}

impl Count {
    /// Counts the true ones.
    pub fn of(outcomes: impl Iterator<Item = bool>) -> Count {
        outcomes.fold(Count { hits: 0, of: 0 }, |c, hit| Count { hits: c.hits + usize::from(hit), of: c.of + 1 })
    }

    /// 0 where there is nothing to count.
    pub fn percent(self) -> f64 {
        if self.of == 0 { 0.0 } else { 100.0 * self.hits as f64 / self.of as f64 }
    }
}

/// What a model does on clean and on triggered test images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelMetrics {
    /// Accuracy on all clean test images.
    pub acc: Count,
    /// Triggered images of other classes that get the attacker's label.
    pub asr: Count,
    /// The same images, those that get their true label.
    pub ra: Count,
    /// Accuracy on the clean images of the target class alone.
    pub t: Count,
}

/// How well a split finds the poison of a simulated attack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitMetrics {
    /// Flagged samples that are poisoned.
    pub precision: Count,
    /// Poisoned samples that are flagged (the true positive rate).
    pub recall: Count,
    /// Clean samples that are flagged.
    pub fpr: Count,
    /// Area under the ROC curve of the score, 0 to 1; .5 where one side is empty.
    pub auroc: f64,
}

/// `triggered_labels` are the true labels; the triggered images must not include the target's own.
pub fn model_metrics(
    clean_class: &[u32],
    clean_labels: &[u32],
    triggered_class: &[u32],
    triggered_labels: &[u32],
    target: u32,
) -> ModelMetrics {
    let clean = || clean_class.iter().zip(clean_labels);
    ModelMetrics {
        acc: Count::of(clean().map(|(c, l)| c == l)),
        asr: Count::of(triggered_class.iter().map(|c| *c == target)),
        ra: Count::of(triggered_class.iter().zip(triggered_labels).map(|(c, l)| c == l)),
        t: Count::of(clean().filter(|(_, l)| **l == target).map(|(c, l)| c == l)),
    }
}

/// `score`: higher is more likely poisoned.
pub fn split_metrics(flagged: &[bool], score: &[f32], is_poison: &[bool]) -> SplitMetrics {
    let both = || flagged.iter().copied().zip(is_poison.iter().copied());
    SplitMetrics {
        precision: Count::of(both().filter(|(f, _)| *f).map(|(_, p)| p)),
        recall: Count::of(both().filter(|(_, p)| *p).map(|(f, _)| f)),
        fpr: Count::of(both().filter(|(_, p)| !*p).map(|(f, _)| f)),
        auroc: auroc(score, is_poison),
    }
}

/// Mann and Whitney's U over its maximum; ties count half.
fn auroc(score: &[f32], positive: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..score.len()).collect();
    order.sort_by(|&a, &b| score[a].total_cmp(&score[b]));
    let (mut rank_sum, mut first) = (0.0, 0);
    while first < order.len() {
        let value = score[order[first]];
        let last = first + order[first..].iter().take_while(|&&i| score[i] == value).count();
        let mean_rank = (first + 1 + last) as f64 / 2.0;
        rank_sum += mean_rank * order[first..last].iter().filter(|&&i| positive[i]).count() as f64;
        first = last;
    }
    let p = positive.iter().filter(|x| **x).count() as f64;
    let n = positive.len() as f64 - p;
    if p == 0.0 || n == 0.0 { 0.5 } else { (rank_sum - p * (p + 1.0) / 2.0) / (p * n) }
}

/// Defense effectiveness rating, 0 to 1: [max(0, ASR drop) - max(0, ACC drop) + 1] / 2.
pub fn der(before: &ModelMetrics, after: &ModelMetrics) -> f64 {
    let drop = |b: Count, a: Count| ((b.percent() - a.percent()) / 100.0).max(0.0);
    (drop(before.asr, after.asr) - drop(before.acc, after.acc) + 1.0) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn counts_by_the_definitions() {
        let m = model_metrics(&[0, 1, 2, 0], &[0, 1, 1, 2], &[0, 0, 2, 1], &[1, 2, 2, 2], 0);
        assert_eq!(m.acc, Count { hits: 2, of: 4 });
        assert_eq!(m.asr, Count { hits: 2, of: 4 });
        assert_eq!(m.ra, Count { hits: 1, of: 4 });
        assert_eq!(m.t, Count { hits: 1, of: 1 });
    }

    #[test]
    fn auroc_counts_pairs_and_halves_ties() {
        let score = [0.9, 0.8, 0.8, 0.3, 0.1];
        let positive = [true, true, false, false, true];
        // Pairs (positive, negative): 0.9 wins 2; 0.8 ties 1, wins 1; 0.1 loses 2: 3.5 of 6.
        assert_relative_eq!(split_metrics(&[false; 5], &score, &positive).auroc, 3.5 / 6.0);
    }

    #[test]
    fn der_rewards_a_lower_asr_and_charges_a_lower_acc() {
        let m = |acc, asr| ModelMetrics {
            acc: Count { hits: acc, of: 100 },
            asr: Count { hits: asr, of: 100 },
            ra: Count { hits: 0, of: 100 },
            t: Count { hits: 0, of: 10 },
        };
        assert_relative_eq!(der(&m(90, 100), &m(88, 2)), (0.98 - 0.02 + 1.0) / 2.0);
        assert_relative_eq!(der(&m(90, 50), &m(95, 60)), 0.5);
    }
}
