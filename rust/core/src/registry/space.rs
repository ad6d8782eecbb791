//! Slots and rank rows as leases: whoever drops the last handle gives them back.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::layout::BASE_SLOTS;
use crate::rows::{Need, Rows};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// What the pools hold. Its lock is a leaf: nothing else is locked, and no lease dropped, under it.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<PoolState>,
    given_back: Condvar,
}

/// The slots and rows in use.
#[derive(Debug)]
pub(crate) struct PoolState {
    slots: Vec<bool>,
    pub(crate) rows: Rows,
    /// Tickets of the leases that somebody holds.
    out: BTreeSet<u64>,
    tickets: u64,
    /// How often something was given back.
    freed: u64,
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
    pub(crate) ticket: u64,
    pool: Arc<Pool>,
}

/// One run of pages, and the rank rows charged for it.
#[derive(Debug)]
pub(crate) struct RowsLease {
    pub(crate) run: Range<usize>,
    pub(crate) cost: usize,
    pub(crate) ticket: u64,
    pool: Arc<Pool>,
}

impl Pool {
    /// Pools with `slots` slots for adapters, and the base's after them.
    pub(crate) fn new(slots: usize, rows: Rows) -> Arc<Pool> {
        Arc::new(Pool {
            state: Mutex::new(PoolState {
                slots: vec![false; slots + BASE_SLOTS],
                rows,
                out: BTreeSet::new(),
                tickets: 0,
                freed: 0,
            }),
            given_back: Condvar::new(),
        })
    }

    /// The state. Each change is a few assignments that can't fail halfway, so a poisoned lock is still good.
    pub(crate) fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot and a run that nobody has.
    pub(crate) fn take(self: &Arc<Pool>, need: Need) -> Result<(SlotLease, RowsLease), Shortage> {
        let mut state = self.lock();
        let index = state.free_slots().next().ok_or(Shortage::Slots)?;
        let run = state.find(need, &(0..0), 0)?;
        let slot = self.slot(&mut state, index);
        let rows = self.rows(&mut state, run, need.rank_rows);
        Ok((slot, rows))
    }

    /// A run that may overlap `own`. It is charged only what it costs beyond `own`: until one of the two is
    /// given up, both stand. Then see [`RowsLease::settle`].
    pub(crate) fn take_over(self: &Arc<Pool>, need: Need, own: &RowsLease) -> Result<RowsLease, Shortage> {
        let mut state = self.lock();
        let run = state.find(need, &own.run, own.cost)?;
        Ok(self.rows(&mut state, run, need.rank_rows.saturating_sub(own.cost)))
    }

    /// `count` slots that nobody has, or how many there are.
    pub(crate) fn take_slots(self: &Arc<Pool>, count: usize) -> Result<Vec<SlotLease>, usize> {
        let mut state = self.lock();
        let free: Vec<usize> = state.free_slots().take(count).collect();
        if free.len() < count {
            return Err(free.len());
        }
        Ok(free
            .into_iter()
            .map(|index| self.slot(&mut state, index))
            .collect())
    }

    /// A slot of the base's that nobody has.
    pub(crate) fn take_base_slot(self: &Arc<Pool>) -> Option<SlotLease> {
        let mut state = self.lock();
        let first = state.slots_total();
        let index = (first..first + BASE_SLOTS).find(|&index| !state.slots[index])?;
        Some(self.slot(&mut state, index))
    }

    fn slot(self: &Arc<Pool>, state: &mut PoolState, index: usize) -> SlotLease {
        state.slots[index] = true;
        SlotLease {
            index,
            ticket: state.issue(),
            pool: Arc::clone(self),
        }
    }

    fn rows(self: &Arc<Pool>, state: &mut PoolState, run: Range<usize>, cost: usize) -> RowsLease {
        state.rows.take(&run, cost);
        RowsLease {
            run,
            cost,
            ticket: state.issue(),
            pool: Arc::clone(self),
        }
    }

    /// How often slots or rows were given back until now.
    pub(crate) fn freed(&self) -> u64 {
        self.lock().freed
    }

    /// Waits until something has been given back since `seen`, or the time is over; returns the count then.
    pub(crate) fn wait_freed(&self, seen: u64, timeout: Duration) -> u64 {
        self.wait_while(timeout, |state| state.freed == seen).freed
    }

    /// Waits until none of the leases with these tickets is held, or the time is over; says whether.
    pub(crate) fn wait_returned(&self, tickets: &[u64], timeout: Duration) -> bool {
        let held = |state: &PoolState| tickets.iter().any(|ticket| state.out.contains(ticket));
        !held(&self.wait_while(timeout, |state| held(state)))
    }

    fn wait_while(
        &self,
        timeout: Duration,
        mut waits: impl FnMut(&PoolState) -> bool,
    ) -> MutexGuard<'_, PoolState> {
        let end = Instant::now().checked_add(timeout);
        let mut state = self.lock();
        while waits(&state) {
            let left = end.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            let waited = self.given_back.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }
}

impl PoolState {
    fn free_slots(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.slots_total()).filter(|&slot| !self.slots[slot])
    }

    fn issue(&mut self) -> u64 {
        self.tickets += 1;
        self.out.insert(self.tickets);
        self.tickets
    }

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
        self.slots.len() - BASE_SLOTS
    }

    pub(crate) fn slots_used(&self) -> usize {
        self.slots_total() - self.free_slots().count()
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
        let mut state = self.pool.lock();
        state.slots[self.index] = false;
        state.out.remove(&self.ticket);
        state.freed += 1;
        self.pool.given_back.notify_all();
    }
}

impl Drop for RowsLease {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.rows.give(&self.run, self.cost);
        state.out.remove(&self.ticket);
        state.freed += 1;
        self.pool.given_back.notify_all();
    }
}
