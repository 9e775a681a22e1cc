//! What the convolution and its gradients are tried on.

use super::{Conv2d, Conv2dAdd, Conv2dInputGrad, Conv2dNorm, Conv2dWeightGrad};
use crate::graph::GraphError;
use crate::kernel::Kernels;
use crate::ops::{BatchNormEval, Case, Fill, check};

/// n, height, width, ci, co, kernel, stride: odd extents, channels below, at and past the tiles, pixels for many workgroups.
const SIZES: &[[usize; 7]] = &[
    [2, 8, 8, 16, 16, 3, 1],
    [2, 9, 7, 4, 8, 3, 1],
    [1, 8, 6, 32, 64, 3, 1],
    [3, 7, 7, 12, 20, 3, 2],
    [2, 8, 8, 16, 32, 3, 2],
    [2, 8, 6, 36, 40, 1, 1],
    [3, 7, 9, 16, 4, 1, 2],
    [5, 2, 2, 64, 128, 3, 1],
    [1, 1, 1, 8, 12, 3, 1],
    [8, 8, 8, 128, 128, 3, 1],
    [9, 7, 5, 132, 128, 3, 1],
    [33, 4, 4, 128, 140, 3, 1],
    [2, 125, 123, 32, 32, 3, 1],
    [2, 125, 123, 16, 16, 3, 1],
    [1, 33, 25, 16, 48, 3, 1],
    [1, 33, 25, 64, 16, 3, 1],
    [1, 33, 25, 24, 40, 3, 1],
    [2, 5, 35, 12, 20, 3, 1],
    [2, 129, 129, 20, 36, 1, 1],
    [2, 257, 259, 4, 12, 3, 2],
    [2, 64, 64, 4, 8, 7, 2],
    [3, 21, 18, 4, 64, 7, 2],
];

/// Long sums of whole numbers: f16 holds them and f32 their sums, so what comes out is exact or wrong.
const WHOLE: Fill = Fill::Index { below: 16 };
const WHOLE_SIZES: &[[usize; 7]] = &[[1, 4, 4, 512, 32, 3, 1], [1, 4, 4, 32, 512, 3, 1], [2, 33, 40, 8, 12, 3, 1]];

/// An upstream gradient of which f16 would hold nothing.
const FAINT: Fill = Fill::Normal { mean: 0.0, std: 1e-9 };
const FAINT_SIZES: &[[usize; 7]] = &[[2, 8, 8, 16, 32, 3, 2]];

pub fn cases() -> Vec<Case> {
    let each = |sizes, kind, fill| {
        each_size(sizes, kind, |name, [n, h, w, ci, co, k, s], pad, _| {
            Case::new(name, Conv2d { stride: s as u32, pad })
                .f32(&[n, h, w, ci], fill)
                .f32(&[k, k, ci, co], fill)
                .terms(k * k * ci)
        })
    };
    [each(SIZES, "", Fill::NORMAL), each(WHOLE_SIZES, ", whole numbers", WHOLE)].concat()
}

/// Each size with two of the four epilogues, by turns with those that do both or nothing and with those that do either.
pub fn norm_cases() -> Vec<Case> {
    [true, false].map(norm_cases_with).concat()
}

fn norm_cases_with(relu: bool) -> Vec<Case> {
    let mut residual = !relu;
    each_size(SIZES, "", |name, [n, h, w, ci, co, k, s], pad, [oh, ow]| {
        residual = !residual;
        let op = Conv2dNorm { conv: Conv2d { stride: s as u32, pad }, norm: BatchNormEval { eps: 1e-5, relu, residual } };
        let case = Case::new(&format!("{name} relu {relu} residual {residual}"), op)
            .f32(&[n, h, w, ci], Fill::NORMAL)
            .f32(&[k, k, ci, co], Fill::NORMAL)
            .f32(&[co], Fill::NORMAL)
            .f32(&[co], Fill::NORMAL)
            .f32(&[co], Fill::NORMAL)
            .f32(&[co], Fill::Uniform { low: 0.5, high: 1.5 })
            .terms(k * k * ci);
        if residual { case.f32(&[n, oh, ow, co], Fill::NORMAL) } else { case }
    })
}

