//! Int8 copies of gate rows with error bounds: for a few tokens against many candidates, most candidates are ruled
//! out without their f32 rows, which are four times the bytes.
//!
//! With `row = scale·q + e` and `x = s·p + d`, where q is int8 and p int16,
//!
//! ```text
//! |row·x − scale·s·(q·p)| ≤ ‖row‖₂·‖d‖₂ + min(‖s·p‖₂·‖e‖₂, ‖s·p‖₁·‖e‖∞)
//! ```
//! A candidate whose upper bound is below the `top_k`-th largest lower bound can't be among the `top_k` largest. The
//! others' logits are then computed as ever, so the screen changes no bit of the choice.

use super::ints::{Codes, Input, Products, Quantise};
use super::isa::dispatch;

/// Candidates from which the screen pays.
const WORTH: usize = 24;
/// Bytes before a row's elements: six 32-bit words, and room to the next 32.
const HEADER: usize = 32;
/// Logits this large may overflow f32, where bounds end.
const LARGE: f64 = 1e37;

/// What one row's elements are worth.
#[derive(Clone, Copy)]
#[repr(C)]
struct Header {
    scale: f32,
    /// ‖e‖₂, ‖e‖∞ and ‖row‖₂, rounded up; infinite where the row is not finite.
    error: f32,
    largest_error: f32,
    norm: f32,
    bias: f32,
    /// 1: the logit is `|row · x| + bias`.
    sign_free: u32,
}

/// Bytes of a screen row for `width` columns.
pub const fn screen_stride(width: usize) -> usize {
    HEADER + width.next_multiple_of(HEADER)
}

/// Fills the screen row `out`, `[screen_stride(row.len())]`, of a gate row and its bias.
///
/// # Panics
/// `out` has another length.
pub fn write_screen(row: &[f32], bias: f32, sign_free: bool, out: &mut [u8]) {
    assert_eq!(out.len(), screen_stride(row.len()), "screen row");
    let (head, elements) = out.split_at_mut(HEADER);
    elements[row.len()..].fill(0);
    // SAFETY: safe code alone; the elements are whole eights and no fewer than the row.
    let coded = unsafe { dispatch(Codes { row, out: elements }) };
    let finite = coded.finite && bias.is_finite();
    let up = |value: f64| {
        if finite {
            (value * 1.000_001) as f32 + f32::MIN_POSITIVE
        } else {
            f32::INFINITY
        }
    };
    let header = [
        if finite { coded.scale } else { 0.0 }.to_bits(),
        up(coded.error).to_bits(),
        up(coded.largest_error).to_bits(),
        up(coded.norm).to_bits(),
        if finite { bias } else { 0.0 }.to_bits(),
        sign_free.into(),
    ];
    for (bytes, word) in head.chunks_exact_mut(4).zip(header) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
}

/// A token's input as int16, and the screen's working memory.
#[derive(Default)]
pub(super) struct Screened {
    input: Vec<i16>,
    rows: Vec<*const i8>,
    products: Vec<f64>,
    bounds: Vec<(f64, f64)>,
    /// The `top_k` largest lower bounds, ascending.
    best: Vec<f64>,
    /// Slots that are left.
    pub(super) kept: Vec<usize>,
}

/// Whether to screen this many candidates at all.
pub(super) fn worth(candidates: usize, top_k: usize) -> bool {
    candidates >= WORTH && candidates >= 4 * top_k
}

impl Screened {
    /// Leaves in `kept` the `candidates` that may be among the `top_k` largest logits of the token at `x`.
    ///
    /// # Safety
    /// `width` f32 behind `x`; `screen` holds a row for every candidate.
    pub(super) unsafe fn screen(
        &mut self,
        screen: &[u8],
        width: usize,
        candidates: &[usize],
        x: *const f32,
        top_k: usize,
    ) {
        self.kept.clear();
        let padded = width.next_multiple_of(HEADER);
        self.input.clear();
        self.input.resize(padded, 0);
        // SAFETY: `width` values behind `x`, as many places in `input`.
        let input = unsafe {
            dispatch(Quantise {
                x,
                width,
                out: self.input.as_mut_ptr(),
            })
        };
        let Some(input) = input else {
            return self.kept.extend(candidates);
        };
        let stride = screen_stride(width);
        self.rows.clear();
        let elements = |&slot: &usize| screen[slot * stride..][..stride].as_ptr().wrapping_add(HEADER);
        self.rows
            .extend(candidates.iter().map(|slot| elements(slot).cast::<i8>()));
        self.products.clear();
        self.products.resize(candidates.len(), 0.0);
        // SAFETY: whole screen rows (sliced above); `padded` ints in `input`; a place for each product.
        unsafe {
            let (x, out) = (self.input.as_ptr(), self.products.as_mut_ptr());
            dispatch(Products {
                x,
                rows: &self.rows,
                padded,
                out,
            });
        }
        self.best.clear();
        self.best.resize(top_k, f64::NEG_INFINITY);
        self.bounds.clear();
        // Sums of f32 products in eight lanes, rounded `width / 8 + 3` times, then the bias.
        let rounding = (width as f64 / 8.0 + 32.0) * f64::from(f32::EPSILON);
        for (&row, &product) in self.rows.iter().zip(&self.products) {
            // SAFETY: a header comes before a row's elements; it may be unaligned.
            let header = unsafe { row.sub(HEADER).cast::<Header>().read_unaligned() };
            let (low, high) = input.bounds(&header, product, rounding);
            self.bounds.push((low, high));
            if low > self.best[0] {
                let at = self.best.partition_point(|&best| best < low);
                self.best[..at].rotate_left(1);
                self.best[at - 1] = low;
            }
        }
        let bar = self.best[0];
        let possible = candidates
            .iter()
            .zip(&self.bounds)
            .filter(|(_, &(_, high))| high >= bar);
        self.kept.extend(possible.map(|(&slot, _)| slot));
    }
}

impl Input {
    /// The least and the greatest that the logit, computed in f32, can be.
    fn bounds(&self, row: &Header, product: f64, rounding: f64) -> (f64, f64) {
        let of = |value: f32| f64::from(value);
        let most = of(row.norm) * (self.norm + self.error) + of(row.bias).abs();
        if most.is_nan() || most > LARGE {
            return (f64::NEG_INFINITY, f64::INFINITY);
        }
        let dot = of(row.scale) * self.scale * product;
        let dot = if row.sign_free != 0 { dot.abs() } else { dot };
        let quantised = (self.norm * of(row.error)).min(self.one_norm * of(row.largest_error));
        let error = of(row.norm) * self.error + quantised + rounding * most + 1e-30;
        (dot + of(row.bias) - error, dot + of(row.bias) + error)
    }
}
