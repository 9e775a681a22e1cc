//! Principal components of features.

use faer::{Mat, MatRef, Side};

use crate::train::TrainError;

/// Of `rows` [n, d], centred: the projections [n, at most `count`] on the directions of greatest variance, the greatest first.
///
/// # Errors
/// Features that are not finite.
pub(crate) fn projections(rows: &[&[f32]], count: usize) -> Result<Mat<f64>, TrainError> {
    let (n, d) = (rows.len(), rows.first().map_or(0, |row| row.len()));
    let mean: Vec<f64> = (0..d).map(|j| rows.iter().map(|row| f64::from(row[j])).sum::<f64>() / n.max(1) as f64).collect();
    let centred = Mat::from_fn(n, d, |i, j| f64::from(rows[i][j]) - mean[j]);
    if !(0..d).all(|j| centred.col_as_slice(j).iter().all(|x| x.is_finite())) {
        return Err(TrainError::Data("features that are not finite: the network is damaged".into()));
    }
    // The directions are the eigenvectors of C'C; where there are fewer rows than features, those of CC' give the same projections.
    let wide = n < d;
    let gram: Mat<f64> = if wide { &centred * centred.transpose() } else { centred.transpose() * &centred };
    let damaged = |e: faer::linalg::solvers::EvdError| TrainError::Data(format!("principal components: {e:?}"));
    let eigen = gram.as_ref().self_adjoint_eigen(Side::Lower).map_err(damaged)?;
    let (values, size) = (eigen.S(), gram.nrows());
    let count = count.min(size);
    // In ascending order.
    let leading: MatRef<f64> = eigen.U().subcols(size - count, count);
    let projected = if wide {
        Mat::from_fn(n, count, |i, j| leading[(i, j)] * values[size - count + j].max(0.0).sqrt())
    } else {
        &centred * leading
    };
    Ok(Mat::from_fn(n, count, |i, j| projected[(i, count - 1 - j)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    /// Along a diagonal with deviation 3, across it with deviation 1; more rows than features and the reverse.
    #[test]
    fn the_first_component_lies_along_the_greatest_variance() {
        for (n, d) in [(400, 6), (12, 40)] {
            let mut noise = rng::stream(3, "principal");
            let along: Vec<f64> = (0..n).map(|_| 3.0 * rng::normal(&mut noise)).collect();
            let axis = |j: usize| (1.0 - 2.0 * (j % 2) as f64) / (d as f64).sqrt();
            let rows: Vec<Vec<f32>> = along
                .iter()
                .map(|a| (0..d).map(|j| (7.0 + a * axis(j) + 0.05 * rng::normal(&mut noise)) as f32).collect())
                .collect();
            let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
            let found = projections(&rows, 2).unwrap();
            let mean = along.iter().sum::<f64>() / n as f64;
            let sign = (found[(0, 0)] * (along[0] - mean)).signum();
            for (i, a) in along.iter().enumerate() {
                assert!((sign * found[(i, 0)] - (a - mean)).abs() < 0.35, "{n}x{d}, {i}: {} of {}", found[(i, 0)], a - mean);
                assert!(found[(i, 1)].abs() < 0.5, "{n}x{d}, {i}: {}", found[(i, 1)]);
            }
        }
        assert!(projections(&[&[1.0, f32::NAN], &[0.0, 1.0]], 1).is_err());
    }
}
