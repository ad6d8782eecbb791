//! The zero-shot gate row of a module: the input direction that its product changes most.
//!
//! The top right singular vector of `B A` is `v = Aᵀ z / |Aᵀ z|`, `z` the top eigenvector of `(BᵀB)(A Aᵀ)`: a problem
//! of size rank, not of the widths. With `BᵀB = L Lᵀ` it is symmetric: `Lᵀ (A Aᵀ) L y = λ y`, `z = L y`.

mod columns;
mod eigen;
mod gram;
mod rows;

use super::isa::{dispatch, Kernel};
use super::lane::{Lane, LANES};
use super::scratch::{with_scratch, Scratch};
use crate::peft::{to_f32, Module};
use columns::Columns;
use eigen::{cholesky, top};
use gram::{Gram, Matrix};
use rows::Rows;

/// Writes the unit top right singular vector of `B A`, `in_features` values: products are summed in f32 over 64
/// values and then in f64; good to some 1e-6 of what the best direction gains.
///
/// The sign is the one that makes the largest component positive (the first of equals). Zeros if `B A` is zero.
///
/// # Panics
/// If `out` does not have `in_features` values.
pub fn arrow_row(module: &Module, out: &mut [f32]) {
    assert_eq!(out.len(), module.in_features, "gate row of {}", module.path);
    // SAFETY: all sizes follow from the module, whose tensors were checked when it was parsed.
    with_scratch(|scratch| unsafe { dispatch(Row { module, out, scratch }) });
}

/// `out` has a value for each input of `module`.
struct Row<'a> {
    module: &'a Module,
    out: &'a mut [f32],
    scratch: &'a mut Scratch,
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lane>(self) {
        let Row { module, out, scratch } = self;
        let (dtype, rank) = (module.dtype, module.rank);
        let a = Rows(Matrix {
            dtype,
            rank,
            bytes: &module.a,
        });
        let b = Columns(Matrix {
            dtype,
            rank,
            bytes: &module.b,
        });
        out.fill(0.0);
        // SAFETY: the lanes are those of this CPU, by the contract of `run`.
        let (a, b) = unsafe { (Gram::of::<L, _>(&a, scratch), Gram::of::<L, _>(&b, scratch)) };
        let n = a.count;
        let mut factor = cholesky(b.products, n);
        for ((row, a), b) in factor.chunks_exact_mut(n).zip(&a.scales).zip(&b.scales) {
            row.iter_mut().for_each(|x| *x /= a * b);
        }
        // SAFETY: as above.
        let Some(mut z) = (unsafe { top::<L>(&a.products, &factor, n) }) else {
            return;
        };
        z.iter_mut().zip(&a.scales).for_each(|(z, scale)| *z *= scale);
        write_unit(&combined(module, &z), out);
    }
}

/// `Aᵀ weights`, summed in f64, since rows may cancel each other.
#[inline(always)]
fn combined(module: &Module, weights: &[f64]) -> Vec<f64> {
    const AT_ONCE: usize = 32;
    let (dtype, width) = (module.dtype, module.in_features);
    let mut row = vec![0f64; width];
    let mut values = [0f32; AT_ONCE];
    for (place, out) in row.chunks_mut(AT_ONCE).enumerate() {
        let bytes = place * AT_ONCE * dtype.size()..(place * AT_ONCE + out.len()) * dtype.size();
        let mut sums = [0f64; AT_ONCE];
        for (line, &weight) in module.a.chunks_exact(width * dtype.size()).zip(weights) {
            to_f32(dtype, &line[bytes.clone()], &mut values);
            for (sum, &x) in sums.iter_mut().zip(&values) {
                *sum += weight * f64::from(x);
            }
        }
        out.copy_from_slice(&sums[..out.len()]);
    }
    row
}

/// `row` at length 1, its largest component positive; zeros if it is zero.
#[inline(always)]
fn write_unit(row: &[f64], out: &mut [f32]) {
    let mut squares = [0f64; LANES];
    let mut peaks = [0f64; LANES];
    for values in row.chunks(LANES) {
        for ((&x, square), peak) in values.iter().zip(&mut squares).zip(&mut peaks) {
            *square += x * x;
            *peak = peak.max(x.abs());
        }
    }
    let norm = squares.iter().sum::<f64>().sqrt();
    let peak = peaks.into_iter().fold(0.0, f64::max);
    let sign = row.iter().find(|x| x.abs() == peak).map_or(1.0, |x| x.signum());
    out.fill(0.0);
    if norm > 0.0 {
        for (out, x) in out.iter_mut().zip(row) {
            *out = (x / norm * sign) as f32;
        }
    }
}
