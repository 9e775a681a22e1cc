//! Ridge regression with exact left-out predictions: what a linear model says of samples that it was not fitted on.

use faer::linalg::matmul::{matmul, triangular};
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::prelude::Solve;
use faer::{Accum, Mat, Par, Side};
use triangular::BlockStructure::{Rectangular, TriangularLower};

use crate::train::TrainError;

/// Ridge coefficient, times the number of samples.
const RIDGE: f32 = 3e-4;

/// Features F [N, d] of N samples, standardised and centred, as Z = L^-1 F' with L L' = F'F + c N I: then a regression on
/// targets Y predicts Z' Z (Y - mean) + mean, and sample i's own share in its prediction is h_i = |z_i|^2 + 1 / N.
/// Since L is triangular, the first rows of Z are the same for the first features alone.
pub(super) struct Ridge {
    /// [d, N], a sample's column contiguous.
    z: Mat<f32>,
    /// Features in front that come from the images alone.
    shallow: usize,
}

/// Which features a prediction uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum View {
    /// Of the images alone.
    Shallow,
    /// The network's too.
    All,
}

impl Ridge {
    /// `shallow` and `network`: blocks [n, their size] row by row. Each dimension is standardised over the samples, each block
    /// scaled by 1 / sqrt(its size) so that all blocks weigh alike.
    ///
    /// # Errors
    /// Features that are not finite.
    pub fn new(shallow: &[Vec<f32>], network: &[f32], n: usize) -> Result<Ridge, TrainError> {
        let blocks: Vec<&[f32]> = shallow.iter().map(Vec::as_slice).chain([network]).collect();
        let d: usize = blocks.iter().map(|b| b.len() / n).sum();
        let mut z = Mat::<f32>::zeros(d, n);
        let mut first = 0;
        for block in blocks {
            let size = block.len() / n;
            for j in 0..size {
                let column = || (0..n).map(|i| f64::from(block[i * size + j]));
                let mean = column().sum::<f64>() / n as f64;
                let variance = column().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
                let scale = 1.0 / ((variance + 1e-8) * size as f64).sqrt();
                for i in 0..n {
                    z[(first + j, i)] = ((f64::from(block[i * size + j]) - mean) * scale) as f32;
                }
            }
            first += size;
        }
        let mut gram = Mat::<f32>::zeros(d, d);
        let (lower, full, par) = (TriangularLower, Rectangular, Par::rayon(0));
        triangular::matmul(gram.as_mut(), lower, Accum::Replace, z.as_ref(), full, z.transpose(), full, 1.0f32, par);
        for j in 0..d {
            gram[(j, j)] += RIDGE * n as f32;
        }
        let factor = gram
            .llt(Side::Lower)
            .map_err(|_| TrainError::Data("the features are not finite: the network has not trained; try a lower --lr".into()))?;
        solve_lower_triangular_in_place(factor.L(), z.as_mut(), par);
        Ok(Ridge { z, shallow: shallow.iter().map(|b| b.len() / n).sum() })
    }

    fn samples(&self) -> usize {
        self.z.ncols()
    }

    /// z_i of the view's features.
    fn row(&self, view: View, i: usize) -> &[f32] {
        let z = self.z.col_as_slice(i);
        match view {
            View::Shallow => &z[..self.shallow],
            View::All => z,
        }
    }

    /// Predictions of one value a sample, for each of `of` by the model that was fitted on all samples but that one:
    /// (p - h y) / (1 - h). `target`: index and value of the samples where it is not 0.
    pub fn leave_one_out(&self, view: View, target: &[(usize, f32)], of: &[usize]) -> Vec<f32> {
        let n = self.samples();
        let d = self.row(view, 0).len();
        let mut w = vec![0.0f32; d];
        let mut y = vec![0.0f32; n];
        for &(i, value) in target {
            y[i] = value;
            w.iter_mut().zip(self.row(view, i)).for_each(|(w, z)| *w += value * z);
        }
        let mean = target.iter().map(|t| t.1).sum::<f32>() / n as f32;
        of.iter()
            .map(|&i| {
                let z = self.row(view, i);
                let h = dot(z, z) + 1.0 / n as f32;
                (dot(z, &w) + mean - h * y[i]) / (1.0 - h).max(f32::EPSILON)
            })
            .collect()
    }

