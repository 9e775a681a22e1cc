//! Products of matrices whose sums have one order on any number of threads: a thread computes a fixed block by itself.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltError, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Rows or columns of a block.
const BLOCK: usize = 256;

/// A B, of [n, d] and [d, k].
pub(super) fn product(a: MatRef<f32>, b: MatRef<f32>) -> Mat<f32> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    out.as_mut().par_row_chunks_mut(BLOCK).enumerate().for_each(|(i, to)| {
        let rows = a.subrows(i * BLOCK, to.nrows());
        matmul(to, Accum::Replace, rows, b, 1.0, Par::Seq);
    });
    out
}

/// Adds Z Z' of `z` [d, n] to `gram` [d, d], on and below its diagonal; what is above it is void.
pub(super) fn add_gram(gram: MatMut<f32>, z: MatRef<f32>) {
    gram.par_col_chunks_mut(BLOCK).enumerate().for_each(|(i, columns)| {
        let (first, width) = (i * BLOCK, columns.ncols());
        let below = columns.nrows() - first;
        let to = columns.subrows_mut(first, below);
        matmul(to, Accum::Add, z.subrows(first, below), z.subrows(first, width).transpose(), 1.0, Par::Seq);
    });
}

/// L with L L' = `a`, of which only what is on and below the diagonal is read; L's other half is void.
///
/// # Errors
/// A matrix that is not positive definite.
pub(super) fn cholesky(mut a: Mat<f32>) -> Result<Mat<f32>, LltError> {
    let mut memory = MemBuffer::new(cholesky_in_place_scratch::<f32>(a.nrows(), Par::Seq, Default::default()));
    cholesky_in_place(a.as_mut(), Default::default(), Par::Seq, MemStack::new(&mut memory), Default::default())?;
    Ok(a)
}

/// L^-1 `of`, in its place, of the lower half of `l`.
pub(super) fn solve_lower(l: MatRef<f32>, of: MatMut<f32>) {
    of.par_col_chunks_mut(BLOCK).for_each(|columns| solve_lower_triangular_in_place(l, columns, Par::Seq));
}
