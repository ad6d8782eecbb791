//! Each thread's working memory, reused by every call.

use super::expand::Term;
use std::cell::Cell;

/// One chosen (token, slot) of a block.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    pub(super) slot: usize,
    pub(super) token: usize,
    pub(super) weight: f32,
    /// Whether it is its token's lowest slot.
    pub(super) first: bool,
}

/// Buffers that only ever grow.
#[derive(Default)]
pub(super) struct Scratch {
    /// Inputs widened to f32.
    pub(super) x: Vec<f32>,
    /// (route, token) of a block.
    pub(super) order: Vec<(i32, usize)>,
    pub(super) candidates: Vec<usize>,
    pub(super) logits: Vec<f32>,
    /// Row pointers of the tokens and of the weights of one product.
    pub(super) tokens: Vec<*const f32>,
    pub(super) rows: Vec<*const u8>,
    pub(super) pairs: Vec<Pair>,
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
