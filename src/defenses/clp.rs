//! Channel Lipschitz pruning (Zheng et al. 2022): channels to which a small change of the input can do much are switched off. It needs no
//! data at all.
//!
//! A channel's bound is the largest singular value of its kernel, [inputs, k k], times |gamma| / sqrt(variance + eps) of the batch norm
//! behind it. Channels over the layer's mean by more than `clp_deviations` standard deviations are set to 0.

use faer::{Mat, Side};

use super::{Defense, Given, Lab, Split, outliers};
use crate::nn::ParamKind;
use crate::options::{Kind, OptionSpec};
use crate::train::{Network, TrainError};

/// The defense, as it is listed.
pub struct ChannelLipschitz;

const DEVIATIONS: OptionSpec = OptionSpec {
    name: "clp_deviations",
    help: "standard deviations over its layer's mean from which a channel is switched off",
    kind: Kind::Number { default: 3.0, allowed: |x| x > 0.0 && x.is_finite(), words: "a number above 0" },
};
/// Of batch norm, as PyTorch's default.
const EPS: f64 = 1e-5;

impl Defense for ChannelLipschitz {
    fn name(&self) -> &'static str {
        "CLP"
    }

    fn summary(&self) -> &'static str {
        "channel Lipschitz pruning: switches sensitive channels off, without any data"
    }

    fn purify_options(&self) -> &'static [OptionSpec] {
        &[DEVIATIONS]
    }

    fn purify(&self, lab: &Lab, given: &Given, _: &Split) -> Result<Network, TrainError> {
        let network = given.victim.duplicate(lab.kernels)?;
        let params = network.params.read()?;
        // The convolution before a batch norm, in the order of parameters.
        let mut kernel: Option<(usize, usize, &[f32])> = None;
        let mut off = 0;
        for (at, (param, values)) in params.iter().enumerate() {
            match param.kind {
                ParamKind::Conv { out, inputs, .. } => kernel = Some((out, inputs, values)),
                ParamKind::Scale(n) => {
                    let Some((out, inputs, weights)) = kernel.filter(|(out, ..)| *out == n) else { continue };
                    let find = |kind: ParamKind| params[at..].iter().find(|(param, _)| param.kind == kind);
                    let (Some((bias, shifts)), Some((_, variance))) = (find(ParamKind::Bias(n)), find(ParamKind::RunningVar(n)))
                    else {
                        continue;
                    };
                    let bounds = bounds(weights, [out, inputs], values, variance)?;
                    let outliers = outliers(&bounds, lab.options.number(&DEVIATIONS));
                    let without = |values: &[f32]| {
                        let mut values = values.to_vec();
                        outliers.iter().for_each(|channel| values[*channel] = 0.0);
                        values
                    };
                    network.params.write(param, &without(values));
                    network.params.write(bias, &without(shifts));
                    off += outliers.len();
                }
                _ => {}
            }
        }
        log::info!("{off} channels switched off");
        Ok(network)
    }
}

/// Of each channel of a convolution [out, inputs, k, k] with the batch norm behind it.
fn bounds(weights: &[f32], [out, inputs]: [usize; 2], gamma: &[f32], variance: &[f32]) -> Result<Vec<f64>, TrainError> {
    let taps = weights.len() / (out * inputs);
    let bound = |channel: usize| {
        let at = |i: usize, k: usize| f64::from(weights[(channel * inputs + i) * taps + k]);
        // The square of the largest singular value is the largest eigenvalue of W'W, [k k, k k].
        let gram = Mat::from_fn(taps, taps, |a, b| (0..inputs).map(|i| at(i, a) * at(i, b)).sum::<f64>());
        let values = gram.as_ref().self_adjoint_eigenvalues(Side::Lower);
        let values = values.map_err(|e| TrainError::Data(format!("a kernel's singular values: {e:?}")))?;
        let largest = values.into_iter().fold(0.0, f64::max).sqrt();
        Ok(largest * f64::from(gamma[channel]).abs() / (f64::from(variance[channel]) + EPS).sqrt())
    };
    (0..out).map(bound).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NumPy: `svd(w[c].reshape(4, 9))[1].max() * abs(gamma[c]) / sqrt(variance[c] + 1e-5)`.
    #[test]
    fn a_channels_bound_is_its_kernels_largest_singular_value_times_the_norms_scale() {
        #[rustfmt::skip]
        let weights = [
            0.00, 0.30, -0.27, -0.89, -0.45, -0.99, 0.06, 1.34, -0.49, -0.62, 0.49, 0.36, 0.11, -0.93, -0.03, 0.70, -1.34, -0.46,
            -1.90, -1.29, -1.84, -0.24, -1.27, 0.27, 0.16, -0.19, -2.52, -0.54, -0.05, 0.11, -1.53, -0.48, -0.98, -0.81, 1.06, -0.81,
            -0.03, 0.88, -0.58, -0.11, 0.11, 0.06, -1.23, 0.08, 1.36, -1.55, 0.86, 0.12, -0.64, 2.00, 0.76, -1.20, 0.07, 0.58,
            -0.19, 0.68, -0.07, 0.67, 1.44, -0.68, 0.20, -0.46, 0.13, -1.19, -0.58, -0.20, 0.90, 1.15, -1.32, -0.79, 0.65, -1.99,
            -0.46, -0.10, 1.26, 0.69, -0.33, -0.37, -0.25, 1.52, -0.43, -0.30, 0.35, -0.12, -0.20, -1.11, -0.01, -0.44, 1.17, 0.65,
            -0.02, 0.67, -0.34, 1.05, -0.01, 0.58, -1.29, 0.35, -1.69, -2.04, -0.30, -0.90, 0.16, 2.24, -0.83, -0.62, 0.21, 0.49,
        ];
        let found = bounds(&weights, [3, 4], &[1.5, -0.5, 2.0], &[0.25, 1.0, 4.0]).unwrap();
        for (found, numpy) in found.iter().zip([12.92978284016833, 1.8401867600125275, 3.412857432827886]) {
            assert!((found - numpy).abs() < 1e-5 * numpy, "{found}, NumPy says {numpy}");
        }
    }
}
