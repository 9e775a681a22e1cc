//! The pre-filter: a backdoor is learned first, so the samples of lowest mean loss are likely poisoned.

use crate::train::TrainError;

/// Marks the `share` of samples with the lowest `loss` (summed or averaged over epochs).
///
/// # Errors
/// A share that rounds to no sample, or leaves none.
pub(super) fn lowest(loss: &[f64], share: f64) -> Result<Vec<bool>, TrainError> {
    let count = (share * loss.len() as f64).round() as usize;
    if count == 0 || count >= loss.len() {
        let n = loss.len();
        return Err(TrainError::Data(format!(
            "the pre-filter's share {share} of {n} samples is {count}; it must leave at least one on both sides"
        )));
    }
    let mut order: Vec<usize> = (0..loss.len()).collect();
    order.sort_by(|&a, &b| loss[a].total_cmp(&loss[b]));
    let mut chosen = vec![false; loss.len()];
    for &i in &order[..count] {
        chosen[i] = true;
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::lowest;

    #[test]
    fn takes_the_lowest_losses() {
        let chosen = lowest(&[0.5, 0.1, 0.9, 0.2, 0.3], 0.4).unwrap();
        assert_eq!(chosen, [false, true, false, true, false]);
    }

    #[test]
    fn refuses_a_share_of_nothing_or_everything() {
        assert!(lowest(&[0.1, 0.2], 0.01).is_err());
        assert!(lowest(&[0.1, 0.2], 1.0).is_err());
    }
}
