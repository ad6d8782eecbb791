//! What the registry knows of an adapter.

use crate::dtype::DType;

/// An adapter's identity: kept by a reload, new with each load, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterId(pub u64);

/// Where an adapter's gate rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GateKind {
    /// No gate: used by name only, never chosen by `Auto`.
    None,
    /// The zero-shot gate, from the adapter's own weights.
    Arrow,
    /// Tensors that the user brought.
    Tensors,
    /// Fitted with the others, on many texts.
    Fitted,
    /// Computed from a few examples and the others' statistics.
    Examples,
}

impl GateKind {
    /// The name that users see.
    pub const fn name(self) -> &'static str {
        match self {
            GateKind::None => "none",
            GateKind::Arrow => "arrow",
            GateKind::Tensors => "tensors",
            GateKind::Fitted => "fitted",
            GateKind::Examples => "examples",
        }
    }

    /// Whether its rows can be made from the weights again.
    pub const fn follows_from_weights(self) -> bool {
        matches!(self, GateKind::None | GateKind::Arrow)
    }
}

/// What the loader tells of an adapter when it is published.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterInfo {
    /// The largest rank over all sites.
    pub rank: usize,
    /// The weights' element type.
    pub dtype: DType,
    /// Bytes of the weights in the pools.
    pub bytes: u64,
    /// Where the gate rows come from.
    pub gate: GateKind,
    /// Whether `Auto` may choose it; has no effect without a gate.
    pub routable: bool,
    /// How many sites it has weights for.
    pub sites: usize,
    /// Where it was loaded from: a path, a hub id, or `<memory>`.
    pub source: String,
}

impl AdapterInfo {
    /// Whether the gates may choose it.
    pub fn is_routable(&self) -> bool {
        self.routable && self.gate != GateKind::None
    }
}

/// A live adapter, as the registry reports it.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterRecord {
    /// The name.
    pub name: String,
    /// The identity.
    pub id: AdapterId,
    /// Changes with whatever a token's bits depend on, weights or gate; only ever grows, over all adapters,
    /// so that a generation names one state of one adapter.
    pub generation: u64,
    /// Names one state of the weights alone: a change of gates keeps it.
    pub weights: u64,
    /// The slot: its row in gate and table tensors.
    pub slot: usize,
    /// First page of its run.
    pub page_start: usize,
    /// Pages of its run.
    pub pages: usize,
    /// Rank rows of the budget that it costs.
    pub rank_rows: usize,
    /// Whether it is pinned: never evicted, and not unloaded before it is unpinned.
    pub pinned: bool,
    /// Whether a [`Kept`](super::Kept) has it stay, as if it were pinned.
    pub kept: bool,
    /// What the loader told.
    pub info: AdapterInfo,
}

impl AdapterRecord {
    /// Whether it is never evicted now.
    pub fn stays(&self) -> bool {
        self.pinned || self.kept
    }
}
