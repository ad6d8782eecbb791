//! The products of all pairs of a matrix's rank vectors, which are its rows or its columns.

use crate::kernel::lane::{Lane, LANES};
use crate::kernel::scratch::Scratch;
use crate::DType;
use std::ops::Range;

/// A matrix of rank vectors, its elements row by row.
pub(super) struct Matrix<'a> {
    pub(super) dtype: DType,
    pub(super) bytes: &'a [u8],
    /// How many vectors there are.
    pub(super) rank: usize,
}

impl Matrix<'_> {
    /// The values of each vector.
    #[inline(always)]
    pub(super) fn length(&self) -> usize {
        self.bytes.len() / (self.rank * self.dtype.size())
    }
}

/// How the vectors lie in a matrix; its methods are `#[inline(always)]`, as what calls them.
pub(super) trait Vectors {
    /// Values of a vector that are summed in f32 before they go into the f64 sum.
    const SUMMED: usize;
    fn matrix(&self) -> &Matrix<'_>;
    /// A piece of all vectors in f32, at the beginning of `room`; how many values that is.
    fn widen(&self, piece: Range<usize>, count: usize, room: &mut Vec<f32>) -> usize;
    /// Whose value is at `i` of a widened piece of this length.
    fn vector(i: usize, length: usize, count: usize) -> usize;
    /// Writes the products of the pairs of a widened piece into `out`, `[count, count]`: those at and below the
    /// diagonal, and maybe others.
    ///
    /// # Safety
    /// [`Lane`]'s.
    unsafe fn products<L: Lane>(scratch: &mut Scratch, values: usize, length: usize, out: &mut [f32]);
}

/// The Gram matrix of vectors, with zeros up to a multiple of eight of them.
pub(super) struct Gram {
    pub(super) count: usize,
    /// `[count, count]`, each good to some 1e-7 of the two vectors' lengths.
    pub(super) products: Vec<f64>,
    /// What each vector was multiplied by first: powers of two, 1 for all whose squares f32 can hold.
    pub(super) scales: Vec<f64>,
}

impl Gram {
    /// # Safety
    /// [`Lane`]'s.
    #[inline(always)]
    pub(super) unsafe fn of<L: Lane, V: Vectors>(vectors: &V, scratch: &mut Scratch) -> Self {
        let count = vectors.matrix().rank.next_multiple_of(LANES);
        let mut gram = Gram {
            count,
            products: vec![0.0; count * count],
            scales: vec![1.0; count],
        };
        // SAFETY: the lanes are the caller's.
        unsafe { gram.sum::<L, V>(vectors, scratch) };
        let plain = |i: usize| (1e-20..1e20).contains(&gram.products[i * count + i]);
        if !(0..vectors.matrix().rank).all(plain) {
            gram.scale(vectors, &mut scratch.x);
            // SAFETY: as above.
            unsafe { gram.sum::<L, V>(vectors, scratch) };
        }
        gram
    }

    /// Sums the products of the vectors, each multiplied by its scale.
    ///
    /// # Safety
    /// [`Lane`]'s.
    #[inline(always)]
    unsafe fn sum<L: Lane, V: Vectors>(&mut self, vectors: &V, scratch: &mut Scratch) {
        let count = self.count;
        let mut part = vec![0f32; count * count];
        self.products.fill(0.0);
        let scaled = self.scales.iter().any(|&scale| scale != 1.0);
        for piece in pieces(vectors) {
            let length = piece.len();
            let values = vectors.widen(piece, count, &mut scratch.x);
            if scaled {
                for (i, x) in scratch.x[..values].iter_mut().enumerate() {
                    *x = (f64::from(*x) * self.scales[V::vector(i, length, count)]) as f32;
                }
            }
            // SAFETY: the lanes are the caller's.
            unsafe { V::products::<L>(scratch, values, length, &mut part) };
            for (product, part) in self.products.iter_mut().zip(&part) {
                *product += f64::from(*part);
            }
        }
        for i in 0..count {
            for j in 0..i {
                self.products[j * count + i] = self.products[i * count + j];
            }
        }
    }

    /// For each vector the power of two that brings its largest value near 1.
    fn scale<V: Vectors>(&mut self, vectors: &V, room: &mut Vec<f32>) {
        let mut peaks = vec![0f32; self.count];
        for piece in pieces(vectors) {
            let length = piece.len();
            let values = vectors.widen(piece, self.count, room);
            for (i, x) in room[..values].iter().enumerate() {
                let peak = &mut peaks[V::vector(i, length, self.count)];
                *peak = peak.max(x.abs());
            }
        }
        for (scale, peak) in self.scales.iter_mut().zip(peaks) {
            if peak > 0.0 {
                *scale = 2f64.powi(-(f64::from(peak).log2() as i32));
            }
        }
    }
}

/// Pieces of the vectors, of about equal length.
#[inline(always)]
fn pieces<V: Vectors>(vectors: &V) -> impl Iterator<Item = Range<usize>> {
    let length = vectors.matrix().length();
    let step = length
        .div_ceil(length.div_ceil(V::SUMMED))
        .next_multiple_of(LANES);
    (0..length)
        .step_by(step)
        .map(move |from| from..length.min(from + step))
}
