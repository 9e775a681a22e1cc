//! Learning-rate schedules.

/// Cosine decay from `peak` at step 0 towards 0 at step `total` (Loshchilov and Hutter 2017, without restarts).
pub fn cosine(peak: f64, step: usize, total: usize) -> f64 {
    let t = step as f64 / total.max(1) as f64;
    0.5 * peak * (1.0 + (std::f64::consts::PI * t.min(1.0)).cos())
}

#[cfg(test)]
mod tests {
    use super::cosine;
    use approx::assert_relative_eq;

    #[test]
    fn falls_from_the_peak_through_half_to_zero() {
        assert_relative_eq!(cosine(0.2, 0, 10), 0.2);
        assert_relative_eq!(cosine(0.2, 5, 10), 0.1, epsilon = 1e-12);
        assert_relative_eq!(cosine(0.2, 10, 10), 0.0, epsilon = 1e-12);
    }
}
