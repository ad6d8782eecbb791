//! Which slots each token uses, and with which weights.

use super::dots::Dots;
use super::element::F32;
use super::isa::dispatch;
use super::scratch::{grow, Scratch};
use super::screen;
use super::site::{Options, Routes, Site};
use crate::layout::ROUTE_FIXED;
use std::marker::PhantomData;
use std::ops::Range;

/// Tokens of one route up to which each screens its candidates.
const SCREENED_TOKENS: usize = 4;

/// The chosen slots and weights of each token; kept by the caller and reused, so that no call allocates.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Places for each token.
    pub stride: usize,
    /// `[tokens, stride]`: slots ascending, then −1.
    pub slots: Vec<i32>,
    /// `[tokens, stride]`: the weights of `slots`.
    pub weights: Vec<f32>,
}

impl Selection {
    /// Makes room for `tokens` tokens on `routes`.
    pub(super) fn fit(&mut self, tokens: usize, routes: &Routes, top_k: usize) {
        let mut stride = top_k;
        let mut last = None;
        for &route in routes.row_route {
            if last != Some(route) {
                let (kind, count, _) = routes.record(route);
                if kind == ROUTE_FIXED {
                    stride = stride.max(count);
                }
                last = Some(route);
            }
        }
        self.stride = stride;
        self.slots.resize(tokens * stride, -1);
        self.weights.resize(tokens * stride, 0.0);
    }
}

/// The rows of a [`Selection`] that one block of tokens fills.
pub(super) struct Places<'a> {
    pub(super) stride: usize,
    pub(super) slots: &'a mut [i32],
    pub(super) weights: &'a mut [f32],
}

/// Gates and routes of one call.
pub(super) struct Selector<'a> {
    pub(super) site: &'a Site<'a>,
    pub(super) routes: &'a Routes<'a>,
    pub(super) options: &'a Options,
    pub(super) tokens: usize,
}

