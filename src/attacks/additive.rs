//! Triggers that are a fixed signal added to the image.

use super::Attack;

/// x' = round(clip(x + signal, 0, 255)).
pub(super) struct Additive {
    /// `[size, size, 3]`, in levels of 0..=255.
    pub signal: Vec<f64>,
}

impl Attack for Additive {
    fn apply(&self, image: &mut [u8]) {
        for (x, added) in image.iter_mut().zip(&self.signal) {
            *x = (f64::from(*x) + added).clamp(0.0, 255.0).round() as u8;
        }
    }
}
