//! `sums[t, :] += Σ_r c[t, r] · B[r, :]` for the tokens of one slot, and `y[t, :] += sums[t, :]` at the end.

#![allow(clippy::needless_range_loop)] // a tile's loops index several arrays at once

use super::element::{Element, F32};
use super::isa::Kernel;
use super::lane::{Lane, LANES};
use std::marker::PhantomData;

/// One token's term: its coefficients `[rank]`, its row of sums, and whether the sums begin here.
#[derive(Clone, Copy)]
pub(super) struct Term {
    pub(super) coefficients: *const f32,
    pub(super) sums: *mut f32,
    pub(super) first: bool,
}

/// Adds one slot's columns `0..width` to its tokens' sums.
///
/// # Safety
/// `rank` coefficients, and `width` rounded up to eight sums, behind each term's pointers; `rank` rows of
/// `width` elements from `b` on, `stride` elements apart.
pub(super) struct Expand<'a, W> {
    pub(super) terms: &'a [Term],
    pub(super) b: *const u8,
    pub(super) stride: usize,
    pub(super) rank: usize,
    pub(super) width: usize,
    pub(super) element: PhantomData<W>,
}

impl<W: Element> Kernel for Expand<'_, W> {
    #[inline(always)]
    unsafe fn run<L: Lane>(self) {
        let mut t = 0;
        // SAFETY: terms `t..t + T` exist; the contract is handed on.
        unsafe {
            while t + 4 <= self.terms.len() {
                self.columns::<L, 4, 2>(t);
                t += 4;
            }
            match self.terms.len() - t {
                3 => self.columns::<L, 3, 3>(t),
                2 => self.columns::<L, 2, 4>(t),
                1 => self.columns::<L, 1, 8>(t),
                _ => {}
            }
        }
    }
}

impl<W: Element> Expand<'_, W> {
    /// All columns of terms `t..t + T`, `C` vectors at a time, then one, then the part of one.
    #[inline(always)]
    unsafe fn columns<L: Lane, const T: usize, const C: usize>(&self, t: usize) {
        let mut terms = [self.terms[t]; T];
        terms.copy_from_slice(&self.terms[t..t + T]);
        let mut at = 0;
        // SAFETY: columns up to `width`; the last store may fill up its vector of sums.
        unsafe {
            while at + C * LANES <= self.width {
                self.tile::<L, T, C>(&terms, at, LANES);
                at += C * LANES;
            }
            while at + LANES <= self.width {
                self.tile::<L, T, 1>(&terms, at, LANES);
                at += LANES;
            }
            if at < self.width {
                self.tile::<L, T, 1>(&terms, at, self.width - at);
            }
        }
    }

    /// `T` terms by `C` vectors of columns from `at` on, of which the last has `count` columns.
    #[inline(always)]
    unsafe fn tile<L: Lane, const T: usize, const C: usize>(
        &self,
        terms: &[Term; T],
        at: usize,
        count: usize,
    ) {
        // SAFETY: the columns exist in `b`; sums are readable and writable in whole vectors.
        unsafe {
            let mut acc = [[L::zero(); C]; T];
            for i in 0..T {
                if !terms[i].first {
                    for j in 0..C {
                        acc[i][j] = F32::load(terms[i].sums.add(at + j * LANES));
                    }
                }
            }
            let mut b = self.b.cast::<W::Bits>().add(at);
            for r in 0..self.rank {
                let mut row = [L::zero(); C];
                for j in 0..C {
                    row[j] = if count == LANES {
                        W::load(b.add(j * LANES))
                    } else {
                        W::load_some(b.add(j * LANES), count)
                    };
                }
                for i in 0..T {
                    let c = L::splat(terms[i].coefficients.add(r).read());
                    for j in 0..C {
                        acc[i][j] = acc[i][j].add_product(c, row[j]);
                    }
                }
                b = b.wrapping_add(self.stride);
            }
            for i in 0..T {
                for j in 0..C {
                    F32::store(acc[i][j], terms[i].sums.add(at + j * LANES));
                }
            }
        }
    }
}

/// Adds one token's sums to its outputs: `y = round(y + sums)`.
///
/// # Safety
/// `width` rounded up to eight sums, and `width` outputs, behind the pointers.
pub(super) struct AddSums<Y> {
    pub(super) sums: *const f32,
    pub(super) y: *mut u8,
    pub(super) width: usize,
    pub(super) element: PhantomData<Y>,
}

impl<Y: Element> Kernel for AddSums<Y> {
    #[inline(always)]
    unsafe fn run<L: Lane>(self) {
        let y = self.y.cast::<Y::Bits>();
        let whole = self.width - self.width % LANES;
        let rest = self.width - whole;
        let mut at = 0;
        // SAFETY: offsets up to `width`; sums are readable in whole vectors.
        unsafe {
            while at < whole {
                let sum = Y::load::<L>(y.add(at)).add(F32::load(self.sums.add(at)));
                Y::store(sum, y.add(at));
                at += LANES;
            }
            if rest > 0 {
                let sum = Y::load_some::<L>(y.add(at), rest).add(F32::load(self.sums.add(at)));
                Y::store_some(sum, y.add(at), rest);
            }
        }
    }
}