impl Selector<'_> {
    /// Fills the places of `block`, whose inputs are the rows `[block, in_features]` at `x`.
    ///
    /// # Safety
    /// `x` is good for the block's rows.
    pub(super) unsafe fn block(
        &self,
        block: Range<usize>,
        x: *const f32,
        places: &mut Places,
        scratch: &mut Scratch,
    ) {
        places.slots.fill(-1);
        places.weights.fill(0.0);
        let mut order = std::mem::take(&mut scratch.order);
        order.clear();
        order.extend(
            block
                .clone()
                .map(|t| (self.routes.of_token(t, self.tokens), t - block.start)),
        );
        // Tokens of one route share the evaluation of its candidates.
        order.sort_unstable();
        for group in order.chunk_by(|a, b| a.0 == b.0) {
            let (kind, count, rest) = self.routes.record(group[0].0);
            if kind == ROUTE_FIXED {
                for &(_, token) in group {
                    let start = token * places.stride;
                    for (i, pair) in rest.chunks_exact(2).take(count).enumerate() {
                        places.slots[start + i] = pair[0];
                        places.weights[start + i] = f32::from_bits(pair[1] as u32);
                    }
                }
            } else if count > 0 && self.options.top_k > 0 {
                // SAFETY: the group's tokens lie in the block.
                unsafe { self.group(rest, group, x, places, scratch) };
            }
        }
        scratch.order = order;
    }

    /// Gates of one group of tokens whose candidates are the bits of `words`.
    ///
    /// # Safety
    /// `x` is good for the rows of the group's tokens.
    unsafe fn group(
        &self,
        words: &[i32],
        group: &[(i32, usize)],
        x: *const f32,
        places: &mut Places,
        scratch: &mut Scratch,
    ) {
        let (site, top_k) = (self.site, self.options.top_k);
        let mut candidates = std::mem::take(&mut scratch.candidates);
        candidates.clear();
        for (w, &word) in words[..site.slots.div_ceil(32)].iter().enumerate() {
            let mut bits = word as u32;
            while bits != 0 {
                candidates.push(w * 32 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
        match site.screen {
            // Many tokens read the gate's rows once for all; a few are better off without most of them.
            Some(screen) if group.len() <= SCREENED_TOKENS && screen::worth(candidates.len(), top_k) => {
                let mut screened = std::mem::take(&mut scratch.screened);
                for each in group.chunks_exact(1) {
                    let width = site.in_features;
                    // SAFETY: the caller's `x`; `Site::check` has seen a row for every slot.
                    unsafe {
                        let token = x.wrapping_add(each[0].1 * width);
                        screened.screen(screen, width, &candidates, token, top_k);
                        self.choose_among(&screened.kept, each, x, places, scratch);
                    }
                }
                scratch.screened = screened;
            }
            // SAFETY: the contract is handed on.
            _ => unsafe { self.choose_among(&candidates, group, x, places, scratch) },
        }
        scratch.candidates = candidates;
    }

    /// Logits of `candidates` for a group of tokens, and what they choose.
    ///
    /// # Safety
    /// `x` is good for the rows of the group's tokens.
    unsafe fn choose_among(
        &self,
        candidates: &[usize],
        group: &[(i32, usize)],
        x: *const f32,
        places: &mut Places,
        scratch: &mut Scratch,
    ) {
        let Selector { site, options, .. } = *self;
        let Scratch {
            biases,
            masks,
            tokens,
            rows,
            logits,
            ..
        } = scratch;
        let width = site.in_features;
        rows.clear();
        rows.extend(
            candidates
                .iter()
                .map(|&s| site.gate[s * width..][..width].as_ptr().cast::<u8>()),
        );
        tokens.clear();
        tokens.extend(group.iter().map(|&(_, t)| x.wrapping_add(t * width)));
        let count = candidates.len();
        grow(logits, group.len() * count);
        let out = logits.as_mut_ptr();
        // SAFETY: the rows were sliced to `width`; the tokens are the caller's; `logits` has the room.
        unsafe {
            let strides = (count, 1);
            dispatch(Dots::<F32> {
                tokens,
                rows,
                width,
                out,
                strides,
                element: PhantomData,
            })
        };
        biases.clear();
        biases.extend(candidates.iter().map(|&s| site.gate_bias[s]));
        masks.clear();
        let unsigned = |s: usize| {
            if site.table[s].sign_free() {
                0x7fff_ffff
            } else {
                u32::MAX
            }
        };
        masks.extend(candidates.iter().map(|&s| unsigned(s)));
        for (&(_, token), logits) in group.iter().zip(logits.chunks_exact_mut(count.max(1))) {
            for ((logit, mask), bias) in logits.iter_mut().zip(masks.iter()).zip(biases.iter()) {
                let value = f32::from_bits(logit.to_bits() & mask) + bias;
                // Infinity less infinity would make the softmax NaN. (`min` would turn NaN into the largest.)
                *logit = if value > f32::MAX { f32::MAX } else { value };
            }
            let range = token * places.stride..token * places.stride + options.top_k;
            let (slots, weights) = (&mut places.slots[range.clone()], &mut places.weights[range]);
            choose(candidates, logits, options, slots, weights);
        }
    }
}

/// The `top_k` largest logits, as slots ascending, and the softmax over them.
fn choose(candidates: &[usize], logits: &[f32], options: &Options, slots: &mut [i32], weights: &mut [f32]) {
    let k = options.top_k;
    let mut count = 0;
    let mut bar = f32::NEG_INFINITY; // NaN and −inf don't pass it; nor do ties once k are found
    for (&slot, &logit) in candidates.iter().zip(logits) {
        if logit > bar {
            // Descending; equal ones stay in front, so that ties go to the lowest slot.
            let mut at = count.min(k - 1);
            while at > 0 && weights[at - 1] < logit {
                weights[at] = weights[at - 1];
                slots[at] = slots[at - 1];
                at -= 1;
            }
            (weights[at], slots[at]) = (logit, slot as i32);
            count = k.min(count + 1);
            if count == k {
                bar = weights[k - 1];
            }
        }
    }
    if count == 0 {
        return;
    }
    let largest = weights[0];
    for i in 1..count {
        let mut at = i;
        while at > 0 && slots[at - 1] > slots[at] {
            slots.swap(at - 1, at);
            weights.swap(at - 1, at);
            at -= 1;
        }
    }
    let mut sum = 0.0;
    for weight in &mut weights[..count] {
        *weight = ((*weight - largest) / options.temperature).exp();
        sum += *weight;
    }
    for weight in &mut weights[..count] {
        *weight /= sum;
    }
}
