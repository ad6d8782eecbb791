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

use super::isa::{dispatch, Kernel};
use super::lane::{Lane, STEP};

/// Candidates from which the screen pays.
const WORTH: usize = 24;
/// Bytes before a row's elements: six 32-bit words, and room to the next 32.
const HEADER: usize = 32;
/// Elements whose products are summed in int32: 2048 · 127 · 32767 over eight lanes stays below 2³¹.
const EXACT: usize = 2048;
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
    elements.fill(0);
    let largest = row.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    let scale = largest / 127.0;
    let (mut error, mut largest_error, mut norm) = (0.0f64, 0.0f64, 0.0f64);
    for (&value, out) in row.iter().zip(&mut *elements) {
        let code = if scale > 0.0 {
            (value / scale).round().clamp(-127.0, 127.0)
        } else {
            0.0
        };
        *out = code as i8 as u8;
        let rest = (f64::from(value) - f64::from(scale) * f64::from(code)).abs();
        error += rest * rest;
        largest_error = largest_error.max(rest);
        norm += f64::from(value) * f64::from(value);
    }
    let finite = row.iter().all(|value| value.is_finite()) && bias.is_finite();
    let up = |value: f64| {
        if finite {
            (value * 1.000_001) as f32 + f32::MIN_POSITIVE
        } else {
            f32::INFINITY
        }
    };
    let header = [
        if finite { scale } else { 0.0 }.to_bits(),
        up(error.sqrt()).to_bits(),
        up(largest_error).to_bits(),
        up(norm.sqrt()).to_bits(),
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
        self.rows.extend(
            candidates
                .iter()
                .map(|&slot| screen[slot * stride..][..stride].as_ptr().cast::<i8>()),
        );
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
            // SAFETY: a screen row begins with a header; it may be unaligned.
            let header = unsafe { row.cast::<Header>().read_unaligned() };
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

/// What an input's ints are worth.
struct Input {
    scale: f64,
    /// ‖s·p‖₁, ‖s·p‖₂ and ‖d‖₂, rounded up.
    one_norm: f64,
    norm: f64,
    error: f64,
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

/// `p = round(x / s)`, or None where x is not finite, or too small or large for the bounds.
///
/// # Safety
/// `width` f32 behind `x`, as many places behind `out`.
struct Quantise {
    x: *const f32,
    width: usize,
    out: *mut i16,
}

impl Kernel for Quantise {
    type Output = Option<Input>;

    #[inline(always)]
    unsafe fn run<L: Lane>(self) -> Option<Input> {
        // SAFETY: the contract; nobody else has `out`.
        let (x, out) = unsafe {
            (
                std::slice::from_raw_parts(self.x, self.width),
                std::slice::from_raw_parts_mut(self.out, self.width),
            )
        };
        // As ints, magnitudes order like floats, and their maximum may be taken in any order.
        let magnitude = x
            .iter()
            .fold(0, |most, value| (value.to_bits() & 0x7fff_ffff).max(most));
        let largest = f32::from_bits(magnitude);
        if !(1e-30..1e30).contains(&largest) {
            return None;
        }
        let inverse = 32767.0 / largest;
        let (mut sum, mut squares) = (0i64, 0i64);
        for (values, places) in x.chunks(EXACT).zip(out.chunks_mut(EXACT)) {
            let (mut part, mut square) = (0i32, 0i64);
            for (&value, place) in values.iter().zip(places) {
                // Adding 1.5 · 2²³ rounds to an int, which is then in the low bits.
                let code = (value * inverse + 12_582_912.0).to_bits() as i16;
                *place = code;
                let code = i32::from(code);
                part += code.abs();
                square += i64::from(code * code);
            }
            sum += i64::from(part);
            squares += square;
        }
        let scale = f64::from(largest) / 32767.0;
        Some(Input {
            scale,
            one_norm: scale * sum as f64,
            norm: scale * (squares as f64).sqrt() * 1.000_001,
            // Half a step, and what rounding in f32 adds to it.
            error: scale * 0.51 * (self.width as f64).sqrt(),
        })
    }
}

/// `out[r] = q[r] · p`, exactly.
///
/// # Safety
/// `padded` ints, a multiple of [`STEP`], behind `x` and behind each row's header; `out` has a place for each row.
struct Products<'a> {
    x: *const i16,
    rows: &'a [*const i8],
    padded: usize,
    out: *mut f64,
}

impl Kernel for Products<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lane>(self) {
        let mut r = 0;
        // SAFETY: rows `r..r + R` exist; the contract is handed on.
        unsafe {
            while r + 4 <= self.rows.len() {
                self.tile::<L, 4>(r);
                r += 4;
            }
            while r < self.rows.len() {
                self.tile::<L, 1>(r);
                r += 1;
            }
        }
    }
}

impl Products<'_> {
    #[inline(always)]
    unsafe fn tile<L: Lane, const R: usize>(&self, r: usize) {
        let mut totals = [0.0; R];
        // SAFETY: elements `at..at + STEP` of x and of rows `r..r + R`.
        unsafe {
            for from in (0..self.padded).step_by(EXACT) {
                let mut sums = [L::no_sums(); R];
                for at in (from..self.padded.min(from + EXACT)).step_by(STEP) {
                    for (j, sums) in sums.iter_mut().enumerate() {
                        let row = self.rows.get_unchecked(r + j).add(HEADER + at);
                        *sums = L::add_int_products(*sums, row, self.x.add(at));
                    }
                }
                for j in 0..R {
                    totals[j] += f64::from(L::total(sums[j]));
                }
            }
            for j in 0..R {
                self.out.add(r + j).write(totals[j]);
            }
        }
    }
}
