//! A matrix by its columns, as B is: products by eights.

use super::gram::{Matrix, Vectors};
use crate::kernel::lane::{Lane, LANES};
use crate::kernel::scratch::{grow, Scratch};
use crate::peft::to_f32;
use std::ops::Range;

/// `[length, rank]` elements.
pub(super) struct Columns<'a>(pub(super) Matrix<'a>);

impl Vectors for Columns<'_> {
    const SUMMED: usize = 64;

    #[inline(always)]
    fn matrix(&self) -> &Matrix<'_> {
        &self.0
    }

    #[inline(always)]
    fn widen(&self, piece: Range<usize>, count: usize, room: &mut Vec<f32>) -> usize {
        let width = self.0.rank * self.0.dtype.size();
        let values = count * piece.len();
        grow(room, values);
        let bytes = &self.0.bytes[piece.start * width..piece.end * width];
        if self.0.rank == count {
            to_f32(self.0.dtype, bytes, &mut room[..values]);
        } else {
            for (row, to) in bytes.chunks_exact(width).zip(room.chunks_exact_mut(count)) {
                to_f32(self.0.dtype, row, &mut to[..self.0.rank]);
                to[self.0.rank..].fill(0.0);
            }
        }
        values
    }

    fn vector(i: usize, _: usize, count: usize) -> usize {
        i % count
    }

    #[inline(always)]
    unsafe fn products<L: Lane>(scratch: &mut Scratch, values: usize, length: usize, out: &mut [f32]) {
        let count = values / length;
        for left in (0..count).step_by(LANES) {
            for right in (0..=left).step_by(LANES) {
                // SAFETY: whole rows of `count`, in which eight columns follow `left` and `right`; the lanes are the
                // caller's.
                unsafe { tile::<L>(&scratch.x[..values], count, left, right, out) };
            }
        }
    }
}

/// The products of the eight columns from `left` with the eight from `right`, in f32, to their place in `out`.
///
/// # Safety
/// [`Lane`]'s; `rows` is whole rows of `count`, and both eights are among them; `out` is `[count, count]`.
#[inline(always)]
pub(super) unsafe fn tile<L: Lane>(rows: &[f32], count: usize, left: usize, right: usize, out: &mut [f32]) {
    // SAFETY: the contract above.
    unsafe {
        let mut sums = [L::zero(); LANES];
        for row in rows.chunks_exact(count) {
            let from = row.as_ptr();
            let y = L::load_f32(from.add(right));
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = sum.add_product(L::splat(*from.add(left + i)), y);
            }
        }
        // Straight from the lanes: eight short copies through the stack would take as long as the products.
        let to = out.as_mut_ptr().add(left * count + right);
        for (i, sum) in sums.into_iter().enumerate() {
            sum.store_f32(to.add(i * count));
        }
    }
}
