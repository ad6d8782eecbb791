//! What only writers see, behind the registry's lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use super::pins::Pins;
use super::{AdapterId, AdapterRecord, Intent};
use crate::error::Error;
use crate::snapshot::{Entry, Snapshot};

/// Counters, pins, the changes under way and the snapshots that may have readers.
#[derive(Debug)]
pub(crate) struct Writer {
    version: u64,
    generation: u64,
    id: u64,
    pub(crate) pins: Pins,
    pub(crate) pending: BTreeMap<String, Pending>,
    /// The generations that in-place reloads took out of the published snapshot, as they were.
    pub(crate) withdrawn: BTreeMap<Arc<str>, AdapterRecord>,
    /// Who comes back as itself.
    pub(crate) evicted: BTreeMap<String, AdapterId>,
    snapshots: Vec<Weak<Snapshot>>,
}

/// A reservation that is neither published nor dropped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) intent: Intent,
    /// Slots that no live adapter has.
    pub(crate) slots: usize,
    /// Rank rows charged to it, those of the generation it took the place of included.
    pub(crate) rank_rows: usize,
    /// Whether it took the place of a generation that is pinned.
    pub(crate) pinned: bool,
}

impl Writer {
    pub(crate) fn new(first: &Arc<Snapshot>) -> Writer {
        Writer {
            version: first.version(),
            generation: 0,
            id: 0,
            pins: Pins::default(),
            pending: BTreeMap::new(),
            withdrawn: BTreeMap::new(),
            evicted: BTreeMap::new(),
            snapshots: vec![Arc::downgrade(first)],
        }
    }

    pub(crate) fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    pub(crate) fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    pub(crate) fn next_id(&mut self) -> AdapterId {
        self.id += 1;
        AdapterId(self.id)
    }

    /// Remembers a snapshot, and forgets those that are gone.
    pub(crate) fn track(&mut self, snapshot: &Arc<Snapshot>) {
        self.snapshots.retain(|snapshot| snapshot.strong_count() > 0);
        self.snapshots.push(Arc::downgrade(snapshot));
    }

    /// Handles on snapshots, less the registry's own on the published one.
    pub(crate) fn readers(&self) -> usize {
        self.snapshots.iter().map(Weak::strong_count).sum::<usize>() - 1
    }

    pub(crate) fn record(&self, entry: &Entry) -> AdapterRecord {
        AdapterRecord {
            name: entry.name().to_owned(),
            id: entry.id,
            generation: entry.generation,
            weights: entry.rows.ticket,
            slot: entry.slot(),
            page_start: entry.page_start(),
            pages: entry.pages(),
            rank_rows: entry.rows.cost,
            pinned: self.pins.is_set(entry.id),
            kept: self.pins.is_kept(entry.id),
            info: entry.info.clone(),
        }
    }
}

/// The error of a name that a reservation is about to change.
pub(crate) fn busy(name: &str) -> Error {
    Error::AdapterInUse {
        adapter: name.to_owned(),
        reason: "another call is loading or reloading it; wait for that call to end".to_owned(),
    }
}
