//! `y += Σ w_i · s_i · B_i (A_i x)` for a block of tokens: pairs sorted by slot, block products on the segments.

use super::dots::Dots;
use super::expand::{AddSums, Expand, Term};
use super::floats::{with_element, SharedRows};
use super::isa::dispatch;
use super::scratch::{Pair, Scratch};
use super::site::{Site, Weights};
use std::marker::PhantomData;

/// Columns of the output that are worked on at once: a multiple of all tile widths (24, 32, 48, 64).
const COLUMNS: usize = 192;
/// Sums of a block that stay in the first-level cache (48 KiB with 64 tokens by 192 columns).
const SUMS: usize = 64 * COLUMNS;

/// A block's chosen slots and weights, `[tokens, stride]`.
pub(super) struct Choice<'a> {
    pub(super) stride: usize,
    pub(super) slots: &'a [i32],
    pub(super) weights: &'a [f32],
}

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
    list_pairs(site, choice, &mut scratch.pairs);
    if scratch.pairs.is_empty() {
        return;
    }
    let (tokens, out) = (choice.slots.len() / choice.stride, site.out_features);
    let columns = out.min((SUMS / tokens / COLUMNS).max(1) * COLUMNS);
    let row = columns.next_multiple_of(8);
    if scratch.sums.len() < tokens * row {
        scratch.sums.resize(tokens * row, 0.0);
    }
    // SAFETY: the caller's `x`.
    unsafe { shrink(site, x, scratch) };
    let Scratch {
        pairs,
        coefficients,
        terms,
        sums,
        ..
    } = scratch;
    let sums = sums.as_mut_ptr();
    terms.clear();
    let mut at = 0;
    for pair in pairs.iter() {
        terms.push(Term {
            coefficients: coefficients[at..].as_ptr(),
            sums: sums.wrapping_add(pair.token * row),
            first: pair.first,
        });
        at += site.table[pair.slot].rank as usize;
    }
    let mut from = 0;
    while from < out {
        let width = columns.min(out - from);
        let mut at = 0;
        for segment in pairs.chunk_by(|a, b| a.slot == b.slot) {
            let terms = &terms[at..at + segment.len()];
            // SAFETY: the terms' pointers hold a rank of coefficients and a row of sums.
            unsafe { expand(&site.weights(segment[0].slot), terms, from, width, out) };
            at += segment.len();
        }
        for pair in pairs.iter().filter(|pair| pair.first) {
            with_element!(y.dtype, Y => {
                let add = AddSums::<Y> {
                    sums: sums.wrapping_add(pair.token * row),
                    y: y.element((first + pair.token) * out + from),
                    width,
                    element: PhantomData,
                };
                // SAFETY: a row of sums; `width` outputs of a row that is the caller's alone.
                unsafe { dispatch(add) }
            });
        }
        from += width;
    }
}

/// The pairs that add something, by slot and token.
fn list_pairs(site: &Site, choice: &Choice, pairs: &mut Vec<Pair>) {
    pairs.clear();
    if choice.stride == 0 {
        return;
    }
    let rows = choice
        .slots
        .chunks_exact(choice.stride)
        .zip(choice.weights.chunks_exact(choice.stride));
    for (token, (slots, weights)) in rows.enumerate() {
        let mut first = true;
        for (&slot, &weight) in slots.iter().zip(weights) {
            // A zero weight is left out: zero times an infinity in the adapter would be NaN.
            if slot >= 0 && weight != 0.0 && site.table[slot as usize].rank > 0 {
                pairs.push(Pair {
                    slot: slot as usize,
                    token,
                    weight,
                    first,
                });
                first = false;
            }
        }
    }
    pairs.sort_unstable_by_key(|pair| (pair.slot, pair.token));
}

/// `c[pair, r] = w · s · (A[r] · x)` for all pairs.
///
/// # Safety
/// `x` is good for the rows of the pairs' tokens.
unsafe fn shrink(site: &Site, x: *const f32, scratch: &mut Scratch) {
    let Scratch {
        pairs,
        tokens,
        rows,
        coefficients,
        ..
    } = scratch;
    let width = site.in_features;
    let total = pairs.iter().map(|pair| site.table[pair.slot].rank as usize).sum();
    if coefficients.len() < total {
        coefficients.resize(total, 0.0);
    }
    let mut rest = &mut coefficients[..];
    for segment in pairs.chunk_by(|a, b| a.slot == b.slot) {
        let Weights {
            a,
            rank,
            dtype,
            scaling,
            ..
        } = site.weights(segment[0].slot);
        rows.clear();
        rows.extend((0..rank).map(|r| a.wrapping_add(r * width * dtype.size())));
        tokens.clear();
        tokens.extend(segment.iter().map(|pair| x.wrapping_add(pair.token * width)));
        let (products, others) = std::mem::take(&mut rest).split_at_mut(segment.len() * rank);
        rest = others;
        with_element!(dtype, W => {
            let out = products.as_mut_ptr();
            // SAFETY: `weights` has checked the rows; the tokens are the caller's; `products` has the room.
            unsafe { dispatch(Dots::<W> { tokens, rows, width, out, element: PhantomData }) }
        });
        for (pair, products) in segment.iter().zip(products.chunks_exact_mut(rank)) {
            let factor = pair.weight * scaling;
            products.iter_mut().for_each(|product| *product *= factor);
        }
    }
}

/// Adds columns `from..from + width` of one slot's rows to its terms.
///
/// # Safety
/// The terms' pointers hold a rank of coefficients and `width` rounded up to eight sums.
unsafe fn expand(weights: &Weights, terms: &[Term], from: usize, width: usize, out: usize) {
    with_element!(weights.dtype, W => {
        let kernel = Expand::<W> {
            terms,
            b: weights.b.wrapping_add(from * weights.dtype.size()),
            stride: out,
            rank: weights.rank,
            width,
            element: PhantomData,
        };
        // SAFETY: `Site::weights` has checked the rows; the terms are the caller's.
        unsafe { dispatch(kernel) }
    });
}
