//! The zero-shot gate row of a module: the input direction that its product changes most.
//!
//! The top right singular vector of `B A` is `v = Aᵀ z / |Aᵀ z|`, `z` the top eigenvector of `(BᵀB)(A Aᵀ)`: a problem
//! of size rank, not of the widths. With `BᵀB = L Lᵀ` it is symmetric: `Lᵀ (A Aᵀ) L y = λ y`, `z = L y`.

mod columns;
mod eigen;

use super::isa::{dispatch, Kernel};
use super::lane::Lane;
use crate::peft::{to_f32, Module};
use crate::transpose::transpose;
use columns::Columns;
use eigen::{cholesky, top};

/// Writes the unit top right singular vector of `B A`, `in_features` values: products of columns are summed in f32
/// over 64 rows and then in f64; good to some 1e-6 of what the best direction gains.
///
/// The sign is the one that makes the largest component positive (the first of equals). Zeros if `B A` is zero.
///
/// # Panics
/// If `out` does not have `in_features` values.
pub fn arrow_row(module: &Module, out: &mut [f32]) {
    assert_eq!(out.len(), module.in_features, "gate row of {}", module.path);
    // SAFETY: all sizes follow from the module, whose tensors were checked when it was parsed.
    unsafe { dispatch(Row { module, out }) };
}

/// `out` has a value for each input of `module`.
struct Row<'a> {
    module: &'a Module,
    out: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lane>(self) {
        let Row { module, out } = self;
        let (dtype, rank, width) = (module.dtype, module.rank, module.in_features);
        out.fill(0.0);
        let mut turned = vec![0; module.a.len()];
        transpose(dtype, &module.a, width, &mut turned);
        // SAFETY: the lanes are those of this CPU, by the contract of `run`.
        let (a, b) = unsafe {
            (
                Columns::of::<L>(dtype, &turned, rank),
                Columns::of::<L>(dtype, &module.b, rank),
            )
        };
        let n = a.count;
        let mut factor = cholesky(b.gram, n);
        for ((row, a), b) in factor.chunks_exact_mut(n).zip(&a.scales).zip(&b.scales) {
            row.iter_mut().for_each(|x| *x /= a * b);
        }
        // SAFETY: as above.
        let Some(z) = (unsafe { top::<L>(&a.gram, &factor, n) }) else {
            return;
        };
        let mut row = vec![0f64; width];
        let rows = module.a.chunks_exact(width * dtype.size());
        for ((bytes, z), scale) in rows.zip(z).zip(&a.scales) {
            to_f32(dtype, bytes, out);
            let weight = z * scale;
            for (sum, &x) in row.iter_mut().zip(out.iter()) {
                *sum += weight * f64::from(x);
            }
        }
        write_unit(&row, out);
    }
}

/// `row` at length 1, its largest component positive; zeros if it is zero.
#[inline(always)]
fn write_unit(row: &[f64], out: &mut [f32]) {
    out.fill(0.0);
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
