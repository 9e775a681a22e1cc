//! Ridge regression with exact left-out predictions: what a linear model says of samples that it was not fitted on.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::features::Features;
use super::products::{add_gram, cholesky, product, solve_lower};
use crate::data::Dataset;
use crate::train::{Observer, TrainError};

/// Samples in a block: what is decoded at a time.
const BLOCK: usize = 256;
/// Blocks in a part: sums go part by part, so that they have one order on any number of threads.
const PART: usize = 16;
/// Bytes that Z may take in f32: more images than these allow have enough of them that rounding to f16 does no harm.
const MOST_BYTES: usize = 2 << 30;
/// Variances are at least this: a dimension that never changes stays 0.
const LEAST_VARIANCE: f64 = 1e-8;

/// Features F [N, d] of N samples, standardised, each block scaled to weight 1, as Z = F L^-T with L L' = F'F + c N I: then a
/// regression on targets Y predicts Z Z' (Y - mean) + mean, and sample i's own share in its prediction is h_i = |z_i|^2 + 1 / N.
/// Since L is triangular, the first entries of z_i are the same for the first features alone.
///
/// Z is kept in f32, and in f16 where that would take more than [`MOST_BYTES`]; sums are f32.
pub(super) struct Ridge {
    /// [N, d], row by row.
    z: Rows,
    dimensions: usize,
    /// Dimensions in front that come from the images alone.
    shallow: usize,
    /// h_i in either view.
    leverage: [Vec<f32>; 2],
}

/// Numbers row by row.
enum Rows {
    Single(Vec<f32>),
    Half(Vec<f16>),
}

impl Rows {
    fn new(len: usize, most_bytes: usize) -> Rows {
        if len.saturating_mul(4) <= most_bytes { Rows::Single(vec![0.0; len]) } else { Rows::Half(vec![f16::ZERO; len]) }
    }

    fn read(&self, from: usize, to: &mut [f32]) {
        match self {
            Rows::Single(all) => to.copy_from_slice(&all[from..from + to.len()]),
            Rows::Half(all) => all[from..from + to.len()].convert_to_f32_slice(to),
        }
    }

    fn write(&mut self, at: usize, row: &[f32]) {
        match self {
            Rows::Single(all) => all[at..at + row.len()].copy_from_slice(row),
            Rows::Half(all) => all[at..at + row.len()].convert_from_f32_slice(row),
        }
    }
}

/// Which features a prediction uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum View {
    /// Of the images alone.
    Images,
    /// The network's too.
    All,
}

/// The ridge coefficient, times N, for `d` features of `n` samples: 3e-4 while there are fewer samples than features, falling with
/// (d / n)^2 to 1e-5. Read off three sizes of data, 1,300, 5,000 and 20,000 (docs/method.md).
fn coefficient(d: usize, n: usize) -> f32 {
    (3e-4 * (d as f32 / n as f32).powi(2)).clamp(1e-5, 3e-4)
}

impl Ridge {
    /// Of the images of `data` and, as a further block, `network` [N, its size]; empty for none.
    ///
    /// # Errors
    /// Features that are not finite; a wish to stop.
    pub fn new(data: &Dataset, network: &[f32], observer: &dyn Observer) -> Result<Ridge, TrainError> {
        Ridge::within(MOST_BYTES, data, network, observer)
    }

