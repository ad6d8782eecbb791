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

/// Relative size below which a pivot counts as rounding.
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

/// Products of all pairs of `count` rows, `[count, count]`.
fn gram(rows: &[f64], count: usize) -> Vec<f64> {
    let width = rows.len() / count;
    let row = |i: usize| &rows[i * width..(i + 1) * width];
    let mut out = vec![0f64; count * count];
    let mut set = |i: usize, j: usize, product: f64| {
        out[i * count + j] = product;
        out[j * count + i] = product;
    };
    for i in (0..count).step_by(2) {
        for j in (0..=i).step_by(2) {
            // Past the end of an odd count a row is taken twice, and its product set twice to the same value.
            let (i2, j2) = ((i + 1).min(count - 1), (j + 1).min(count - 1));
            let [ij, ij2, i2j, i2j2] = dots([row(i), row(i2)], [row(j), row(j2)]);
            set(i, j, ij);
            set(i, j2, ij2);
            set(i2, j, i2j);
            set(i2, j2, i2j2);
        }
    }
    out
}

/// The four dot products of two rows with two others: half the loads of one at a time, in lanes that
/// vectorise, in one order of summation.
fn dots(left: [&[f64]; 2], right: [&[f64]; 2]) -> [f64; 4] {
    const LANES: usize = 4;
    const PAIRS: [(usize, usize); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];
    let [p, q] = left.map(|row| row.chunks_exact(LANES));
    let [r, s] = right.map(|row| row.chunks_exact(LANES));
    let rest = PAIRS.map(|(i, j)| {
        let (x, y) = ([&p, &q][i].remainder(), [&r, &s][j].remainder());
        x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>()
    });
    let mut sums = [[0f64; LANES]; 4];
    for (((p, q), r), s) in p.zip(q).zip(r).zip(s) {
        for (sum, (x, y)) in sums.iter_mut().zip([(p, r), (p, s), (q, r), (q, s)]) {
            for lane in 0..LANES {
                sum[lane] += x[lane] * y[lane];
            }
        }
    }
    [0, 1, 2, 3].map(|k| sums[k].iter().sum::<f64>() + rest[k])
}

/// `L` with `L Lᵀ = matrix`, a Gram matrix, by the largest pivot first; columns beyond its rank are zero.
fn cholesky(mut matrix: Vec<f64>, n: usize) -> Vec<f64> {
    let mut factor = vec![0f64; n * n];
    let original: Vec<f64> = (0..n).map(|i| matrix[i * n + i]).collect();
    for column in 0..n {
        // Each against its own size: A may make up for a small column of B.
        let left = |i: usize| {
            if original[i] > 0.0 {
                matrix[i * n + i] / original[i]
            } else {
                0.0
            }
        };
        let pivot = (1..n).fold(0, |most, i| if left(i) > left(most) { i } else { most });
        if left(pivot) <= ROUNDING {
            break;
        }
        let value = matrix[pivot * n + pivot];
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
    // Gᵢ· · L, then columns of L with that: G is symmetric.
    let half = product(n, |i, k| gram[i * n + k], factor);
    let symmetric = product(n, |i, k| factor[k * n + i], &half);
    let y = top_eigenvector(symmetric, n)?;
    let dot = |row: &[f64]| row.iter().zip(&y).map(|(x, y)| x * y).sum();
    Some(factor.chunks_exact(n).map(dot).collect())
}

fn product(n: usize, left: impl Fn(usize, usize) -> f64, right: &[f64]) -> Vec<f64> {
    let mut out = vec![0f64; n * n];
    for (i, row) in out.chunks_exact_mut(n).enumerate() {
        for (k, right) in right.chunks_exact(n).enumerate() {
            let x = left(i, k);
            for (sum, y) in row.iter_mut().zip(right) {
                *sum += x * y;
            }
        }
    }
    out
}

/// The top eigenvector of a symmetric matrix without negative eigenvalues, by squaring the matrix until only one is
/// left: no start vector that could miss it, and equal eigenvalues give a vector of their common space.
fn top_eigenvector(mut matrix: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    // The ratio of two eigenvalues is raised to 2^40: what is still equal then was equal to begin with.
    const MOST_SQUARINGS: usize = 40;
    let scale = |matrix: &mut [f64], by: f64| matrix.iter_mut().for_each(|x| *x /= by);
    let trace: f64 = (0..n).map(|i| matrix[i * n + i]).sum();
    if trace <= 0.0 {
        return None;
    }
    scale(&mut matrix, trace);
    for _ in 0..MOST_SQUARINGS {
        // The trace of the square of a matrix of trace 1: it is 1 when one eigenvalue holds everything.
        let purity: f64 = matrix.iter().map(|x| x * x).sum();
        if 1.0 - purity <= n as f64 * f64::EPSILON {
            break;
        }
        matrix = gram(&matrix, n);
        scale(&mut matrix, purity);
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
