//! `sums[t, :] += Σ_r c[t, r] · B[r, :]` for the tokens of one slot; a token's last slot goes on to
//! `y[t, :] = round(y[t, :] + sums[t, :])`.

#![allow(clippy::needless_range_loop)] // a tile's loops index several arrays at once

use super::element::{Element, F32};
use super::isa::Kernel;
use super::lane::{Lane, LANES};
use std::marker::PhantomData;

/// One token's part in a slot.
#[derive(Clone, Copy)]
pub(super) struct Term {
    /// Its row of sums, from the first of the columns at hand.
    pub(super) sums: *mut f32,
    /// Its row of outputs, from column 0.
    pub(super) y: *mut u8,
    /// Whether its sums begin here, and whether they end here.
    pub(super) first: bool,
    pub(super) last: bool,
}

/// Adds columns `from..from + width` of one slot.
///
/// # Safety
/// Behind each term's pointers: `width` rounded up to eight sums, `from + width` outputs. `rank` rows of `stride`
/// elements from `b` on; coefficients `[rank, terms]`.
pub(super) struct Expand<'a, W, Y> {
    pub(super) terms: &'a [Term],
    pub(super) coefficients: *const f32,
    pub(super) b: *const u8,
    pub(super) stride: usize,
    pub(super) rank: usize,
    pub(super) from: usize,
    pub(super) width: usize,
    pub(super) elements: PhantomData<(W, Y)>,
}

impl<W: Element, Y: Element> Kernel for Expand<'_, W, Y> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lane>(self) {
        // Eight accumulators: with twelve the compiler spills.
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

impl<W: Element, Y: Element> Expand<'_, W, Y> {
    /// All columns of terms `t..t + T`, `C` vectors at a time, then one, then the part of one.
    #[inline(always)]
    unsafe fn columns<L: Lane, const T: usize, const C: usize>(&self, t: usize) {
        let mut terms = [self.terms[t]; T];
        terms.copy_from_slice(&self.terms[t..t + T]);
        let mut at = 0;
        // SAFETY: columns up to `width`; the last store may fill up its vector of sums.
        unsafe {
            while at + C * LANES <= self.width {
                self.tile::<L, T, C>(t, &terms, at, LANES);
                at += C * LANES;
            }
            while at + LANES <= self.width {
                self.tile::<L, T, 1>(t, &terms, at, LANES);
                at += LANES;
            }
            if at < self.width {
                self.tile::<L, T, 1>(t, &terms, at, self.width - at);
            }
        }
    }

    /// `T` terms from `t` on by `C` vectors of columns from `at` on, of which the last has `count` columns.
    #[inline(always)]
    unsafe fn tile<L: Lane, const T: usize, const C: usize>(
        &self,
        t: usize,
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
            let mut b = self.b.cast::<W::Bits>().add(self.from + at);
            let mut c = self.coefficients.add(t);
            for _ in 0..self.rank {
                let mut row = [L::zero(); C];
                for j in 0..C {
                    row[j] = if count == LANES {
                        W::load(b.add(j * LANES))
                    } else {
                        W::load_some(b.add(j * LANES), count)
                    };
                }
                for i in 0..T {
                    let c = L::splat(c.add(i).read());
                    for j in 0..C {
                        acc[i][j] = acc[i][j].add_product(c, row[j]);
                    }
                }
                b = b.wrapping_add(self.stride);
                c = c.wrapping_add(self.terms.len());
            }
            for i in 0..T {
                if !terms[i].last {
                    for j in 0..C {
                        F32::store(acc[i][j], terms[i].sums.add(at + j * LANES));
                    }
                    continue;
                }
                for j in 0..C {
                    let y = terms[i].y.cast::<Y::Bits>().add(self.from + at + j * LANES);
                    if count == LANES {
                        Y::store(Y::load::<L>(y).add(acc[i][j]), y);
                    } else {
                        Y::store_some(Y::load_some::<L>(y, count).add(acc[i][j]), y, count);
                    }
                }
            }
        }
    }
}
