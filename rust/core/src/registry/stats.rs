//! Who holds the slots and the rank rows.

use super::writer::Writer;
use super::Shared;

/// Where the units of one resource are: `total = live + pending + held + free`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// All there are.
    pub total: usize,
    /// Those of live adapters.
    pub live: usize,
    /// Those of adapters that are being loaded or reloaded.
    pub pending: usize,
    /// Those of adapters that are gone but for running requests; free when these end.
    pub held: usize,
    /// Those that nobody has.
    pub free: usize,
    /// Those of pinned adapters, counted among the live or pending ones.
    pub pinned: usize,
}

/// The registry's accounts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryStats {
    /// The published snapshot's version.
    pub version: u64,
    /// Requests that hold adapters, and handles on snapshots outside the registry.
    pub readers: usize,
    /// Slots, without the base's.
    pub slots: Usage,
    /// Rank rows of the budget.
    pub rank_rows: Usage,
    /// Pages in all.
    pub pages: usize,
    /// Pages that nobody has.
    pub free_pages: usize,
    /// The largest run of free pages.
    pub largest_run_pages: usize,
    /// Pages that were ever taken, and so are the process' memory.
    pub touched_pages: usize,
}

impl Shared {
    pub(super) fn stats(&self, writer: &Writer) -> RegistryStats {
        let readers = self.readers(writer);
        let snapshot = self.published.load();
        let (mut slots, mut rows) = (Usage::default(), Usage::default());
        for entry in snapshot.entries() {
            slots.live += 1;
            rows.live += entry.rows.cost;
            if writer.pins.has(entry.id) {
                slots.pinned += 1;
                rows.pinned += entry.rows.cost;
            }
        }
        for pending in writer.pending.values() {
            slots.pending += pending.slots;
            rows.pending += pending.rank_rows;
            if pending.pinned {
                slots.pinned += 1;
                rows.pinned += pending.rank_rows;
            }
        }
        let pool = self.pool.lock();
        slots.total = pool.slots_total();
        slots.free = slots.total - pool.slots_used();
        slots.held = pool.slots_used() - slots.live - slots.pending;
        rows.total = pool.rows.total();
        rows.free = pool.rows.free();
        rows.held = pool.rows.used() - rows.live - rows.pending;
        RegistryStats {
            version: snapshot.version(),
            readers,
            slots,
            rank_rows: rows,
            pages: pool.rows.total_pages(),
            free_pages: pool.rows.free_pages(),
            largest_run_pages: pool.rows.largest_run(&(0..0)),
            touched_pages: pool.rows.touched_pages(),
        }
    }
}