    fn within(most_bytes: usize, data: &Dataset, network: &[f32], observer: &dyn Observer) -> Result<Ridge, TrainError> {
        let n = data.len();
        let features = Features::new(data.size);
        let deep = network.len() / n.max(1);
        let block_sizes: Vec<usize> = features.blocks().into_iter().chain((deep > 0).then_some(deep)).collect();
        let shallow = features.blocks().iter().sum::<usize>();
        let d = shallow + deep;
        let raw = |i: usize| {
            let mut row = features.of(data.image(i));
            row.extend(&network[i * deep..(i + 1) * deep]);
            row
        };
        observer.begin("features of the images", 2 * n as u64);
        let mut sums = vec![[0.0f64; 2]; d];
        for part in parts(n) {
            observer.go_on()?;
            let of_blocks: Vec<Vec<[f64; 2]>> = blocks(part.clone())
                .into_par_iter()
                .map(|block| {
                    let mut sums = vec![[0.0f64; 2]; d];
                    for row in block.map(raw) {
                        for (sum, v) in sums.iter_mut().zip(row) {
                            sum[0] += f64::from(v);
                            sum[1] += f64::from(v).powi(2);
                        }
                    }
                    sums
                })
                .collect();
            for block in of_blocks {
                sums.iter_mut().zip(block).for_each(|(sum, v)| *sum = [sum[0] + v[0], sum[1] + v[1]]);
            }
            observer.advance(part.len() as u64);
        }
        let total = |which: usize, j: usize| sums[j][which] / n as f64;
        let size_of = block_sizes.iter().flat_map(|&size| std::iter::repeat_n(size as f64, size));
        // Mean and factor of each dimension.
        let scale: Vec<[f32; 2]> = size_of
            .enumerate()
            .map(|(j, size)| {
                let mean = total(0, j);
                let variance = (total(1, j) - mean * mean).max(LEAST_VARIANCE);
                [mean as f32, (1.0 / (variance * size).sqrt()) as f32]
            })
            .collect();
        let mut z = Rows::new(n * d, most_bytes);
        for part in parts(n) {
            observer.go_on()?;
            let standardised = |i: usize| raw(i).iter().zip(&scale).map(|(v, s)| (v - s[0]) * s[1]).collect::<Vec<f32>>();
            let rows: Vec<Vec<f32>> = part.clone().into_par_iter().map(standardised).collect();
            part.clone().zip(rows).for_each(|(i, row)| z.write(i * d, &row));
            observer.advance(part.len() as u64);
        }
        if scale.iter().any(|s| !(s[0].is_finite() && s[1].is_finite())) {
            return Err(TrainError::Data("the network's features are not finite: it has not trained; try a lower --lr".into()));
        }

        let mut ridge = Ridge { z, dimensions: d, shallow, leverage: [vec![0.0; n], vec![0.0; n]] };
        observer.begin("ridge regression", 2 * n as u64);
        let mut gram = Mat::<f32>::zeros(d, d);
        for part in parts(n) {
            observer.go_on()?;
            observer.advance(part.len() as u64);
            add_gram(gram.as_mut(), ridge.columns(View::All, part).as_ref());
        }
        let c = coefficient(shallow, n);
        for j in 0..d {
            gram[(j, j)] += c * n as f32;
        }
        let factor = cholesky(gram).map_err(|_| {
            TrainError::Data(format!(
                "the regression on {n} images has no solution: are there images that differ from one another?"
            ))
        })?;
        for part in parts(n) {
            observer.go_on()?;
            observer.advance(part.len() as u64);
            let mut block = ridge.columns(View::All, part.clone());
            solve_lower(factor.as_ref(), block.as_mut());
            for (i, j) in part.zip(0..) {
                ridge.z.write(i * d, block.col_as_slice(j));
            }
        }
        for view in [View::Images, View::All] {
            let own: Vec<f32> = (0..n).into_par_iter().map(|i| ridge.norm(view, i) + 1.0 / n as f32).collect();
            ridge.leverage[view as usize] = own;
        }
        Ok(ridge)
    }

    /// N.
    pub fn samples(&self) -> usize {
        self.leverage[0].len()
    }

    fn width(&self, view: View) -> usize {
        match view {
            View::Images => self.shallow,
            View::All => self.dimensions,
        }
    }

    /// |z_i|^2.
    fn norm(&self, view: View, i: usize) -> f32 {
        let mut row = vec![0.0f32; self.width(view)];
        self.z.read(i * self.dimensions, &mut row);
        row.iter().map(|z| z * z).sum()
    }

    /// z of `of` as columns [d, len].
    fn columns(&self, view: View, of: impl IntoIterator<Item = usize>) -> Mat<f32> {
        let of: Vec<usize> = of.into_iter().collect();
        let width = self.width(view);
        let mut block = Mat::<f32>::zeros(width, of.len());
        let columns: Vec<&mut [f32]> =
            block.col_iter_mut().filter_map(|c| c.try_as_col_major_mut().map(|c| c.as_slice_mut())).collect();
        columns.into_par_iter().zip(of).for_each(|(column, i)| self.z.read(i * self.dimensions, column));
        block
    }

    /// z and h of `members`, for work on one class.
    pub fn class(&self, view: View, members: &[usize]) -> ClassRows {
        let h = members.iter().map(|&i| self.leverage[view as usize][i]).collect();
        ClassRows { z: self.columns(view, members.iter().copied()), h, samples: self.samples() }
    }

