//! A place that is being written: published in one step, or given up without a trace.

use std::sync::Arc;

use super::record::{AdapterInfo, AdapterRecord};
use super::space::{RowsLease, SlotLease};
use super::Shared;
use crate::rows::Need;
use crate::snapshot::Entry;

/// What a reservation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Intent {
    /// An adapter under a name that no live one has.
    Load,
    /// New weights for a live adapter, which keeps its name, id and pin.
    Reload,
    /// The same, if the adapter's generation is this one: nobody has changed it since the caller looked.
    ReloadIf(u64),
}

/// A slot and a run of pages that no reader can see. Dropping it gives them back: nothing has happened.
///
/// One that is [in place](Reservation::in_place) stands on the old generation's own rows. Dropping it brings
/// that generation back, unless [`Reservation::begin`] has told that it is being written over: then the adapter is
/// gone. So write when nothing can fail any more.
#[derive(Debug)]
pub struct Reservation {
    shared: Arc<Shared>,
    name: String,
    need: Need,
    slot: usize,
    page_start: usize,
    begun: bool,
    /// None once it is published.
    claim: Option<Claim>,
}

#[derive(Debug)]
pub(super) struct Claim {
    pub(super) slot: Arc<SlotLease>,
    pub(super) rows: RowsLease,
    /// The generation whose place is taken over.
    pub(super) withdrawn: Option<Entry>,
}

impl Reservation {
    pub(super) fn new(shared: &Arc<Shared>, name: &str, need: Need, claim: Claim) -> Reservation {
        Reservation {
            shared: Arc::clone(shared),
            name: name.to_owned(),
            need,
            slot: claim.slot.index,
            page_start: claim.rows.run.start,
            begun: false,
            claim: Some(claim),
        }
    }

    /// The adapter's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The slot to write.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// First page of the run to write.
    pub fn page_start(&self) -> usize {
        self.page_start
    }

    /// Pages of the run.
    pub fn pages(&self) -> usize {
        self.need.pages
    }

    /// Whether it takes the place of the adapter's old generation, which nobody can see meanwhile.
    pub fn in_place(&self) -> bool {
        self.claim.as_ref().is_some_and(|claim| claim.withdrawn.is_some())
    }

    /// Says that writing begins now.
    pub fn begin(&mut self) {
        self.begun = true;
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn publish(mut self, info: AdapterInfo) -> AdapterRecord {
        let shared = Arc::clone(&self.shared);
        let mut writer = shared.lock();
        let Some(Claim {
            slot,
            mut rows,
            withdrawn,
        }) = self.claim.take()
        else {
            unreachable!("a reservation is consumed by publishing it")
        };
        writer.pending.remove(&self.name);
        writer.withdrawn.remove(self.name.as_str());
        let replaced = shared
            .published
            .load()
            .get(&self.name)
            .map(|entry| (entry.id, entry.slot()));
        let id = match (&withdrawn, replaced) {
            (Some(entry), _) => entry.id,
            (None, Some((id, _))) => id,
            (None, None) => match writer.evicted.remove(&self.name) {
                Some(id) => id,
                None => writer.next_id(),
            },
        };
        if withdrawn.is_some() {
            drop(withdrawn);
            rows.settle(self.need.rank_rows);
        }
        let entry = Arc::new(Entry {
            name: self.name.as_str().into(),
            id,
            generation: writer.next_generation(),
            info,
            slot,
            rows: Arc::new(rows),
        });
        let record = writer.record(&entry);
        shared.change(&mut writer, |next| {
            if let Some((_, slot)) = replaced {
                next.entries[slot] = None;
            }
            next.entries[record.slot] = Some(entry);
        });
        record
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(claim) = self.claim.take() else { return };
        let mut writer = self.shared.lock();
        writer.pending.remove(&self.name);
        let Claim {
            slot,
            rows,
            withdrawn,
        } = claim;
        drop((slot, rows));
        match withdrawn {
            Some(entry) if self.begun => self.shared.forget(&mut writer, entry),
            Some(entry) => self.shared.restore(&mut writer, entry),
            None => {}
        }
    }
}
