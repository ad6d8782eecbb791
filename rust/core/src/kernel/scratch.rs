//! Each thread's working memory, reused by every call.

use super::expand::Term;
use super::screen::Screened;
use super::segments::{Pair, Segment};
use std::cell::Cell;

/// Buffers that only ever grow.
#[derive(Default)]
pub(super) struct Scratch {
    /// Inputs widened to f32.
    pub(super) x: Vec<f32>,
    /// (route, token) of a block.
    pub(super) order: Vec<(i32, usize)>,
    /// Slots of one group's candidates, their biases, and the bits of their products that count.
    pub(super) candidates: Vec<usize>,
    pub(super) screened: Screened,
    pub(super) biases: Vec<f32>,
    pub(super) masks: Vec<u32>,
    pub(super) logits: Vec<f32>,
    /// Row pointers of the tokens and of the weights of one product.
    pub(super) tokens: Vec<*const f32>,
    pub(super) rows: Vec<*const u8>,
    pub(super) pairs: Vec<Pair>,
    pub(super) segments: Vec<Segment>,
    pub(super) coefficients: Vec<f32>,
    pub(super) terms: Vec<Term>,
    /// Sums of a block's tokens, before they are added to the outputs.
    pub(super) sums: Vec<f32>,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Calls `f` with this thread's scratch.
pub(super) fn with_scratch(f: impl FnOnce(&mut Scratch)) {
    let mut scratch = SCRATCH.take().unwrap_or_default();
    f(&mut scratch);
    SCRATCH.set(Some(scratch));
}

/// Makes room for `count` elements.
pub(super) fn grow(values: &mut Vec<f32>, count: usize) {
    if values.len() < count {
        values.resize(count, 0.0);
    }
}
