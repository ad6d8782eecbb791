//! The CPU kernels: gate, select, shrink, expand.
//!
//! ```text
//! g = gate · x + gate_bias                   logits of the route's candidates
//! S = the top_k of g, ties: lowest slot      NaN and −inf never; +inf counts as f32::MAX
//! w = softmax(g[S] / temperature)            fixed routes bring S and w themselves
//! y = round(y + Σ_{i in S} Σ_r w_i s_i (A_i[r] · x) B_i[r, :])
//! ```
//! All sums are f32. A dot product is one accumulator of eight lanes reduced by one tree; the sum over slots and
//! rank rows is one chain, ascending. So a token's bits depend on its input and its route alone.

mod arrow;
mod call;
mod dots;
mod element;
mod expand;
mod floats;
mod ints;
mod isa;
mod lane;
mod parallel;
mod products;
mod scratch;
mod screen;
mod segments;
mod select;
mod site;
mod split;

pub use arrow::arrow_row;
pub use floats::{Floats, FloatsMut};
#[doc(hidden)]
pub use isa::force_portable;
pub use isa::{has_bf16_products, isa};
pub use parallel::{Parallel, Scoped, Serial};
pub use screen::{screen_stride, write_screen};
pub use select::Selection;
pub use site::{Options, Routes, Site};

use call::Call;

/// Chooses slots and weights for each token of `x`, `[tokens, in_features]`.
///
/// # Panics
/// Where sizes contradict one another.
pub fn select(
    site: &Site,
    routes: &Routes,
    x: Floats,
    options: &Options,
    pool: &dyn Parallel,
    selection: &mut Selection,
) {
    Call::choosing(site, routes, x, options, selection).run(pool);
}

/// Adds the products of what `selection` holds to `y`, `[tokens, out_features]`.
///
/// # Panics
/// Where sizes contradict one another, `selection` names a slot that doesn't exist, or a table entry points out
/// of the pools.
pub fn apply(site: &Site, selection: &Selection, x: Floats, y: FloatsMut, pool: &dyn Parallel) {
    Call::chosen(site, selection, x).adding_to(y).run(pool);
}

/// [`select`] and [`apply`] in one parallel region; none where the work is too little for it.
///
/// # Panics
/// As `select` and `apply`.
pub fn gated_lora(
    site: &Site,
    routes: &Routes,
    x: Floats,
    y: FloatsMut,
    options: &Options,
    pool: &dyn Parallel,
    selection: &mut Selection,
) {
    Call::choosing(site, routes, x, options, selection)
        .adding_to(y)
        .run(pool);
}