    /// Weights Z'T [d, k] of a regression on targets [N, k].
    fn weights(&self, view: View, targets: MatRef<f32>) -> Mat<f32> {
        let (width, k) = (self.width(view), targets.ncols());
        let sums: Vec<Mat<f32>> = parts(self.samples())
            .into_par_iter()
            .filter_map(|part| {
                let mut sum: Option<Mat<f32>> = None;
                for block in blocks(part) {
                    let t = targets.subrows(block.start, block.len());
                    if t.norm_max() == 0.0 {
                        continue;
                    }
                    let z = self.columns(view, block);
                    let sum = sum.get_or_insert_with(|| Mat::zeros(width, k));
                    matmul(sum.as_mut(), Accum::Add, z.as_ref(), t, 1.0f32, Par::Seq);
                }
                sum
            })
            .collect();
        let mut total = Mat::zeros(width, k);
        sums.iter().for_each(|sum| total += sum);
        total
    }

    /// Z W [N, k].
    fn project(&self, view: View, weights: MatRef<f32>) -> Mat<f32> {
        let k = weights.ncols();
        let found: Vec<(Range<usize>, Mat<f32>)> = blocks(0..self.samples())
            .into_par_iter()
            .map(|block| {
                let z = self.columns(view, block.clone());
                let mut p = Mat::zeros(block.len(), k);
                matmul(p.as_mut(), Accum::Replace, z.transpose(), weights, 1.0f32, Par::Seq);
                (block, p)
            })
            .collect();
        let mut out = Mat::zeros(self.samples(), k);
        for (block, p) in found {
            out.as_mut().subrows_mut(block.start, block.len()).copy_from(p);
        }
        out
    }

    /// Predictions [N, k] of targets [N, k], for each sample by the model that was fitted on all samples but that one:
    /// (p - h t) / (1 - h).
    pub fn leave_one_out(&self, view: View, targets: MatRef<f32>) -> Mat<f32> {
        let mut out = self.project(view, self.weights(view, targets).as_ref());
        leave_out(&mut out, targets, &self.leverage[view as usize], &means(targets, self.samples()));
        out
    }

    /// Left-out predictions [N, k] for samples whose target is 0, from `weights` [d, k] of targets [n, k] that are 0 outside a class. What
    /// it says of the class's own samples is void.
    pub fn leave_one_out_of_others(&self, view: View, weights: MatRef<f32>, targets: MatRef<f32>) -> Mat<f32> {
        let mut out = self.project(view, weights);
        let (h, mean) = (&self.leverage[view as usize], means(targets, self.samples()));
        for (k, mean) in mean.into_iter().enumerate() {
            out.col_as_slice_mut(k).iter_mut().zip(h).for_each(|(p, h)| *p = (*p + mean) / (1.0 - h).max(1e-6));
        }
        out
    }

    /// The regression on one-hot `labels`, from the images alone.
    pub fn classifier(&self, labels: &[u32], classes: usize) -> Classifier {
        let targets = Mat::from_fn(labels.len(), classes, |i, k| f32::from(u8::from(labels[i] as usize == k)));
        let weights = self.weights(View::Images, targets.as_ref());
        let mean = means(targets.as_ref(), self.samples());
        Classifier { targets, weights, mean }
    }

    /// How easy each sample is for a model that has not seen it: the left-out prediction of its given label less that of the best
    /// other one.
    pub fn margin(&self, classifier: &Classifier, labels: &[u32]) -> Vec<f32> {
        let mut predicted = self.project(View::Images, classifier.weights.as_ref());
        leave_out(&mut predicted, classifier.targets.as_ref(), &self.leverage[View::Images as usize], &classifier.mean);
        let best_other = |i: usize, own: usize| {
            (0..predicted.ncols()).filter(|k| *k != own).map(|k| predicted[(i, k)]).fold(f32::NEG_INFINITY, f32::max)
        };
        labels.iter().enumerate().map(|(i, &own)| predicted[(i, own as usize)] - best_other(i, own as usize).max(-1.0)).collect()
    }

