//! The field's figures (BackdoorBench's definitions), with numerators and denominators.

use serde::{Deserialize, Serialize};

/// So many of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// How many.
    pub hits: usize,
    /// Of how many.
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
    /// Triggered images that get the attacker's label; none where there are no triggered images.
    pub asr: Option<Count>,
    /// The same images, those that get their true label.
    pub ra: Option<Count>,
    /// Accuracy on the clean images of the target class alone, of several attacks of all their targets; none where every class is one.
    pub t: Option<Count>,
    /// Clean test images of no target class that are taken for a target; none where every class is one.
    pub mistaken: Option<Count>,
}

/// What a model says of triggered images, `[N]` each.
#[derive(Clone, Copy, Debug)]
pub struct TriggeredClasses<'a> {
    /// What the model calls each.
    pub class: &'a [u32],
    /// The true labels; no image's is the one that the attacker wants for it.
    pub labels: &'a [u32],
    /// The label that the attacker wants; none where any wrong one will do.
    pub goal: &'a [Option<u32>],
}

impl TriggeredClasses<'_> {
    /// Those that get the label that the attacker wants.
    pub fn asr(&self) -> Count {
        let each = self.class.iter().zip(self.labels).zip(self.goal);
        Count::of(each.map(|((class, label), goal)| goal.map_or(class != label, |goal| *class == goal)))
    }

    /// Those that get their true label.
    pub fn ra(&self) -> Count {
        Count::of(self.class.iter().zip(self.labels).map(|(class, label)| class == label))
    }
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

/// `targets`: the classes that triggered images are to be taken for, where an attack has one.
pub fn model_metrics(
    clean_class: &[u32],
    clean_labels: &[u32],
    triggered: Option<TriggeredClasses>,
    targets: &[u32],
) -> ModelMetrics {
    let clean = || clean_class.iter().zip(clean_labels);
    let others = || clean().filter(|(_, l)| !targets.contains(l));
    ModelMetrics {
        acc: Count::of(clean().map(|(c, l)| c == l)),
        asr: triggered.map(|t| t.asr()),
        ra: triggered.map(|t| t.ra()),
        t: (!targets.is_empty()).then(|| Count::of(clean().filter(|(_, l)| targets.contains(l)).map(|(c, l)| c == l))),
        mistaken: (!targets.is_empty()).then(|| Count::of(others().map(|(c, _)| targets.contains(c)))),
    }
}

/// `[classes][classes]`: how many images of each true class (a row) a network takes for each class (a column).
pub fn confusion(classes: usize, truth: &[u32], said: &[u32]) -> Vec<Vec<usize>> {
    let mut counts = vec![vec![0; classes]; classes];
    truth.iter().zip(said).for_each(|(truth, said)| counts[*truth as usize][*said as usize] += 1);
    counts
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
        // By their order, which has a place for what is no number, too.
        let last =
            first + order[first..].iter().take_while(|&&i| score[i] == value || score[i].total_cmp(&value).is_eq()).count();
        let mean_rank = (first + 1 + last) as f64 / 2.0;
        rank_sum += mean_rank * order[first..last].iter().filter(|&&i| positive[i]).count() as f64;
        first = last;
    }
    let p = positive.iter().filter(|x| **x).count() as f64;
    let n = positive.len() as f64 - p;
    if p == 0.0 || n == 0.0 { 0.5 } else { (rank_sum - p * (p + 1.0) / 2.0) / (p * n) }
}

