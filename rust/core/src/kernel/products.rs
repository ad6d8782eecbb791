//! `y += Σ w_i · s_i · B_i (A_i x)` for a block of tokens, by block products on segments.

use super::dots::Dots;
use super::expand::{Expand, Term};
use super::floats::{with_element, SharedRows};
use super::isa::dispatch;
use super::scratch::{grow, Scratch};
use super::segments::{list, Choice};
use super::site::Site;
use std::marker::PhantomData;

/// Columns of the output that are worked on at once: a multiple of all tile widths (16, 24, 32, 64).
const COLUMNS: usize = 192;
/// Sums that stay in the second-level cache (96 KiB with 128 tokens by 192 columns).
const SUMS: usize = 128 * COLUMNS;

/// Adds the products of a block whose inputs are the rows at `x` to outputs from row `first` on.
///
/// # Safety
/// `x` and `y` are good for the block's rows; nobody else touches those of `y`.
pub(super) unsafe fn add_products(
    site: &Site,
    choice: &Choice,
    x: *const f32,
    y: SharedRows,
    first: usize,
    scratch: &mut Scratch,
) {
    let coefficients = list(site, choice, &mut scratch.pairs, &mut scratch.segments);
    if coefficients == 0 {
        return;
    }
    let (tokens, out) = (choice.slots.len() / choice.stride, site.out_features);
    let columns = out.min((SUMS / tokens / COLUMNS).max(1) * COLUMNS);
    let row = columns.next_multiple_of(8);
    grow(&mut scratch.coefficients, coefficients);
    grow(&mut scratch.sums, tokens * row);
    // SAFETY: the caller's `x`.
    unsafe { shrink(site, x, scratch) };
    let sums = scratch.sums.as_mut_ptr();
    scratch.terms.clear();
    scratch.terms.extend(scratch.pairs.iter().map(|pair| Term {
        sums: sums.wrapping_add(pair.token() * row),
        y: y.element((first + pair.token()) * out),
        first: pair.first,
        last: pair.last,
    }));
    for from in (0..out).step_by(columns) {
        let width = columns.min(out - from);
        for segment in &scratch.segments {
            with_element!(segment.weights.dtype, W => with_element!(y.dtype, Y => {
                let kernel = Expand::<W, Y> {
                    terms: &scratch.terms[segment.pairs.clone()],
                    coefficients: scratch.coefficients[segment.coefficients..].as_ptr(),
                    b: segment.weights.b,
                    stride: out,
                    rank: segment.weights.rank,
                    from,
                    width,
                    elements: PhantomData,
                };
                // SAFETY: `Site::weights` has checked the rows, `shrink` filled the coefficients; a row of sums and
                // one of `y`, which is the caller's alone, for each term.
                unsafe { dispatch(kernel) }
            }));
        }
    }
}

/// `c[r, pair] = w · s · (A[r] · x)` for all segments.
///
/// # Safety
/// `x` is good for the rows of the pairs' tokens.
unsafe fn shrink(site: &Site, x: *const f32, scratch: &mut Scratch) {
    let width = site.in_features;
    for segment in &scratch.segments {
        let pairs = &scratch.pairs[segment.pairs.clone()];
        let (weights, count) = (&segment.weights, pairs.len());
        let (rows, tokens) = (&mut scratch.rows, &mut scratch.tokens);
        rows.clear();
        rows.extend((0..weights.rank).map(|r| weights.a.wrapping_add(r * width * weights.dtype.size())));
        tokens.clear();
        tokens.extend(pairs.iter().map(|pair| x.wrapping_add(pair.token() * width)));
        let products = &mut scratch.coefficients[segment.coefficients..][..weights.rank * count];
        let (out, strides) = (products.as_mut_ptr(), (1, count));
        with_element!(weights.dtype, W => {
            let dots = Dots::<W> { tokens, rows, width, out, strides, element: PhantomData };
            // SAFETY: `Site::weights` has checked the rows; the tokens are the caller's; `products` has the room.
            unsafe { dispatch(dots) }
        });
        for products in products.chunks_exact_mut(count) {
            for (product, pair) in products.iter_mut().zip(pairs) {
                *product *= pair.weight * weights.scaling;
            }
        }
    }
}
