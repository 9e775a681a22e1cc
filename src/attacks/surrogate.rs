//! What an attack may ask of a clean network. The network itself is handed in from above.

use super::AttackError;

/// What the gradient is of, summed over N images.
#[derive(Clone, Copy, Debug)]
pub enum Pull<'a> {
    /// Cross-entropy with these labels `[N]`.
    Labels(&'a [u32]),
    /// The penultimate features times these `[N, D]`.
    Features(&'a [f32]),
}

/// What a network says of N images.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// Penultimate features `[N, D]`.
    pub features: Vec<f32>,
    /// With respect to the pixels, `[N, size, size, 3]`, per level of 255.
    pub gradient: Vec<f32>,
}

/// A network trained on clean data, in evaluation mode.
pub trait Surrogate: Sync {
    /// Pixels are levels 0..=255, not necessarily whole, `[N, size, size, 3]`.
    ///
    /// # Errors
    /// The network's.
    fn respond(&self, pixels: &[f32], pull: Pull) -> Result<Response, AttackError>;

    /// Weights of the last layer, `[K, D]`.
    fn head(&self) -> &[f32];

    /// Number of penultimate features, D.
    fn features(&self) -> usize;
}