    /// Predictions [group, K] of the labels for a whole group by the model that was fitted on the others, from the images alone:
    /// Y_G - (I - H_GG)^-1 (Y_G - P_G), by conjugate gradients (Hestenes and Stiefel 1952). A column ends when its residual is
    /// 1e-4 of the first.
    pub fn leave_group_out(&self, classifier: &Classifier, group: &[usize]) -> Mat<f32> {
        const ROUNDS: usize = 40;
        const ENOUGH: f32 = 1e-8;
        let n = self.samples() as f32;
        let Classifier { targets, weights, mean } = classifier;
        let classes = targets.ncols();
        let rows = self.class(View::Images, group);
        let fitted = product(rows.z.transpose(), weights.as_ref());
        let own = Mat::from_fn(group.len(), classes, |g, k| targets[(group[g], k)]);
        let mut residual = Mat::from_fn(group.len(), classes, |g, k| own[(g, k)] - fitted[(g, k)] - mean[k]);
        let mut direction = residual.clone();
        let mut solved = Mat::<f32>::zeros(group.len(), classes);
        let square = |m: &Mat<f32>, k: usize| m.col_as_slice(k).iter().map(|v| v * v).sum::<f32>();
        let first: Vec<f32> = (0..classes).map(|k| square(&residual, k)).collect();
        let mut now = first.clone();
        for _ in 0..ROUNDS {
            let mut image = product(rows.z.transpose(), rows.weights(direction.as_ref()).as_ref());
            let mut running = false;
            for k in 0..classes {
                if now[k] <= ENOUGH * first[k] {
                    continue;
                }
                running = true;
                let share = direction.col_as_slice(k).iter().sum::<f32>() / n;
                let image = image.col_as_slice_mut(k);
                image.iter_mut().zip(direction.col_as_slice(k)).for_each(|(a, d)| *a = d - *a - share);
                let along: f32 = image.iter().zip(direction.col_as_slice(k)).map(|(a, d)| a * d).sum();
                let step = now[k] / along.max(f32::MIN_POSITIVE);
                solved.col_as_slice_mut(k).iter_mut().zip(direction.col_as_slice(k)).for_each(|(x, d)| *x += step * d);
                residual.col_as_slice_mut(k).iter_mut().zip(&*image).for_each(|(r, a)| *r -= step * a);
                let next = square(&residual, k);
                let ratio = next / now[k];
                now[k] = next;
                direction.col_as_slice_mut(k).iter_mut().zip(residual.col_as_slice(k)).for_each(|(d, r)| *d = r + ratio * *d);
            }
            if !running {
                break;
            }
        }
        own - solved
    }
}

/// A regression on one-hot labels, from the images alone.
pub(super) struct Classifier {
    /// [N, K].
    targets: Mat<f32>,
    /// [d, K].
    weights: Mat<f32>,
    /// [K].
    mean: Vec<f32>,
}

/// z and h of the samples of one class, decoded.
pub(super) struct ClassRows {
    /// [d, n].
    pub z: Mat<f32>,
    pub h: Vec<f32>,
    /// N of the whole data set.
    samples: usize,
}

impl ClassRows {
    /// Weights [d, k] of a regression on targets [n, k] of the class and 0 elsewhere.
    pub fn weights(&self, targets: MatRef<f32>) -> Mat<f32> {
        product(self.z.as_ref(), targets)
    }

    /// Left-out predictions [n, k] of targets [n, k] of the class and 0 elsewhere.
    pub fn leave_one_out(&self, targets: MatRef<f32>) -> Mat<f32> {
        let mut out = product(self.z.transpose(), self.weights(targets).as_ref());
        leave_out(&mut out, targets, &self.h, &means(targets, self.samples));
        out
    }
}

/// Means over `n` samples of targets whose other rows are 0.
fn means(targets: MatRef<f32>, n: usize) -> Vec<f32> {
    (0..targets.ncols()).map(|k| targets.col(k).iter().sum::<f32>() / n as f32).collect()
}

/// Fitted values to left-out predictions.
fn leave_out(fitted: &mut Mat<f32>, targets: MatRef<f32>, h: &[f32], mean: &[f32]) {
    for k in 0..targets.ncols() {
        for (i, p) in fitted.col_as_slice_mut(k).iter_mut().enumerate() {
            *p = (*p + mean[k] - h[i] * targets[(i, k)]) / (1.0 - h[i]).max(1e-6);
        }
    }
}

fn ranges(of: Range<usize>, step: usize) -> Vec<Range<usize>> {
    of.clone().step_by(step).map(|start| start..(start + step).min(of.end)).collect()
}

fn blocks(of: Range<usize>) -> Vec<Range<usize>> {
    ranges(of, BLOCK)
}

fn parts(n: usize) -> Vec<Range<usize>> {
    ranges(0..n, PART * BLOCK)
}

#[cfg(test)]
#[path = "ridge_tests.rs"]
mod tests;
