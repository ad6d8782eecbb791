//! A place that is being written: published in one step, or given up without a trace.

use std::sync::Arc;

use super::record::{AdapterInfo, AdapterRecord};
use super::space::{RowsLease, Shortage, SlotLease};
use super::writer::{busy, Pending, Writer};
use super::Shared;
use crate::error::{Error, Result};
use crate::rows::Need;
use crate::snapshot::Entry;

/// What a reservation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Intent {
    /// An adapter under a name that no live one has.
    Load,
    /// New weights for a live adapter, which keeps its name, id and pin.
    Reload,
}

/// A slot and a run of pages that no reader can see. Dropping it gives them back: nothing has happened.
///
/// One that is [in place](Reservation::in_place) stands on the old generation's own rows. Dropping it brings
/// that generation back, which is right only if nothing was written; so write when nothing can fail any more.
#[derive(Debug)]
pub struct Reservation {
    shared: Arc<Shared>,
    name: String,
    need: Need,
    slot: usize,
    page_start: usize,
    /// None once it is published.
    claim: Option<Claim>,
}

#[derive(Debug)]
struct Claim {
    slot: Arc<SlotLease>,
    rows: RowsLease,
    /// The generation whose place is taken over.
    withdrawn: Option<Entry>,
}

impl Reservation {
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
        let replaced = shared
            .published
            .load()
            .get(&self.name)
            .map(|entry| (entry.id, entry.slot()));
        let id = match (&withdrawn, replaced) {
            (Some(entry), _) => entry.id,
            (None, Some((id, _))) => id,
            (None, None) => writer.next_id(),
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
        shared.change(&mut writer, |entries| {
            if let Some((_, slot)) = replaced {
                entries[slot] = None;
            }
            entries[record.slot] = Some(entry);
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
        if let Some(entry) = withdrawn {
            self.shared.restore(&mut writer, entry);
        }
    }
}

pub(super) fn reserve(shared: &Arc<Shared>, name: &str, need: Need, intent: Intent) -> Result<Reservation> {
    let mut writer = shared.lock();
    if writer.pending.contains_key(name) {
        return Err(busy(name));
    }
    let live = shared.published.load().find(name).cloned();
    let claim = match (intent, live) {
        (Intent::Load, Ok(_)) => {
            let reason = "a live adapter has this name; use reload_adapter to replace it".to_owned();
            return Err(Error::AdapterInUse {
                adapter: name.to_owned(),
                reason,
            });
        }
        (Intent::Reload, Err(unknown)) => return Err(unknown),
        (Intent::Load, Err(_)) => match shared.pool.take(need) {
            Ok((slot, rows)) => Claim {
                slot: Arc::new(slot),
                rows,
                withdrawn: None,
            },
            Err(shortage) => return Err(shared.capacity(&writer, name, need, shortage, Old::None)),
        },
        (Intent::Reload, Ok(old)) => match shared.pool.take(need) {
            Ok((slot, rows)) => Claim {
                slot: Arc::new(slot),
                rows,
                withdrawn: None,
            },
            Err(shortage) => shared.take_over(&mut writer, need, shortage, old)?,
        },
    };
    let pinned = claim
        .withdrawn
        .as_ref()
        .is_some_and(|old| writer.pinned.contains(&old.id));
    let taken_over = claim.withdrawn.as_ref().map_or(0, |old| old.rows.cost);
    let pending = Pending {
        intent,
        rank_rows: claim.rows.cost + taken_over,
        pinned,
    };
    writer.pending.insert(name.to_owned(), pending);
    Ok(Reservation {
        shared: Arc::clone(shared),
        name: name.to_owned(),
        need,
        slot: claim.slot.index,
        page_start: claim.rows.run.start,
        claim: Some(claim),
    })
}

/// How the generation that a reload replaces counts in a capacity error.
#[derive(Clone, Copy)]
enum Old {
    /// There is none.
    None,
    /// Requests read it.
    Held { rank_rows: usize },
    /// Its place could be used, and is too small.
    Free { rank_rows: usize },
}

impl Shared {
    /// Takes the published generation `old` out of everybody's sight and lets the new one have its place.
    fn take_over(
        &self,
        writer: &mut Writer,
        need: Need,
        shortage: Shortage,
        old: Arc<Entry>,
    ) -> Result<Claim> {
        let name = Arc::clone(&old.name);
        let rank_rows = old.rows.cost;
        let fits = self.pool.lock().find(need, &old.rows.run, rank_rows).map(|_| ());
        if let Err(shortage) = fits {
            return Err(self.capacity(writer, &name, need, shortage, Old::Free { rank_rows }));
        }
        if self.is_read(&old) {
            return Err(self.capacity(writer, &name, need, shortage, Old::Held { rank_rows }));
        }
        self.change(writer, |entries| entries[old.slot()] = None);
        // A reader may have come between the look above and the change. After it none can: if nobody else has
        // the generation now, nobody will.
        let old = match unshared(old) {
            Ok(old) => old,
            Err(old) => {
                self.change(writer, |entries| entries[old.slot()] = Some(Arc::clone(&old)));
                return Err(self.capacity(writer, &name, need, shortage, Old::Held { rank_rows }));
            }
        };
        match self.pool.take_over(need, &old.rows) {
            Ok(rows) => Ok(Claim {
                slot: Arc::clone(&old.slot),
                rows,
                withdrawn: Some(old),
            }),
            Err(shortage) => {
                self.restore(writer, old);
                Err(self.capacity(writer, &name, need, shortage, Old::Free { rank_rows }))
            }
        }
    }

    /// Publishes a generation that was withdrawn.
    fn restore(&self, writer: &mut Writer, old: Entry) {
        self.change(writer, |entries| {
            let slot = old.slot();
            entries[slot] = Some(Arc::new(old));
        });
    }

    /// Whether anything but the published snapshot, held by nobody, and `old` itself leads to its place.
    fn is_read(&self, old: &Arc<Entry>) -> bool {
        let current = self.published.load();
        Arc::strong_count(&current) > 2
            || Arc::strong_count(old) > 2
            || Arc::strong_count(&old.slot) > 1
            || Arc::strong_count(&old.rows) > 1
    }

    fn capacity(&self, writer: &Writer, name: &str, need: Need, shortage: Shortage, old: Old) -> Error {
        let stats = self.stats(writer);
        let (what, setting, needed, usage) = match shortage {
            Shortage::Slots => ("slots", "max_adapters", 1, stats.slots),
            Shortage::Budget | Shortage::Pages => ("rank rows", "pool_rank", need.rank_rows, stats.rank_rows),
        };
        let of_old = |rank_rows| if shortage == Shortage::Slots { 1 } else { rank_rows };
        let (own_free, own_held) = match old {
            Old::None => (0, 0),
            Old::Held { rank_rows } => (0, of_old(rank_rows)),
            Old::Free { rank_rows } => (of_old(rank_rows), 0),
        };
        let free = usage.free + own_free;
        let largest_run = match shortage {
            Shortage::Slots => free,
            // In the adapter's own rows: a page of a smaller element type holds more of them.
            _ => (stats.largest_run_pages * need.rank_rows / need.pages.max(1)).min(free),
        };
        Error::Capacity {
            adapter: name.to_owned(),
            what,
            needed,
            free,
            largest_run,
            total: usage.total,
            pinned: usage.pinned,
            held: usage.held + own_held,
            setting,
        }
    }
}

/// The entry, if nobody else has it or its slot and rows.
fn unshared(entry: Arc<Entry>) -> std::result::Result<Entry, Arc<Entry>> {
    let mut entry = Arc::try_unwrap(entry)?;
    if Arc::get_mut(&mut entry.slot).is_some() && Arc::get_mut(&mut entry.rows).is_some() {
        Ok(entry)
    } else {
        Err(Arc::new(entry))
    }
}
