//! A block's chosen (token, slot) pairs, sorted into segments of one slot each.

use super::site::{Site, Weights};
use std::ops::Range;

/// A block's chosen slots and weights, `[tokens, stride]`.
pub(super) struct Choice<'a> {
    pub(super) stride: usize,
    pub(super) slots: &'a [i32],
    pub(super) weights: &'a [f32],
}

/// One chosen (token, slot) of a block.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    /// The slot in the high half, the token in the low one.
    key: u64,
    pub(super) weight: f32,
    /// Whether it is its token's lowest slot, and whether it is its highest.
    pub(super) first: bool,
    pub(super) last: bool,
}

impl Pair {
    fn slot(&self) -> usize {
        (self.key >> 32) as usize
    }

    /// The token, counted from the block's first.
    pub(super) fn token(&self) -> usize {
        self.key as u32 as usize
    }
}

/// The pairs of one slot.
pub(super) struct Segment {
    pub(super) pairs: Range<usize>,
    pub(super) weights: Weights,
    /// Where its coefficients `[rank, pairs]` begin.
    pub(super) coefficients: usize,
}

/// Lists the pairs that add something, by slot and token, and their segments; returns the number of coefficients.
pub(super) fn list(
    site: &Site,
    choice: &Choice,
    pairs: &mut Vec<Pair>,
    segments: &mut Vec<Segment>,
) -> usize {
    pairs.clear();
    segments.clear();
    let slots = choice.slots.chunks_exact(choice.stride);
    for (token, (slots, weights)) in slots.zip(choice.weights.chunks_exact(choice.stride)).enumerate() {
        let start = pairs.len();
        for (&slot, &weight) in slots.iter().zip(weights) {
            // A zero weight is left out: zero times an infinity in the adapter would be NaN.
            if slot >= 0 && weight != 0.0 && site.table[slot as usize].rank > 0 {
                let key = (slot as u64) << 32 | token as u64;
                let first = pairs.len() == start;
                pairs.push(Pair {
                    key,
                    weight,
                    first,
                    last: false,
                });
            }
        }
        if let Some(last) = pairs[start..].last_mut() {
            last.last = true;
        }
    }
    pairs.sort_unstable_by_key(|pair| pair.key);
    let (mut start, mut coefficients) = (0, 0);
    for segment in pairs.chunk_by(|a, b| a.slot() == b.slot()) {
        let weights = site.weights(segment[0].slot());
        let pairs = start..start + segment.len();
        start = pairs.end;
        segments.push(Segment {
            pairs,
            weights,
            coefficients,
        });
        coefficients += segment.len() * weights.rank;
    }
    coefficients
}
