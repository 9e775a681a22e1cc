//! Statistics of numbers in two groups.

/// Mean and variance of some numbers; 0 and 0 of none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Moments {
    pub count: usize,
    pub mean: f64,
    pub variance: f64,
}

impl Moments {
    pub fn of(values: impl Iterator<Item = f32> + Clone) -> Moments {
        let (count, sum) = values.clone().fold((0usize, 0.0f64), |(n, s), v| (n + 1, s + f64::from(v)));
        let mean = sum / count.max(1) as f64;
        let variance = values.map(|v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count.max(1) as f64;
        Moments { count, mean, variance }
    }

    /// Of the values in the group and of the others.
    pub fn of_groups(values: &[f32], group: &[bool]) -> [Moments; 2] {
        [true, false].map(|side| Moments::of(values.iter().zip(group).filter(|(_, g)| **g == side).map(|(v, _)| *v)))
    }
}

/// How far group `a` lies above group `b`: Ashman's D = sqrt(2) (m_a - m_b) / sqrt(v_a + v_b) (Ashman et al. 1994), with its sign; 0
/// where a group has fewer than two values.
pub(super) fn separation([a, b]: [Moments; 2]) -> f64 {
    if a.count < 2 || b.count < 2 {
        return 0.0;
    }
    std::f64::consts::SQRT_2 * (a.mean - b.mean) / (a.variance + b.variance).max(1e-30).sqrt()
}

/// The threshold that parts `values` into two groups of least variance within (Otsu 1979); none of fewer than two values.
pub(super) fn otsu(values: &[f32]) -> Option<f32> {
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

/// The value below which a share `q` of `values` lies, between neighbours by their distance; 0 of none.
pub(super) fn quantile(values: &[f32], q: f64) -> f32 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let at = q * sorted.len().saturating_sub(1) as f64;
    let of = |i: f64| sorted.get(i as usize).copied().unwrap_or_default();
    of(at.floor()) + (of(at.ceil()) - of(at.floor())) * (at - at.floor()) as f32
}

/// The log-odds that each value belongs to the group rather than to the others, which lie below it: two normal distributions with the
/// groups' moments and sizes. Values beyond the two means count as the means, so that the odds never fall with the value.
pub(super) fn log_odds(values: &[f32], group: &[bool]) -> Vec<f32> {
    let moments = Moments::of_groups(values, group);
    let [upper, lower] = moments;
    let log = |m: Moments, v: f64| {
        let deviation = m.variance.sqrt() + 1e-9;
        (m.count.max(1) as f64).ln() - deviation.ln() - 0.5 * ((v - m.mean) / deviation).powi(2)
    };
    let inside = |v: f64| if lower.mean < upper.mean { v.clamp(lower.mean, upper.mean) } else { v };
    values.iter().map(|v| inside(f64::from(*v))).map(|v| (log(upper, v) - log(lower, v)) as f32).collect()
}

/// Entropy in nats of the shares that `counts` have of their sum.
pub(super) fn entropy(counts: &[usize]) -> f64 {
    let total = counts.iter().sum::<usize>().max(1) as f64;
    counts.iter().filter(|c| **c > 0).map(|&c| c as f64 / total).map(|p| -p * p.ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn otsu_parts_two_clusters_between_them() {
        assert_relative_eq!(otsu(&[0.1, 0.9, 0.2, 1.0, 0.15]).unwrap(), 0.55, epsilon = 1e-6);
        assert_eq!(otsu(&[1.0]), None);
    }

    #[test]
    fn separation_of_two_groups_by_hand_and_its_sign() {
        // Means 1 and 5, variances 1 and 1: sqrt(2) 4 / sqrt(2).
        let of = |group: &[bool]| separation(Moments::of_groups(&[0.0, 2.0, 4.0, 6.0], group));
        assert_relative_eq!(of(&[false, false, true, true]), 4.0, epsilon = 1e-9);
        assert_relative_eq!(of(&[true, true, false, false]), -4.0, epsilon = 1e-9);
        assert!(separation(Moments::of_groups(&[1.0, 2.0], &[true, false])).abs() < 1e-12);
    }

    /// NumPy: numpy.quantile([3, 1, 2, 10], [.5, .25, 1]).
    #[test]
    fn quantiles_as_numpy_has_them() {
        for (q, want) in [(0.5, 2.5), (0.25, 1.75), (1.0, 10.0)] {
            assert_relative_eq!(quantile(&[3.0, 1.0, 2.0, 10.0], q), want, epsilon = 1e-6);
        }
    }

    #[test]
    fn log_odds_of_two_normals_by_hand_and_never_falling() {
        // Groups (-1, 1) + 4 and (-1, 1, -1, 1): both of deviation 1, half as many above. At 2 the distances are equal.
        let values = [3.0, 5.0, -1.0, 1.0, -1.0, 1.0];
        let group = [true, true, false, false, false, false];
        assert_relative_eq!(log_odds(&values, &group)[0], (0.5f32).ln() - 0.5 + 4.5, epsilon = 1e-5);
        // A wide lower group would overtake the upper one far above its mean.
        let values = [4.0, 4.2, -9.0, 9.0, -30.0, 5.0];
        let odds = log_odds(&values, &group);
        let mut order: Vec<usize> = (0..6).collect();
        order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
        assert!(order.windows(2).all(|w| odds[w[0]] <= odds[w[1]]), "{odds:?}");
    }

    #[test]
    fn entropy_of_equal_shares_is_the_logarithm_of_their_number() {
        assert_relative_eq!(entropy(&[5, 0, 5, 5]), 3f64.ln(), epsilon = 1e-9);
        assert_eq!(entropy(&[0, 7]), 0.0);
    }
}
