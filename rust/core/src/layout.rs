//! The memory layout that registry, kernels and torch buffers agree on.
//!
//! A **page** holds [`PAGE_ROWS`] rank rows of 16-bit elements: `PAGE_BYTES_PER_COLUMN * width` bytes, where
//! `width` is the site's input width for `lora_A` and its output width for `lora_B_packed`. A slot owns one run
//! of pages, at the same page numbers in every site and both pools. Rank row `r` of a slot begins at byte
//! `page_start * PAGE_BYTES_PER_COLUMN * width + r * width * dtype.size()`.

use crate::dtype::DType;

/// Rank rows in a page.
pub const PAGE_ROWS: usize = 8;
/// Bytes of a page for each column.
pub const PAGE_BYTES_PER_COLUMN: usize = PAGE_ROWS * 2;
/// Set in [`TableEntry::kind`]: the gate row is sign-free, its logit is `|g·x| + b`.
pub const KIND_ABS: i32 = 1 << 8;

/// Slots after those of the adapters, for the base as a class of its own: one in use, one for its next gate row.
pub const BASE_SLOTS: usize = 2;

/// One slot of one site: a row of the `table [slots, 4]` int32 tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct TableEntry {
    /// First page of the run.
    pub page_start: i32,
    /// Rank at this site; 0: the adapter misses the site and adds nothing.
    pub rank: i32,
    /// Low byte: the [`DType`] code; [`KIND_ABS`].
    pub kind: i32,
    /// The bits of the f32 scaling, `alpha / r` or `alpha / sqrt(r)`.
    pub scaling_bits: i32,
}

impl TableEntry {
    /// An entry for weights of `dtype`.
    pub fn new(page_start: usize, rank: usize, dtype: DType, scaling: f32) -> TableEntry {
        TableEntry {
            page_start: page_start as i32,
            rank: rank as i32,
            kind: dtype as i32,
            scaling_bits: scaling.to_bits() as i32,
        }
    }

    /// The scaling.
    pub fn scaling(&self) -> f32 {
        f32::from_bits(self.scaling_bits as u32)
    }

    /// The weights' element type; entries are only ever made by [`TableEntry::new`].
    pub fn dtype(&self) -> DType {
        DType::from_code((self.kind & 0xff) as u8).unwrap_or(DType::F32)
    }

    /// Whether the gate row is sign-free.
    pub fn sign_free(&self) -> bool {
        self.kind & KIND_ABS != 0
    }
}

/// Pages that `rank` rows of `dtype` take.
pub const fn pages(rank: usize, dtype: DType) -> usize {
    rank.div_ceil(PAGE_ROWS) * dtype.size() / 2
}

/// First int of a route record: a fixed list of (slot, weight).
pub const ROUTE_FIXED: i32 = 0;
/// First int of a route record: the gates choose among the candidate bits.
pub const ROUTE_AUTO: i32 = 1;

/// Ints in a route record for `slots` slots.
///
/// A record is `[kind, count, …]`. Fixed: `count` pairs (slot, bits of the f32 weight), slots ascending;
/// `count = 0` is the base alone. Auto: `ceil(slots / 32)` words of candidate bits (bit `s % 32` of word
/// `s / 32`), `count` of them set.
pub const fn route_width(slots: usize) -> usize {
    2 + 2 * slots
}
