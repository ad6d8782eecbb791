//! A gate row as int8, a token's input as int16, and their products.

use super::isa::Kernel;
use super::lane::{Lane, LANES, STEP};

/// Elements whose products are summed in int32: 2048 · 127 · 32767 over eight lanes stays below 2³¹.
const EXACT: usize = 2048;

/// Added to a small float, it leaves the nearest int in the low bits.
const TO_INT: f32 = 12_582_912.0; // 1.5 · 2²³

/// The largest magnitude; NaN if one is.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    // As ints, magnitudes order like floats, and their maximum may be taken in any order.
    let magnitude = |value: &f32| value.to_bits() & 0x7fff_ffff;
    f32::from_bits(values.iter().map(magnitude).fold(0, u32::max))
}

/// `q = round(row / scale)` into `out`, which has no fewer places, and multiples of eight.
pub(super) struct Codes<'a> {
    pub(super) row: &'a [f32],
    pub(super) out: &'a mut [u8],
}

/// What a row's codes are worth.
pub(super) struct Coded {
    /// Whether all of the row is; else nothing else is of use.
    pub(super) finite: bool,
    pub(super) scale: f32,
    /// ‖e‖₂, ‖e‖∞ and ‖row‖₂, `e` what is missing of the row.
    pub(super) error: f64,
    pub(super) largest_error: f64,
    pub(super) norm: f64,
}

impl Kernel for Codes<'_> {
    type Output = Coded;

    #[inline(always)]
    unsafe fn run<L: Lane>(self) -> Coded {
        let largest = largest(self.row);
        let mut loss = Loss {
            scale: largest / 127.0,
            errors: [0.0; LANES],
            largest: [0.0; LANES],
            squares: [0.0; LANES],
        };
        let eights = self.row.chunks_exact(LANES);
        let mut rest = [0.0; LANES];
        rest[..eights.remainder().len()].copy_from_slice(eights.remainder());
        let (whole, last) = self.out.split_at_mut(self.row.len() / LANES * LANES);
        for (values, codes) in eights.zip(whole.chunks_exact_mut(LANES)) {
            loss.code(values, codes);
        }
        if let Some(codes) = last.first_chunk_mut::<LANES>() {
            loss.code(&rest, codes);
        }
        Coded {
            finite: largest.is_finite(),
            scale: loss.scale,
            error: loss.errors.iter().sum::<f64>().sqrt(),
            largest_error: loss.largest.into_iter().fold(0.0, f64::max),
            norm: loss.squares.iter().sum::<f64>().sqrt(),
        }
    }
}

/// What codes lose, summed in lanes.
struct Loss {
    scale: f32,
    errors: [f64; LANES],
    largest: [f64; LANES],
    squares: [f64; LANES],
}

impl Loss {
    /// The codes of eight values.
    #[inline(always)]
    fn code(&mut self, values: &[f32], codes: &mut [u8]) {
        for i in 0..LANES {
            // Of a scale so small that it is 0, all codes are 0.
            let quotient = if self.scale > 0.0 {
                values[i] / self.scale
            } else {
                0.0
            };
            let shifted = quotient.clamp(-127.0, 127.0) + TO_INT;
            codes[i] = shifted.to_bits() as u8;
            let value = f64::from(values[i]);
            let error = (value - f64::from(self.scale) * f64::from(shifted - TO_INT)).abs();
            self.errors[i] += error * error;
            self.largest[i] = self.largest[i].max(error);
            self.squares[i] += value * value;
        }
    }
}

/// What an input's ints are worth.
pub(super) struct Input {
    pub(super) scale: f64,
    /// ‖s·p‖₁, ‖s·p‖₂ and ‖d‖₂, rounded up.
    pub(super) one_norm: f64,
    pub(super) norm: f64,
    pub(super) error: f64,
}

/// `p = round(x / s)`, or None where x is not finite, or too small or large for the bounds.
///
/// # Safety
/// `width` f32 behind `x`, as many places behind `out`.
pub(super) struct Quantise {
    pub(super) x: *const f32,
    pub(super) width: usize,
    pub(super) out: *mut i16,
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
        let largest = largest(x);
        if !(1e-30..1e30).contains(&largest) {
            return None;
        }
        let inverse = 32767.0 / largest;
        let (mut sum, mut squares) = (0i64, 0i64);
        for (values, places) in x.chunks(EXACT).zip(out.chunks_mut(EXACT)) {
            let (mut part, mut square) = (0i32, 0i64);
            for (&value, place) in values.iter().zip(places) {
                let code = (value * inverse + TO_INT).to_bits() as i16;
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
/// `padded` ints, a multiple of [`STEP`], behind `x` and at each row; `out` has a place for each row.
pub(super) struct Products<'a> {
    pub(super) x: *const i16,
    pub(super) rows: &'a [*const i8],
    pub(super) padded: usize,
    pub(super) out: *mut f64,
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
                        let row = self.rows.get_unchecked(r + j).add(at);
                        *sums = L::add_int_products(*sums, row, self.x.add(at));
                    }
                }
                for (total, sums) in totals.iter_mut().zip(sums) {
                    *total += f64::from(L::total(sums));
                }
            }
            self.out.add(r).cast::<[f64; R]>().write(totals);
        }
    }
}