/// Defense effectiveness rating, 0 to 1: [max(0, ASR drop) - max(0, ACC drop) + 1] / 2; none without an ASR.
pub fn der(before: &ModelMetrics, after: &ModelMetrics) -> Option<f64> {
    let drop = |b: Count, a: Count| ((b.percent() - a.percent()) / 100.0).max(0.0);
    Some((drop(before.asr?, after.asr?) - drop(before.acc, after.acc) + 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn counts_by_the_definitions() {
        let triggered = TriggeredClasses { class: &[0, 0, 2, 1], labels: &[1, 2, 2, 2], goal: &[Some(0); 4] };
        let m = model_metrics(&[0, 1, 2, 0], &[0, 1, 1, 2], Some(triggered), &[0]);
        assert_eq!(m.acc, Count { hits: 2, of: 4 });
        assert_eq!(m.asr, Some(Count { hits: 2, of: 4 }));
        assert_eq!(m.ra, Some(Count { hits: 1, of: 4 }));
        assert_eq!(m.t, Some(Count { hits: 1, of: 1 }));
        assert_eq!(m.mistaken, Some(Count { hits: 1, of: 3 }), "the last one");
    }

    #[test]
    fn a_row_of_the_confusion_matrix_is_a_true_class() {
        let counts = confusion(3, &[0, 0, 0, 1, 1, 2], &[0, 2, 2, 1, 0, 2]);
        assert_eq!(counts, [[1, 0, 2], [1, 1, 0], [0, 0, 1]]);
    }

    #[test]
    fn all_to_all_counts_every_image_against_its_own_goal() {
        let triggered = TriggeredClasses { class: &[1, 2, 2, 2], labels: &[0, 1, 2, 1], goal: &[1, 2, 0, 2].map(Some) };
        let m = model_metrics(&[0], &[0], Some(triggered), &[]);
        assert_eq!((m.asr, m.ra, m.t), (Some(Count { hits: 3, of: 4 }), Some(Count { hits: 1, of: 4 }), None));
    }

    #[test]
    fn untargeted_counts_every_class_but_the_true_one() {
        let triggered = TriggeredClasses { class: &[1, 2, 2, 0], labels: &[0, 1, 2, 1], goal: &[None; 4] };
        let m = model_metrics(&[0], &[0], Some(triggered), &[]);
        assert_eq!((m.asr, m.ra, m.t), (Some(Count { hits: 3, of: 4 }), Some(Count { hits: 1, of: 4 }), None));
    }

    #[test]
    fn without_triggered_images_there_is_no_asr() {
        let m = model_metrics(&[0, 1], &[0, 0], None, &[0]);
        assert_eq!((m.asr, m.ra, m.acc), (None, None, Count { hits: 1, of: 2 }));
        assert_eq!(der(&m, &m), None);
    }

    #[test]
    fn auroc_counts_pairs_and_halves_ties() {
        let score = [0.9, 0.8, 0.8, 0.3, 0.1];
        let positive = [true, true, false, false, true];
        // Pairs (positive, negative): 0.9 wins 2; 0.8 ties 1, wins 1; 0.1 loses 2: 3.5 of 6.
        assert_relative_eq!(split_metrics(&[false; 5], &score, &positive).auroc, 3.5 / 6.0);
    }

    #[test]
    fn auroc_ends_with_scores_that_are_no_numbers() {
        let score = [f32::NAN, 0.5, f32::INFINITY, f32::NAN];
        // The pairs (NaN, .5), (NaN, infinity): what is no number counts as the highest.
        assert_relative_eq!(split_metrics(&[false; 4], &score, &[true, false, false, true]).auroc, 1.0);
    }

    #[test]
    fn der_rewards_a_lower_asr_and_charges_a_lower_acc() {
        let m = |acc, asr| ModelMetrics {
            acc: Count { hits: acc, of: 100 },
            asr: Some(Count { hits: asr, of: 100 }),
            ra: Some(Count { hits: 0, of: 100 }),
            t: Some(Count { hits: 0, of: 10 }),
            mistaken: None,
        };
        assert_relative_eq!(der(&m(90, 100), &m(88, 2)).expect("both have an ASR"), (0.98 - 0.02 + 1.0) / 2.0);
        assert_relative_eq!(der(&m(90, 50), &m(95, 60)).expect("both have an ASR"), 0.5);
    }
}
