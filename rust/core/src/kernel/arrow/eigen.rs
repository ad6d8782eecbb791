//! The eigenvector of a small symmetric problem; sizes are multiples of eight.

use super::columns::tile;
use crate::kernel::lane::{Lane, LANES};

/// Relative size below which what is left of a column that depends on others counts as rounding: what sums in f32
/// leave of its square.
const ROUNDING: f64 = 1e-6;

/// `L` with `L Lᵀ = matrix`, a Gram matrix, by the largest pivot first; columns beyond its rank are zero.
#[inline(always)]
pub(super) fn cholesky(mut matrix: Vec<f64>, n: usize) -> Vec<f64> {
    let mut factor = vec![0f64; n * n];
    // Each against its own size: A may make up for a small column of B.
    let inverse = |x: f64| if x > 0.0 { 1.0 / x } else { 0.0 };
    let sizes: Vec<f64> = (0..n).map(|i| inverse(matrix[i * n + i])).collect();
    let mut line = vec![0f64; n];
    for column in 0..n {
        let left = |i: usize| matrix[i * n + i] * sizes[i];
        let pivot = (1..n).fold(0, |most, i| if left(i) > left(most) { i } else { most });
        if left(pivot) <= ROUNDING {
            break;
        }
        let root = matrix[pivot * n + pivot].sqrt();
        for (line, x) in line.iter_mut().zip(&matrix[pivot * n..(pivot + 1) * n]) {
            *line = x / root;
        }
        for (i, row) in matrix.chunks_exact_mut(n).enumerate() {
            let by = line[i];
            factor[i * n + column] = by;
            for (x, line) in row.iter_mut().zip(&line) {
                *x -= by * line;
            }
        }
        // Rounding must not bring a finished pivot back.
        matrix[pivot * n + pivot] = 0.0;
    }
    factor
}

/// `z = L y`, `y` the top eigenvector of `Lᵀ G L`; none if that is zero.
///
/// # Safety
/// [`Lane`]'s.
#[inline(always)]
pub(super) unsafe fn top<L: Lane>(gram: &[f64], factor: &[f64], n: usize) -> Option<Vec<f64>> {
    // G is symmetric.
    let half = product(gram, factor, n);
    // SAFETY: the lanes are the caller's.
    let y = unsafe { top_eigenvector::<L>(&product(factor, &half, n), n) }?;
    let dot = |row: &[f64]| row.iter().zip(&y).map(|(x, &y)| x * f64::from(y)).sum();
    Some(factor.chunks_exact(n).map(dot).collect())
}

/// `leftᵀ right`.
#[inline(always)]
fn product(left: &[f64], right: &[f64], n: usize) -> Vec<f64> {
    const TILE: [usize; 2] = [4, 8];
    let mut out = vec![0f64; n * n];
    for i in (0..n).step_by(TILE[0]) {
        for j in (0..n).step_by(TILE[1]) {
            let mut sums = [[0f64; TILE[1]]; TILE[0]];
            for (left, right) in left.chunks_exact(n).zip(right.chunks_exact(n)) {
                for (sums, x) in sums.iter_mut().zip(&left[i..i + TILE[0]]) {
                    for (sum, y) in sums.iter_mut().zip(&right[j..j + TILE[1]]) {
                        *sum += x * y;
                    }
                }
            }
            for (row, sums) in out.chunks_exact_mut(n).skip(i).zip(sums) {
                row[j..j + TILE[1]].copy_from_slice(&sums);
            }
        }
    }
    out
}

/// The top eigenvector of a symmetric matrix without negative eigenvalues, by squaring the matrix, in f32, until only
/// one is left: no start vector that could miss it, and equal eigenvalues give a vector of their common space.
///
/// # Safety
/// [`Lane`]'s.
#[inline(always)]
unsafe fn top_eigenvector<L: Lane>(matrix: &[f64], n: usize) -> Option<Vec<f32>> {
    // The ratio of two eigenvalues is raised to 2^20: what is still equal then was equal to begin with.
    const MOST_SQUARINGS: usize = 20;
    let trace: f64 = (0..n).map(|i| matrix[i * n + i]).sum();
    if trace <= 0.0 {
        return None;
    }
    let mut matrix: Vec<f32> = matrix.iter().map(|x| (x / trace) as f32).collect();
    let mut square = vec![0f32; n * n];
    for _ in 0..MOST_SQUARINGS {
        for left in (0..n).step_by(LANES) {
            for right in (0..n).step_by(LANES) {
                // SAFETY: whole rows of `n`, a multiple of eight; the lanes are the caller's.
                unsafe { tile::<L>(&matrix, n, left, right, &mut square) };
            }
        }
        // The trace of the square of a matrix of trace 1: it is 1 when one eigenvalue holds everything.
        let purity: f32 = (0..n).map(|i| square[i * n + i]).sum();
        square.iter_mut().for_each(|x| *x /= purity);
        std::mem::swap(&mut matrix, &mut square);
        if 1.0 - purity <= n as f32 * f32::EPSILON {
            break;
        }
    }
    let best = (1..n).fold(0, |best, i| {
        if matrix[i * n + i] > matrix[best * n + best] {
            i
        } else {
            best
        }
    });
    Some(matrix[best * n..(best + 1) * n].to_vec())
}
