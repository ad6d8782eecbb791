//! `out[t, r] = x[t] · w[r]`: gate logits and the shrink `A x`, one kernel for both.

#![allow(clippy::needless_range_loop)] // a tile's loops index several arrays at once

use super::element::{Element, F32};
use super::isa::Kernel;
use super::lane::{Lane, LANES};
use std::marker::PhantomData;

/// Weight bytes that stay in the second-level cache while all tokens pass over them.
const CHUNK_BYTES: usize = 192 << 10;
/// A multiple of all tile heights.
const CHUNK_ROWS: usize = 24;

/// All dot products of `tokens` with `rows`.
///
/// # Safety
/// `width` elements behind each pointer; `out` is good for one f32 at each `t * strides.0 + r * strides.1`.
pub(super) struct Dots<'a, W> {
    pub(super) tokens: &'a [*const f32],
    pub(super) rows: &'a [*const u8],
    pub(super) width: usize,
    pub(super) out: *mut f32,
    /// From token to token, from row to row.
    pub(super) strides: (usize, usize),
    pub(super) element: PhantomData<W>,
}

impl<W: Element> Kernel for Dots<'_, W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lane>(self) {
        let row_bytes = (self.width * size_of::<W::Bits>()).max(1);
        let chunk = (CHUNK_BYTES / row_bytes / CHUNK_ROWS).max(1) * CHUNK_ROWS;
        let mut from = 0;
        while from < self.rows.len() {
            let to = self.rows.len().min(from + chunk);
            // SAFETY: `from..to` lies in `rows`; the contract is handed on.
            unsafe { self.chunk::<L>(from, to) };
            from = to;
        }
    }
}

impl<W: Element> Dots<'_, W> {
    /// Rows `from..to`, four tokens at a time. Tiles have 8 to 12 accumulators: eight hide the latency of fma
    /// (4 cycles, 2 a cycle), twelve with three weights and one input fill the 16 registers of AVX2.
    #[inline(always)]
    unsafe fn chunk<L: Lane>(&self, from: usize, to: usize) {
        let count = self.tokens.len();
        let mut t = 0;
        // SAFETY: tokens `t..t + T` and rows `from..to` exist.
        unsafe {
            while t + 4 <= count {
                let at = self.rows_by::<L, 4, 3>(t, from, to);
                let at = self.rows_by::<L, 4, 2>(t, at, to);
                self.rows_by::<L, 4, 1>(t, at, to);
                t += 4;
            }
            match count - t {
                3 => {
                    let at = self.rows_by::<L, 3, 4>(t, from, to);
                    let at = self.rows_by::<L, 3, 2>(t, at, to);
                    self.rows_by::<L, 3, 1>(t, at, to);
                }
                2 => {
                    let at = self.rows_by::<L, 2, 4>(t, from, to);
                    let at = self.rows_by::<L, 2, 2>(t, at, to);
                    self.rows_by::<L, 2, 1>(t, at, to);
                }
                1 => {
                    let at = self.rows_by::<L, 1, 8>(t, from, to);
                    let at = self.rows_by::<L, 1, 4>(t, at, to);
                    self.rows_by::<L, 1, 1>(t, at, to);
                }
                _ => {}
            }
        }
    }

    /// Whole tiles of `T × R` from row `from` on; returns the first row that is left.
    #[inline(always)]
    unsafe fn rows_by<L: Lane, const T: usize, const R: usize>(
        &self,
        t: usize,
        from: usize,
        to: usize,
    ) -> usize {
        let mut r = from;
        while r + R <= to {
            let mut x = [std::ptr::null(); T];
            let mut w = [std::ptr::null(); R];
            x.copy_from_slice(&self.tokens[t..t + T]);
            w.copy_from_slice(&self.rows[r..r + R]);
            // SAFETY: `width` elements behind each pointer; the outputs are the contract's.
            unsafe {
                let sums = tile::<L, W, T, R>(x, w, self.width);
                for i in 0..T {
                    let out = self.out.add((t + i) * self.strides.0 + r * self.strides.1);
                    for j in 0..R {
                        out.add(j * self.strides.1).write(sums[i][j]);
                    }
                }
            }
            r += R;
        }
        r
    }
}

/// The `T × R` dot products of `width` elements, each by one accumulator of eight lanes.
#[inline(always)]
unsafe fn tile<L: Lane, W: Element, const T: usize, const R: usize>(
    x: [*const f32; T],
    w: [*const u8; R],
    width: usize,
) -> [[f32; R]; T] {
    let whole = width - width % LANES;
    let rest = width - whole;
    let mut sums = [[0.0; R]; T];
    // SAFETY: offsets up to `width` behind each pointer.
    unsafe {
        let mut acc = [[L::zero(); R]; T];
        let mut at = 0;
        while at < whole {
            let mut row = [L::zero(); R];
            for j in 0..R {
                row[j] = W::load(w[j].cast::<W::Bits>().add(at));
            }
            for i in 0..T {
                let token = F32::load::<L>(x[i].add(at));
                for j in 0..R {
                    acc[i][j] = acc[i][j].add_product(token, row[j]);
                }
            }
            at += LANES;
        }
        if rest > 0 {
            for j in 0..R {
                let row = W::load_some::<L>(w[j].cast::<W::Bits>().add(at), rest);
                for i in 0..T {
                    let token = F32::load_some::<L>(x[i].add(at), rest);
                    acc[i][j] = acc[i][j].add_product(token, row);
                }
            }
        }
        for i in 0..T {
            for j in 0..R {
                sums[i][j] = acc[i][j].sum();
            }
        }
    }
    sums
}
