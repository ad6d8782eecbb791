//! Slots and rank rows as leases: whoever drops the last handle gives them back.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::rows::{Need, Rows};

/// What the pools hold. Its lock is a leaf: nothing else is locked, and no lease dropped, under it.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<PoolState>,
}

/// The slots and rows in use.
#[derive(Debug)]
pub(crate) struct PoolState {
    slots: Vec<bool>,
    pub(crate) rows: Rows,
}

/// Which of the two did not suffice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortage {
    Slots,
    Budget,
    Pages,
}

/// One slot.
#[derive(Debug)]
pub(crate) struct SlotLease {
    pub(crate) index: usize,
    pool: Arc<Pool>,
}

/// One run of pages, and the rank rows charged for it.
#[derive(Debug)]
pub(crate) struct RowsLease {
    pub(crate) run: Range<usize>,
    pub(crate) cost: usize,
    pool: Arc<Pool>,
}

impl Pool {
    pub(crate) fn new(slots: usize, rows: Rows) -> Arc<Pool> {
        Arc::new(Pool {
            state: Mutex::new(PoolState {
                slots: vec![false; slots],
                rows,
            }),
        })
    }

    /// The state. Each change is a few assignments that can't fail halfway, so a poisoned lock is still good.
    pub(crate) fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot and a run that nobody has.
    pub(crate) fn take(self: &Arc<Pool>, need: Need) -> Result<(SlotLease, RowsLease), Shortage> {
        let mut state = self.lock();
        let index = state
            .slots
            .iter()
            .position(|taken| !taken)
            .ok_or(Shortage::Slots)?;
        let run = state.find(need, &(0..0), 0)?;
        state.slots[index] = true;
        state.rows.take(&run, need.rank_rows);
        let slot = SlotLease {
            index,
            pool: Arc::clone(self),
        };
        Ok((
            slot,
            RowsLease {
                run,
                cost: need.rank_rows,
                pool: Arc::clone(self),
            },
        ))
    }

    /// A run that may overlap `own`. It is charged only what it costs beyond `own`: until one of the two is
    /// given up, both stand. Then see [`RowsLease::settle`].
    pub(crate) fn take_over(self: &Arc<Pool>, need: Need, own: &RowsLease) -> Result<RowsLease, Shortage> {
        let mut state = self.lock();
        let run = state.find(need, &own.run, own.cost)?;
        let cost = need.rank_rows.saturating_sub(own.cost);
        state.rows.take(&run, cost);
        Ok(RowsLease {
            run,
            cost,
            pool: Arc::clone(self),
        })
    }
}

impl PoolState {
    pub(crate) fn find(
        &self,
        need: Need,
        own: &Range<usize>,
        own_cost: usize,
    ) -> Result<Range<usize>, Shortage> {
        if need.rank_rows > self.rows.free() + own_cost {
            return Err(Shortage::Budget);
        }
        self.rows.find(need.pages, own).ok_or(Shortage::Pages)
    }

    pub(crate) fn slots_total(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn slots_used(&self) -> usize {
        self.slots.iter().filter(|&&taken| taken).count()
    }
}

impl RowsLease {
    /// Charges `cost` rank rows from now on.
    pub(crate) fn settle(&mut self, cost: usize) {
        let mut state = self.pool.lock();
        state.rows.give(&(0..0), self.cost);
        state.rows.take(&(0..0), cost);
        self.cost = cost;
    }
}

impl Drop for SlotLease {
    fn drop(&mut self) {
        self.pool.lock().slots[self.index] = false;
    }
}

impl Drop for RowsLease {
    fn drop(&mut self) {
        self.pool.lock().rows.give(&self.run, self.cost);
    }
}
