//! One call of the op: its tokens split into tasks, each task worked off in blocks.

use super::floats::{Floats, FloatsMut, SharedRows};
use super::parallel::Parallel;
use super::products::add_products;
use super::scratch::{with_scratch, Scratch};
use super::segments::Choice;
use super::select::{Places, Selection, Selector};
use super::site::{Options, Routes, Site};
use super::split::{split, BLOCK};
use crate::layout::ROUTE_FIXED;
use std::marker::PhantomData;
use std::ops::Range;

/// Rank rows of an adapter, for estimates of work before the choice is known.
const TYPICAL_RANK: usize = 8;

/// What the tasks of one call share.
pub(super) struct Call<'a> {
    site: &'a Site<'a>,
    gates: Option<(&'a Routes<'a>, &'a Options)>,
    x: Floats<'a>,
    y: Option<SharedRows>,
    tokens: usize,
    stride: usize,
    /// The selection's rows; written only where `gates` is set.
    slots: *mut i32,
    weights: *mut f32,
    borrowed: PhantomData<&'a mut Selection>,
}

// SAFETY: each task reads and writes the rows of its own tokens; all else is read only.
unsafe impl Sync for Call<'_> {}

impl<'a> Call<'a> {
    /// A call that fills `selection`.
    pub(super) fn choosing(
        site: &'a Site,
        routes: &'a Routes,
        x: Floats<'a>,
        options: &'a Options,
        selection: &'a mut Selection,
    ) -> Call<'a> {
        let tokens = tokens(site, x);
        assert!(
            tokens == 0 || !routes.row_route.is_empty(),
            "no rows in row_route"
        );
        selection.fit(tokens, routes, options.top_k);
        Call {
            site,
            gates: Some((routes, options)),
            x,
            y: None,
            tokens,
            stride: selection.stride,
            slots: selection.slots.as_mut_ptr(),
            weights: selection.weights.as_mut_ptr(),
            borrowed: PhantomData,
        }
    }

    /// A call on what `selection` holds.
    pub(super) fn chosen(site: &'a Site, selection: &'a Selection, x: Floats<'a>) -> Call<'a> {
        let tokens = tokens(site, x);
        let places = tokens * selection.stride;
        assert_eq!(selection.slots.len(), places, "selection: [tokens, stride]");
        assert_eq!(selection.weights.len(), places, "selection: [tokens, stride]");
        Call {
            site,
            gates: None,
            x,
            y: None,
            tokens,
            stride: selection.stride,
            slots: selection.slots.as_ptr().cast_mut(),
            weights: selection.weights.as_ptr().cast_mut(),
            borrowed: PhantomData,
        }
    }

    /// The same, adding the products to `y`.
    pub(super) fn adding_to(mut self, y: FloatsMut<'a>) -> Call<'a> {
        let (rows, len) = SharedRows::of(y);
        assert_eq!(
            len,
            self.tokens * self.site.out_features,
            "y: [tokens, out_features]"
        );
        self.y = Some(rows);
        self
    }

    /// Does it.
    pub(super) fn run(self, pool: &dyn Parallel) {
        if self.tokens > 0 && self.stride > 0 {
            split(self.tokens, |token| self.cost(token), pool, &|range| {
                self.task(range)
            });
        }
    }

    /// An estimate of a token's multiply-adds.
    fn cost(&self, token: usize) -> usize {
        let (from, to) = (self.site.in_features, self.site.out_features);
        let product = if self.y.is_some() {
            TYPICAL_RANK * (from + to)
        } else {
            0
        };
        let Some((routes, options)) = self.gates else {
            // SAFETY: without gates nobody writes the selection.
            let slots = unsafe { self.places(token..token + 1, self.slots) };
            return slots.iter().filter(|&&slot| slot >= 0).count() * product;
        };
        let (kind, count, _) = routes.record(routes.of_token(token, self.tokens));
        if kind == ROUTE_FIXED {
            count * product
        } else {
            count * from + count.min(options.top_k) * product
        }
    }

    /// Works off a range of tokens.
    fn task(&self, range: Range<usize>) {
        with_scratch(|scratch| {
            let mut start = range.start;
            while start < range.end {
                let end = range.end.min(start + BLOCK);
                self.block(start..end, scratch);
                start = end;
            }
        });
    }

    /// Works off one block.
    fn block(&self, block: Range<usize>, scratch: &mut Scratch) {
        let mut room = std::mem::take(&mut scratch.x);
        let x = self.x.widened(block.clone(), self.site.in_features, &mut room);
        if let Some((routes, options)) = self.gates {
            // SAFETY: the block's rows are this task's alone; `x` holds the block's inputs.
            unsafe {
                let mut places = Places {
                    stride: self.stride,
                    slots: self.places_mut(block.clone(), self.slots),
                    weights: self.places_mut(block.clone(), self.weights),
                };
                let selector = Selector {
                    site: self.site,
                    routes,
                    options,
                    tokens: self.tokens,
                };
                selector.block(block.clone(), x, &mut places, scratch);
            }
        }
        if let Some(y) = self.y {
            // SAFETY: as above; nobody writes the selection any more; `y` has been checked against `tokens`.
            unsafe {
                let choice = Choice {
                    stride: self.stride,
                    slots: self.places(block.clone(), self.slots),
                    weights: self.places(block.clone(), self.weights),
                };
                add_products(self.site, &choice, x, y, block.start, scratch);
            }
        }
        scratch.x = room;
    }

    /// The selection's rows of `block`.
    ///
    /// # Safety
    /// Nobody writes them meanwhile.
    unsafe fn places<T>(&self, block: Range<usize>, start: *mut T) -> &[T] {
        // SAFETY: `tokens × stride` elements, borrowed for `'a`; the caller excludes writers.
        unsafe { std::slice::from_raw_parts(start.add(block.start * self.stride), block.len() * self.stride) }
    }

    /// The selection's rows of `block`, to write.
    ///
    /// # Safety
    /// Nobody else uses them meanwhile, and the call has gates.
    #[allow(clippy::mut_from_ref)] // the rows belong to the task, not to the shared call
    unsafe fn places_mut<T>(&self, block: Range<usize>, start: *mut T) -> &mut [T] {
        // SAFETY: as in `places`; the caller excludes others.
        unsafe {
            std::slice::from_raw_parts_mut(start.add(block.start * self.stride), block.len() * self.stride)
        }
    }
}

/// The tokens of `x`; panics where sizes contradict one another.
fn tokens(site: &Site, x: Floats) -> usize {
    site.check();
    assert!(site.in_features > 0, "in_features is zero");
    assert_eq!(x.len() % site.in_features, 0, "x: [tokens, in_features]");
    x.len() / site.in_features
}