/// With something to add.
pub fn add_cases() -> Vec<Case> {
    each_size(SIZES, "", |name, [n, h, w, ci, co, k, s], pad, [oh, ow]| {
        Case::new(name, Conv2dAdd(Conv2d { stride: s as u32, pad }))
            .f32(&[n, h, w, ci], Fill::NORMAL)
            .f32(&[k, k, ci, co], Fill::NORMAL)
            .f32(&[n, oh, ow, co], Fill::NORMAL)
            .terms(k * k * ci)
    })
}

/// With something to add, which a scaled gradient must not scale.
pub fn input_grad_add_cases() -> Vec<Case> {
    gradients(|sizes, kind, gy, fill| {
        each_size(sizes, kind, |name, [n, h, w, ci, co, k, s], pad, [oh, ow]| {
            Case::new(name, Conv2dAdd(Conv2dInputGrad { stride: s as u32, pad, input: [h, w] }))
                .f32(&[n, oh, ow, co], gy)
                .f32(&[k, k, ci, co], fill)
                .f32(&[n, h, w, ci], gy)
                .terms(k * k * co)
        })
    })
}

pub fn input_grad_cases() -> Vec<Case> {
    gradients(|sizes, kind, gy, fill| {
        each_size(sizes, kind, |name, [n, h, w, ci, co, k, s], pad, [oh, ow]| {
            Case::new(name, Conv2dInputGrad { stride: s as u32, pad, input: [h, w] })
                .f32(&[n, oh, ow, co], gy)
                .f32(&[k, k, ci, co], fill)
                .terms(k * k * co)
        })
    })
}

pub fn weight_grad_cases() -> Vec<Case> {
    gradients(|sizes, kind, gy, fill| {
        each_size(sizes, kind, |name, [n, h, w, ci, co, k, s], pad, [oh, ow]| {
            Case::new(name, Conv2dWeightGrad { stride: s as u32, pad, kernel: k })
                .f32(&[n, h, w, ci], fill)
                .f32(&[n, oh, ow, co], gy)
                .terms(n * oh * ow)
        })
    })
}

/// `each(sizes, kind, fill of the upstream gradient, fill of the other operand)`.
fn gradients(each: impl Fn(&[[usize; 7]], &str, Fill, Fill) -> Vec<Case>) -> Vec<Case> {
    [
        each(SIZES, "", Fill::NORMAL, Fill::NORMAL),
        each(WHOLE_SIZES, ", whole numbers", WHOLE, WHOLE),
        each(FAINT_SIZES, ", faint", FAINT, Fill::NORMAL),
    ]
    .concat()
}

fn each_size(sizes: &[[usize; 7]], kind: &str, mut make: impl FnMut(&str, [usize; 7], u32, [usize; 2]) -> Case) -> Vec<Case> {
    sizes
        .iter()
        .map(|&size| {
            let [n, h, w, ci, co, k, s] = size;
            let pad = k / 2;
            let out = [h, w].map(|x| (x + 2 * pad - k) / s + 1);
            make(&format!("{n}x{h}x{w} {ci}->{co} {k}x{k} stride {s}{kind}"), size, pad as u32, out)
        })
        .collect()
}

/// Whether long sums of whole numbers, which are exact or wrong, come out right: before much is entrusted to a driver's matrices, of
/// which not all have been reported to add up.
///
/// # Errors
/// The driver's.
pub fn matrices_add_up(kernels: &Kernels) -> Result<bool, GraphError> {
    for case in cases().iter().filter(|case| case.name.ends_with("whole numbers")) {
        let result = check(kernels, case, 0)?;
        if result.error.is_nan() || result.error > result.allowed {
            return Ok(false);
        }
    }
    Ok(true)
}
