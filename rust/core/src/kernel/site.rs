//! What a kernel is given: a site's buffers, the routes, the options.

use super::screen::screen_stride;
use crate::dtype::DType;
use crate::layout::{TableEntry, PAGE_BYTES_PER_COLUMN};

/// One adapted linear: its gate, its pools and its table.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// Width of the input.
    pub in_features: usize,
    /// Width of the output.
    pub out_features: usize,
    /// Number of slots.
    pub slots: usize,
    /// Gate rows, `[slots, in_features]`.
    pub gate: &'a [f32],
    /// Gate biases, `[slots]`.
    pub gate_bias: &'a [f32],
    /// Screen rows of the gate, `[slots, screen_stride(in_features)]`, up to date for every slot that a route may
    /// name; none: all logits are computed.
    pub screen: Option<&'a [u8]>,
    /// The pool of `lora_A` rows, by pages.
    pub lora_a: &'a [u8],
    /// The pool of `lora_B` columns, each contiguous, by pages.
    pub lora_b_packed: &'a [u8],
    /// What each slot holds, `[slots]`.
    pub table: &'a [TableEntry],
}

/// Which adapters each token may use.
#[derive(Debug, Clone, Copy)]
pub struct Routes<'a> {
    /// The record of each row, `[rows]`; token `t` of `T` belongs to row `t * rows / T`.
    pub row_route: &'a [i32],
    /// Route records, `[records, width]`, as [`crate::layout::route_width`] says.
    pub records: &'a [i32],
    /// Ints in a record.
    pub width: usize,
}

/// How the gates choose.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The most adapters that a gate chooses.
    pub top_k: usize,
    /// Divides the logits before the softmax; above zero.
    pub temperature: f32,
}

/// A slot's weights at a site.
#[derive(Clone, Copy)]
pub(super) struct Weights {
    pub(super) a: *const u8,
    pub(super) b: *const u8,
    pub(super) rank: usize,
    pub(super) dtype: DType,
    pub(super) scaling: f32,
}

impl Site<'_> {
    /// Panics where the buffers' sizes contradict one another.
    pub(super) fn check(&self) {
        assert_eq!(
            self.gate.len(),
            self.slots * self.in_features,
            "gate: [slots, in_features]"
        );
        assert_eq!(self.gate_bias.len(), self.slots, "gate_bias: [slots]");
        assert_eq!(self.table.len(), self.slots, "table: [slots]");
        let screen = self.slots * screen_stride(self.in_features);
        assert!(
            self.screen.is_none_or(|rows| rows.len() == screen),
            "screen: [slots, stride]"
        );
    }

    /// The weights of `slot`; panics where its entry points out of the pools.
    pub(super) fn weights(&self, slot: usize) -> Weights {
        let entry = &self.table[slot];
        assert!(entry.page_start >= 0 && entry.rank >= 0, "slot {slot}: {entry:?}");
        let (page, rank, dtype) = (entry.page_start as usize, entry.rank as usize, entry.dtype());
        let rows = |pool: &[u8], width: usize| {
            let start = page * PAGE_BYTES_PER_COLUMN * width;
            pool[start..start + rank * width * dtype.size()].as_ptr()
        };
        Weights {
            a: rows(self.lora_a, self.in_features),
            b: rows(self.lora_b_packed, self.out_features),
            rank,
            dtype,
            scaling: entry.scaling(),
        }
    }
}

impl<'a> Routes<'a> {
    /// The record number of token `token` of `tokens`.
    pub(super) fn of_token(&self, token: usize, tokens: usize) -> i32 {
        self.row_route[token * self.row_route.len() / tokens]
    }

    /// The kind, the count and the rest of a record.
    pub(super) fn record(&self, number: i32) -> (i32, usize, &'a [i32]) {
        let start = number as usize * self.width;
        let record = &self.records[start..start + self.width];
        (record[0], record[1] as usize, &record[2..])
    }
}
