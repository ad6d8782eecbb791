//! A matrix by its columns, and the products of all pairs of them.

use crate::kernel::lane::{Lane, LANES};
use crate::peft::to_f32;
use crate::DType;
use std::slice::Chunks;

/// Rows whose products are summed in f32 before they go into the f64 sum.
const ROWS: usize = 64;

/// The Gram matrix of a matrix's columns, with zeros up to a multiple of eight of them.
pub(super) struct Columns {
    pub(super) count: usize,
    /// `[count, count]`.
    pub(super) gram: Vec<f64>,
    /// What each column was multiplied by first: powers of two, 1 for all whose squares f32 can hold.
    pub(super) scales: Vec<f64>,
}

impl Columns {
    /// Of `bytes`, `[rows, rank]` elements of `dtype`.
    ///
    /// # Safety
    /// [`Lane`]'s.
    #[inline(always)]
    pub(super) unsafe fn of<L: Lane>(dtype: DType, bytes: &[u8], rank: usize) -> Self {
        let matrix = Matrix { dtype, bytes, rank };
        let count = matrix.count();
        // SAFETY: the lanes are the caller's.
        let gram = unsafe { matrix.gram::<L>(None) };
        if (0..rank).all(|i| (1e-20..1e20).contains(&gram[i * count + i])) {
            let scales = vec![1.0; count];
            return Columns { count, gram, scales };
        }
        let scales = matrix.scales();
        // SAFETY: as above.
        let gram = unsafe { matrix.gram::<L>(Some(&scales)) };
        Columns { count, gram, scales }
    }
}

/// `[rows, rank]` elements.
struct Matrix<'a> {
    dtype: DType,
    bytes: &'a [u8],
    rank: usize,
}

impl Matrix<'_> {
    /// Columns with those that are zero.
    #[inline(always)]
    fn count(&self) -> usize {
        self.rank.next_multiple_of(LANES)
    }

    /// The matrix in pieces of [`ROWS`] rows.
    #[inline(always)]
    fn pieces(&self) -> Chunks<'_, u8> {
        self.bytes.chunks(ROWS * self.rank * self.dtype.size())
    }

    /// A piece in f32, `[rows, count]`, in `room`.
    #[inline(always)]
    fn widened<'r>(&self, piece: &[u8], room: &'r mut [f32]) -> &'r mut [f32] {
        let (count, width) = (self.count(), self.rank * self.dtype.size());
        let values = &mut room[..piece.len() / width * count];
        if self.rank == count {
            to_f32(self.dtype, piece, values);
        } else {
            for (piece, values) in piece.chunks_exact(width).zip(values.chunks_exact_mut(count)) {
                to_f32(self.dtype, piece, &mut values[..self.rank]);
            }
        }
        values
    }

    /// For each column the power of two that brings its largest value near 1.
    fn scales(&self) -> Vec<f64> {
        let mut peaks = vec![0f32; self.count()];
        let mut room = vec![0f32; ROWS * self.count()];
        for piece in self.pieces() {
            for row in self.widened(piece, &mut room).chunks_exact(peaks.len()) {
                for (peak, x) in peaks.iter_mut().zip(row) {
                    *peak = peak.max(x.abs());
                }
            }
        }
        let scale = |peak: f32| match peak {
            0.0 => 1.0,
            _ => 2f64.powi(-(f64::from(peak).log2() as i32)),
        };
        peaks.into_iter().map(scale).collect()
    }

    /// `[count, count]` products of all pairs of columns, each good to some 1e-7 of the two columns' lengths.
    ///
    /// # Safety
    /// [`Lane`]'s.
    #[inline(always)]
    unsafe fn gram<L: Lane>(&self, scales: Option<&[f64]>) -> Vec<f64> {
        let count = self.count();
        let mut out = vec![0f64; count * count];
        let mut room = vec![0f32; ROWS * count];
        for piece in self.pieces() {
            let values = self.widened(piece, &mut room);
            if let Some(scales) = scales {
                for (x, scale) in values.iter_mut().zip(scales.iter().cycle()) {
                    *x = (f64::from(*x) * scale) as f32;
                }
            }
            for left in (0..count).step_by(LANES) {
                for right in (0..=left).step_by(LANES) {
                    // SAFETY: whole rows, in which eight columns follow `left` and `right`; the lanes are the caller's.
                    let tile = unsafe { tile::<L>(values, count, left, right) };
                    for (i, sums) in tile.iter().enumerate() {
                        let at = (left + i) * count + right;
                        for (out, sum) in out[at..at + LANES].iter_mut().zip(sums) {
                            *out += f64::from(*sum);
                        }
                    }
                }
            }
        }
        for i in 0..count {
            for j in 0..i {
                out[j * count + i] = out[i * count + j];
            }
        }
        out
    }
}

/// Products of the eight columns from `left` with the eight from `right`, in f32.
///
/// # Safety
/// [`Lane`]'s; `rows` is whole rows of `count`, and both eights are among them.
#[inline(always)]
pub(super) unsafe fn tile<L: Lane>(
    rows: &[f32],
    count: usize,
    left: usize,
    right: usize,
) -> [[f32; LANES]; LANES] {
    let mut tile = [[0f32; LANES]; LANES];
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
        for (to, sum) in tile.iter_mut().zip(sums) {
            sum.store_f32(to.as_mut_ptr());
        }
    }
    tile
}