    /// How easy each sample is for a model that has not seen it and knows the images alone: the left-out prediction of its given
    /// label less that of the best other one.
    pub fn ease(&self, labels: &[u32], classes: usize) -> Vec<f32> {
        let n = self.samples();
        let (weights, mean) = self.classifier(labels, classes);
        let mut predicted = Mat::<f32>::zeros(classes, n);
        let z = self.z.as_ref().subrows(0, self.shallow);
        matmul(predicted.as_mut(), Accum::Replace, weights.transpose(), z, 1.0f32, Par::rayon(0));
        (0..n)
            .map(|i| {
                let z = self.row(View::Shallow, i);
                let h = dot(z, z) + 1.0 / n as f32;
                let of = |k: usize, y: f32| (predicted[(k, i)] + mean[k] - h * y) / (1.0 - h).max(f32::EPSILON);
                let own = labels[i] as usize;
                let other = (0..classes).filter(|k| *k != own).map(|k| of(k, 0.0)).fold(f32::NEG_INFINITY, f32::max);
                of(own, 1.0) - other
            })
            .collect()
    }

    /// Weights [d, K] and means [K] of the regression on one-hot labels, from the images alone.
    fn classifier(&self, labels: &[u32], classes: usize) -> (Mat<f32>, Vec<f32>) {
        let mut weights = Mat::<f32>::zeros(self.shallow, classes);
        let mut mean = vec![0.0f32; classes];
        for (i, &label) in labels.iter().enumerate() {
            mean[label as usize] += 1.0 / labels.len() as f32;
            for (j, value) in self.row(View::Shallow, i).iter().enumerate() {
                weights[(j, label as usize)] += value;
            }
        }
        (weights, mean)
    }

    /// Predictions [group, K] for a whole group by the model that was fitted on the others, from the images alone: Y_G -
    /// (I - H_GG)^-1 (Y_G - P_G), with Y one-hot from `labels`.
    ///
    /// # Errors
    /// As `new`.
    pub fn leave_group_out(&self, labels: &[u32], classes: usize, group: &[usize]) -> Result<Vec<Vec<f32>>, TrainError> {
        let n = self.samples();
        let (weights, mean) = self.classifier(labels, classes);
        let mine = Mat::from_fn(self.shallow, group.len(), |j, g| self.z[(j, group[g])]);
        let mut own = Mat::<f32>::zeros(group.len(), group.len());
        matmul(own.as_mut(), Accum::Replace, mine.transpose(), &mine, -1.0f32, Par::rayon(0));
        for a in 0..group.len() {
            for b in 0..group.len() {
                own[(a, b)] += f32::from(u8::from(a == b)) - 1.0 / n as f32;
            }
        }
        let mut predicted = Mat::<f32>::zeros(group.len(), classes);
        matmul(predicted.as_mut(), Accum::Replace, mine.transpose(), &weights, 1.0f32, Par::rayon(0));
        let one = |g: usize, k: usize| f32::from(u8::from(labels[group[g]] as usize == k));
        let residual = Mat::from_fn(group.len(), classes, |g, k| one(g, k) - predicted[(g, k)] - mean[k]);
        let out = own
            .llt(Side::Lower)
            .map_err(|_| TrainError::Data(format!("a group of {} samples cannot be left out", group.len())))?
            .solve(&residual);
        Ok((0..group.len()).map(|g| (0..classes).map(|k| one(g, k) - out[(g, k)]).collect()).collect())
    }
}

