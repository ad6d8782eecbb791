//! What becomes of an unloaded adapter's memory.

use std::sync::Arc;
use std::time::Duration;

use super::space::Pool;
use crate::held::Held;
use crate::snapshot::Entry;

/// An adapter that has been unloaded: its slot and rows come back when the last reader is gone.
#[derive(Debug)]
pub struct Retired {
    pool: Arc<Pool>,
    tickets: [u64; 2],
}

impl Retired {
    pub(super) fn new(pool: &Arc<Pool>, entry: &Entry) -> Retired {
        Retired {
            pool: Arc::clone(pool),
            tickets: [entry.slot.ticket, entry.rows.ticket],
        }
    }

    /// Waits until slot and rows are back, or the time is over; says whether they are.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.pool.wait_returned(&self.tickets, timeout)
    }

    /// Whether a request holds the slot or the rows.
    pub fn is_held_by(&self, held: &Held) -> bool {
        held.entries().iter().any(|entry| {
            [entry.slot.ticket, entry.rows.ticket]
                .iter()
                .any(|ticket| self.tickets.contains(ticket))
        })
    }
}
