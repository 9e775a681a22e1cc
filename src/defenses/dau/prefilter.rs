//! The pre-filter: a backdoor is learned first, so the samples of lowest mean loss are likely poisoned.

use crate::data::Dataset;
use crate::train::TrainError;

/// A class with fewer than this share of the best-represented class's samples is there by chance.
const STRAGGLERS: f64 = 0.25;

/// How many samples a `share` of `n` is.
///
/// # Errors
/// A share that rounds to no sample, or leaves none.
pub(super) fn count(share: f64, n: usize) -> Result<usize, TrainError> {
    let count = (share * n as f64).round() as usize;
    if count == 0 || count >= n {
        return Err(TrainError::Data(format!(
            "the pre-filter's share {share} of {n} samples is {count}; it must leave at least one on both sides: give another \
             --prefilter-share, or more images"
        )));
    }
    Ok(count)
}

/// Marks the `count` samples with the lowest `loss` (summed or averaged over epochs), but for stragglers: a few samples of
/// a class that the others are not of would draw that whole class in.
pub(super) fn lowest(loss: &[f64], data: &Dataset, count: usize) -> Vec<bool> {
    let n = loss.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| loss[a].total_cmp(&loss[b]));
    order.truncate(count);
    let mut of_class = vec![0usize; data.classes.len()];
    for &i in &order {
        of_class[data.labels[i] as usize] += 1;
    }
    let most = of_class.iter().max().copied().unwrap_or(0);
    let mut chosen = vec![false; n];
    for i in order {
        chosen[i] = of_class[data.labels[i] as usize] as f64 >= STRAGGLERS * most as f64;
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(labels: &[u32]) -> Dataset {
        Dataset {
            name: "test".into(),
            size: 1,
            classes: vec!["a".into(), "b".into()],
            pixels: vec![9; 3 * labels.len()],
            labels: labels.to_vec(),
            paths: vec![String::new(); labels.len()],
        }
    }

    #[test]
    fn takes_the_lowest_losses() {
        let chosen = lowest(&[0.5, 0.1, 0.9, 0.2, 0.3], &labelled(&[0, 1, 0, 1, 1]), 2);
        assert_eq!(chosen, [false, true, false, true, false]);
    }

    #[test]
    fn leaves_out_a_straggler_of_another_class() {
        let loss: Vec<f64> = (0..12).map(f64::from).collect();
        let labels = [0, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1];
        let chosen = lowest(&loss, &labelled(&labels), 6);
        assert_eq!(chosen[..6], [true, true, false, true, true, true]);
        assert!(!chosen[6..].contains(&true));
    }

    #[test]
    fn refuses_a_share_of_nothing_or_everything() {
        assert_eq!(count(0.1, 40).ok(), Some(4));
        assert!(count(0.01, 2).is_err());
        assert!(count(1.0, 2).is_err());
    }
}
