//! What the convolution and its gradients are tried on.

use super::{Conv2d, Conv2dInputGrad, Conv2dWeightGrad};
use crate::ops::{Case, Fill};

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
    [5, 56, 53, 32, 32, 3, 1],
    [2, 5, 35, 12, 20, 3, 1],
    [2, 129, 129, 20, 36, 1, 1],
    [2, 257, 259, 4, 12, 3, 2],
];

pub fn cases() -> Vec<Case> {
    each_size(|name, [n, h, w, ci, co, k, s], pad, _| {
        Case::new(name, Conv2d { stride: s as u32, pad })
            .f32(&[n, h, w, ci], Fill::NORMAL)
            .f32(&[k, k, ci, co], Fill::NORMAL)
            .terms(k * k * ci)
    })
}

pub fn input_grad_cases() -> Vec<Case> {
    each_size(|name, [n, h, w, ci, co, k, s], pad, [oh, ow]| {
        Case::new(name, Conv2dInputGrad { stride: s as u32, pad, input: [h, w] })
            .f32(&[n, oh, ow, co], Fill::NORMAL)
            .f32(&[k, k, ci, co], Fill::NORMAL)
            .terms(k * k * co)
    })
}

pub fn weight_grad_cases() -> Vec<Case> {
    each_size(|name, [n, h, w, ci, co, k, s], pad, [oh, ow]| {
        Case::new(name, Conv2dWeightGrad { stride: s as u32, pad, kernel: k })
            .f32(&[n, h, w, ci], Fill::NORMAL)
            .f32(&[n, oh, ow, co], Fill::NORMAL)
            .terms(n * oh * ow)
    })
}

fn each_size(make: impl Fn(&str, [usize; 7], u32, [usize; 2]) -> Case) -> Vec<Case> {
    SIZES
        .iter()
        .map(|&size| {
            let [n, h, w, ci, co, k, s] = size;
            let pad = k / 2;
            let out = [h, w].map(|x| (x + 2 * pad - k) / s + 1);
            make(&format!("{n}x{h}x{w} {ci}->{co} {k}x{k} stride {s}"), size, pad as u32, out)
        })
        .collect()
}
