//! Initial values: He et al. 2015 (normal, fan out) for convolutions, PyTorch's default for the linear layer.

use rand::{Rng, RngExt};

use super::{Param, ParamKind, ParamSet};
use crate::rng;

/// Draws every parameter from the seed.
pub fn initialise(params: &ParamSet, seed: u64) {
    let mut rng = rng::stream(seed, "init");
    for p in params.params() {
        params.write(p, &draw(p, &mut rng));
    }
}

fn draw(p: &Param, rng: &mut impl Rng) -> Vec<f32> {
    let n: usize = p.kind.torch_shape().iter().product();
    match p.kind {
        ParamKind::Conv { out, kernel, .. } => {
            let std = (2.0 / (out * kernel * kernel) as f64).sqrt();
            (0..n).map(|_| (std * rng::normal(rng)) as f32).collect()
        }
        ParamKind::Matrix { inputs, .. } => {
            let bound = 1.0 / (inputs as f32).sqrt();
            (0..n).map(|_| rng.random_range(-bound..bound)).collect()
        }
        ParamKind::Scale(_) | ParamKind::RunningVar(_) => vec![1.0; n],
        ParamKind::Bias(_) | ParamKind::RunningMean(_) | ParamKind::Counter => vec![0.0; n],
    }
}
