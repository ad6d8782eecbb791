//! A matrix by its rows, as A is: dot products.

use super::gram::{Matrix, Vectors};
use crate::kernel::dots::Dots;
use crate::kernel::element::F32;
use crate::kernel::isa::dispatch;
use crate::kernel::lane::{Lane, LANES};
use crate::kernel::scratch::{grow, Scratch};
use crate::peft::to_f32;
use std::marker::PhantomData;
use std::ops::Range;

/// Rows that are multiplied at once.
const AT_ONCE: usize = 4;

/// `[rank, length]` elements.
pub(super) struct Rows<'a>(pub(super) Matrix<'a>);

impl Vectors for Rows<'_> {
    /// 64 in each lane.
    const SUMMED: usize = 64 * LANES;

    #[inline(always)]
    fn matrix(&self) -> &Matrix<'_> {
        &self.0
    }

    #[inline(always)]
    fn widen(&self, piece: Range<usize>, _: usize, room: &mut Vec<f32>) -> usize {
        let size = self.0.dtype.size();
        let values = self.0.rank * piece.len();
        grow(room, values);
        let rows = self.0.bytes.chunks_exact(self.0.length() * size);
        for (row, to) in rows.zip(room.chunks_exact_mut(piece.len())) {
            to_f32(self.0.dtype, &row[piece.start * size..piece.end * size], to);
        }
        values
    }

    fn vector(i: usize, length: usize, _: usize) -> usize {
        i / length
    }

    #[inline(always)]
    unsafe fn products<L: Lane>(scratch: &mut Scratch, values: usize, length: usize, out: &mut [f32]) {
        let Scratch { x, tokens, rows, .. } = scratch;
        let count = (values / length).next_multiple_of(LANES);
        tokens.clear();
        tokens.extend(x[..values].chunks_exact(length).map(<[f32]>::as_ptr));
        rows.clear();
        rows.extend(tokens.iter().map(|row| row.cast::<u8>()));
        for (lines, (at, tokens)) in out
            .chunks_mut(AT_ONCE * count)
            .zip(tokens.chunks(AT_ONCE).enumerate())
        {
            let dots = Dots::<F32> {
                tokens,
                rows: &rows[..at * AT_ONCE + tokens.len()],
                width: length,
                out: lines.as_mut_ptr(),
                strides: (count, 1),
                element: PhantomData,
            };
            // SAFETY: `length` values behind each pointer, and a line of `count` for each token; the lanes are those of
            // this CPU, as ever.
            unsafe { dispatch(dots) }
        }
    }
}
