//! The zero-shot gate row of a module: the input direction that its product changes most.
//!
//! The top right singular vector of `B A` is `v = Aᵀ z / |Aᵀ z|`, `z` the top eigenvector of `(BᵀB)(A Aᵀ)`: a problem
//! of size rank, not of the widths. With `BᵀB = L Lᵀ` it is symmetric: `Lᵀ (A Aᵀ) L y = λ y`, `z = L y`.

use crate::dtype::DType;
use crate::peft::{to_f32, Module};

/// Writes the unit top right singular vector of `B A`, `in_features` values, in `f64` arithmetic.
///
/// The sign is the one that makes the largest component positive (the first of equals). Zeros if `B A` is zero.
///
/// # Panics
/// If `out` does not have `in_features` values.
pub fn arrow_row(module: &Module, out: &mut [f32]) {
    assert_eq!(out.len(), module.in_features, "gate row of {}", module.path);
    out.fill(0.0);
    let rank = module.rank;
    let a = rows(module.dtype, &module.a, rank, false);
    let b = rows(module.dtype, &module.b, rank, true);
    let factor = cholesky(gram(&b, rank), rank);
    let Some(z) = top(&gram(&a, rank), &factor, rank) else {
        return;
    };
    let mut row = vec![0f64; module.in_features];
    for (weight, a) in z.iter().zip(a.chunks_exact(module.in_features)) {
        for (sum, a) in row.iter_mut().zip(a) {
            *sum += weight * a;
        }
    }
    let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
    let peak = row
        .iter()
        .fold(0f64, |peak, &x| if x.abs() > peak.abs() { x } else { peak });
    if norm > 0.0 {
        for (out, x) in out.iter_mut().zip(row) {
            *out = (x / norm * peak.signum()) as f32;
        }
    }
}

/// Relative size below which a pivot or an off-diagonal element counts as rounding.
const ROUNDING: f64 = 1e-15;

/// A matrix's rank rows in f64: `bytes` are `[rank, width]`, or `[width, rank]` if `transposed`.
fn rows(dtype: DType, bytes: &[u8], rank: usize, transposed: bool) -> Vec<f64> {
    let mut values = vec![0f32; bytes.len() / dtype.size()];
    to_f32(dtype, bytes, &mut values);
    if !transposed {
        return values.iter().map(|&x| f64::from(x)).collect();
    }
    let width = values.len() / rank;
    let mut out = vec![0f64; values.len()];
    for (column, row) in values.chunks_exact(rank).enumerate() {
        for (place, &x) in row.iter().enumerate() {
            out[place * width + column] = f64::from(x);
        }
    }
    out
}

/// Products of all pairs of `rank` rows, `[rank, rank]`.
fn gram(rows: &[f64], rank: usize) -> Vec<f64> {
    let width = rows.len() / rank;
    let row = |i: usize| &rows[i * width..(i + 1) * width];
    let mut out = vec![0f64; rank * rank];
    for i in 0..rank {
        for j in 0..=i {
            let product = dot(row(i), row(j));
            out[i * rank + j] = product;
            out[j * rank + i] = product;
        }
    }
    out
}

/// A dot product in eight lanes, so that it vectorises and has one order of summation.
fn dot(left: &[f64], right: &[f64]) -> f64 {
    let mut lanes = [0f64; 8];
    let (left, right) = (left.chunks_exact(8), right.chunks_exact(8));
    let rest: f64 = left
        .remainder()
        .iter()
        .zip(right.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (x, y) in left.zip(right) {
        for lane in 0..8 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// `L` with `L Lᵀ = matrix`, a Gram matrix, by the largest pivot first; columns beyond its rank are zero.
fn cholesky(mut matrix: Vec<f64>, n: usize) -> Vec<f64> {
    let mut factor = vec![0f64; n * n];
    let largest = (0..n).map(|i| matrix[i * n + i]).fold(0.0, f64::max);
    for column in 0..n {
        let diagonal = (0..n).map(|i| matrix[i * n + i]);
        let (pivot, value) = diagonal
            .enumerate()
            .fold((0, 0.0), |most, d| if d.1 > most.1 { d } else { most });
        if value <= largest * ROUNDING {
            break;
        }
        for i in 0..n {
            factor[i * n + column] = matrix[i * n + pivot] / value.sqrt();
        }
        for i in 0..n {
            for j in 0..n {
                matrix[i * n + j] -= factor[i * n + column] * factor[j * n + column];
            }
        }
        // Rounding must not bring a finished pivot back.
        matrix[pivot * n + pivot] = 0.0;
    }
    factor
}

/// `z = L y`, `y` the top eigenvector of `Lᵀ G L`; none if that is zero.
fn top(gram: &[f64], factor: &[f64], n: usize) -> Option<Vec<f64>> {
    let product = |left: &dyn Fn(usize, usize) -> f64, right: &[f64]| {
        let mut out = vec![0f64; n * n];
        for i in 0..n {
            for k in 0..n {
                let x = left(i, k);
                for j in 0..n {
                    out[i * n + j] += x * right[k * n + j];
                }
            }
        }
        out
    };
    let half = product(&|i, k| gram[i * n + k], factor);
    let mut symmetric = product(&|i, k| factor[k * n + i], &half);
    let size = symmetric.iter().fold(0f64, |size, x| size.max(x.abs()));
    if size <= 0.0 {
        return None;
    }
    symmetric.iter_mut().for_each(|x| *x /= size);
    let vectors = jacobi(&mut symmetric, n);
    let value = |i: usize| symmetric[i * n + i];
    let best = (1..n).fold(0, |best, i| if value(i) > value(best) { i } else { best });
    let y = &vectors[best * n..(best + 1) * n];
    Some((0..n).map(|i| dot(&factor[i * n..(i + 1) * n], y)).collect())
}

/// Diagonalises a symmetric matrix by rotations; its eigenvectors, as rows.
fn jacobi(matrix: &mut [f64], n: usize) -> Vec<f64> {
    const MOST_SWEEPS: usize = 30;
    let mut vectors = vec![0f64; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    for _ in 0..MOST_SWEEPS {
        let mut rotated = false;
        for p in 0..n {
            for q in p + 1..n {
                let off = matrix[p * n + q];
                if off.abs() <= ROUNDING {
                    continue;
                }
                rotated = true;
                let theta = (matrix[q * n + q] - matrix[p * n + p]) / (2.0 * off);
                let tangent = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let cosine = 1.0 / tangent.hypot(1.0);
                let sine = tangent * cosine;
                for k in 0..n {
                    let (x, y) = (matrix[k * n + p], matrix[k * n + q]);
                    matrix[k * n + p] = cosine * x - sine * y;
                    matrix[k * n + q] = sine * x + cosine * y;
                }
                rotate_rows(matrix, n, p, q, cosine, sine);
                rotate_rows(&mut vectors, n, p, q, cosine, sine);
            }
        }
        if !rotated {
            break;
        }
    }
    vectors
}

fn rotate_rows(matrix: &mut [f64], n: usize, p: usize, q: usize, cosine: f64, sine: f64) {
    let (upper, lower) = matrix.split_at_mut(q * n);
    for (x, y) in upper[p * n..(p + 1) * n].iter_mut().zip(&mut lower[..n]) {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    }
}