/// Sums in eight lanes, in a fixed order.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let whole = a.len() / 8 * 8;
    for (a, b) in a[..whole].chunks_exact(8).zip(b[..whole].chunks_exact(8)) {
        lanes.iter_mut().zip(a).zip(b).for_each(|((lane, a), b)| *lane += a * b);
    }
    let rest: f32 = a[whole..].iter().zip(&b[whole..]).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;
    use approx::assert_relative_eq;

    const N: usize = 40;
    const D: [usize; 2] = [5, 3];

    fn blocks() -> (Vec<Vec<f32>>, Vec<f32>) {
        let mut rng = rng::stream(11, "ridge");
        let mut block = |size: usize| (0..N * size).map(|i| (rng::normal(&mut rng) * (1 + i % size) as f64) as f32).collect();
        (vec![block(D[0])], block(D[1]))
    }

    /// Ridge regression fitted anew without `left`, by the normal equations in f64: predictions of `left`.
    fn refitted(rows: &[Vec<f64>], y: &[f64], left: &[usize]) -> Vec<f64> {
        let kept: Vec<usize> = (0..N).filter(|i| !left.contains(i)).collect();
        let d = rows[0].len();
        // The intercept is not penalised: centre on the kept samples.
        let mean: Vec<f64> = (0..d).map(|j| kept.iter().map(|&i| rows[i][j]).sum::<f64>() / kept.len() as f64).collect();
        let level = kept.iter().map(|&i| y[i]).sum::<f64>() / kept.len() as f64;
        let x = Mat::from_fn(kept.len(), d, |i, j| rows[kept[i]][j] - mean[j]);
        let t = Mat::from_fn(kept.len(), 1, |i, _| y[kept[i]] - level);
        let mut a = x.transpose() * &x;
        for j in 0..d {
            a[(j, j)] += f64::from(RIDGE) * N as f64;
        }
        let w = a.partial_piv_lu().solve(x.transpose() * t);
        left.iter().map(|&i| level + (0..d).map(|j| (rows[i][j] - mean[j]) * w[(j, 0)]).sum::<f64>()).collect()
    }

    /// The rows as `Ridge` scales them, of the first `blocks` blocks.
    fn rows(shallow: &[Vec<f32>], network: &[f32], view: View) -> Vec<Vec<f64>> {
        let mut rows = vec![Vec::new(); N];
        for block in shallow.iter().map(Vec::as_slice).chain((view == View::All).then_some(network)) {
            let size = block.len() / N;
            for j in 0..size {
                let column: Vec<f64> = (0..N).map(|i| f64::from(block[i * size + j])).collect();
                let mean = column.iter().sum::<f64>() / N as f64;
                let sd = (column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / N as f64).sqrt();
                rows.iter_mut().zip(&column).for_each(|(r, x)| r.push((x - mean) / sd / (size as f64).sqrt()));
            }
        }
        rows
    }

    #[test]
    fn leaving_one_out_is_fitting_anew_without_it() {
        let (shallow, network) = blocks();
        let ridge = Ridge::new(&shallow, &network, N).unwrap();
        let target: Vec<(usize, f32)> = (0..N).step_by(3).map(|i| (i, if i % 2 == 0 { 1.0 } else { -1.0 })).collect();
        let mut y = vec![0.0; N];
        target.iter().for_each(|t| y[t.0] = f64::from(t.1));
        for view in [View::Shallow, View::All] {
            let rows = rows(&shallow, &network, view);
            for (i, got) in ridge.leave_one_out(view, &target, &[0, 7, 39]).into_iter().zip([0, 7, 39]).map(|(g, i)| (i, g)) {
                assert_relative_eq!(f64::from(got), refitted(&rows, &y, &[i])[0], epsilon = 1e-4);
            }
        }
    }

    #[test]
    fn leaving_a_group_out_is_fitting_anew_without_it() {
        let (shallow, network) = blocks();
        let ridge = Ridge::new(&shallow, &network, N).unwrap();
        let labels: Vec<u32> = (0..N).map(|i| (i * i % 3) as u32).collect();
        let group = [1, 2, 5, 8, 21];
        let got = ridge.leave_group_out(&labels, 3, &group).unwrap();
        let rows = rows(&shallow, &network, View::Shallow);
        for k in 0..3 {
            let y: Vec<f64> = labels.iter().map(|l| f64::from(u8::from(*l == k as u32))).collect();
            for (row, want) in got.iter().zip(refitted(&rows, &y, &group)) {
                assert_relative_eq!(f64::from(row[k]), want, epsilon = 1e-4);
            }
        }
    }

    #[test]
    fn features_that_are_not_finite_are_refused() {
        let (shallow, mut network) = blocks();
        network[4] = f32::NAN;
        assert!(Ridge::new(&shallow, &network, N).is_err());
    }
}
