//! The error that says what is needed, what is free, and who has the rest.

use super::space::Shortage;
use super::writer::Writer;
use super::Shared;
use crate::error::Error;
use crate::rows::Need;
use crate::snapshot::Entry;

/// How the generation that a reload replaces counts in a capacity error.
#[derive(Clone, Copy)]
pub(super) enum Old<'a> {
    /// There is none.
    None,
    /// Requests read it.
    Held(&'a Entry),
    /// Its place could be used, and does not suffice.
    Free(&'a Entry),
}

impl Shared {
    pub(super) fn capacity(
        &self,
        writer: &Writer,
        name: &str,
        need: Need,
        shortage: Shortage,
        old: Old<'_>,
    ) -> Error {
        let stats = self.stats(writer);
        let (what, setting, needed, usage) = match shortage {
            Shortage::Slots => ("slots", "max_adapters", 1, stats.slots),
            Shortage::Budget | Shortage::Pages => ("rank rows", "pool_rank", need.rank_rows, stats.rank_rows),
        };
        let units = |old: &Entry| {
            if shortage == Shortage::Slots {
                1
            } else {
                old.rows.cost
            }
        };
        let (own_free, own_held, own_run) = match old {
            Old::None => (0, 0, 0..0),
            Old::Held(old) => (0, units(old), 0..0),
            Old::Free(old) => (units(old), 0, old.rows.run.clone()),
        };
        let free = usage.free + own_free;
        let largest_run = match shortage {
            Shortage::Slots => free,
            // In the adapter's own rows: a page of a smaller element type holds more of them.
            Shortage::Budget | Shortage::Pages => {
                let pages = self.pool.lock().rows.largest_run(&own_run);
                (pages * need.rank_rows / need.pages.max(1)).min(free)
            }
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
