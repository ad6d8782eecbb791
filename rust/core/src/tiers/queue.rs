//! Requests that wait for room, in the order in which they came.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The queue: the first of it alone may evict, so what it has brought in nobody takes from it before it has a plan, and
/// nothing that an earlier request needs goes for a later one.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    turn: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    tickets: VecDeque<u64>,
    next: u64,
}

/// A place in the queue, given up when it is dropped.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
    queue: Arc<Queue>,
}

impl Queue {
    /// The last place.
    pub fn join(self: &Arc<Queue>) -> Ticket {
        let mut waiting = self.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.tickets.push_back(number);
        Ticket {
            number,
            queue: Arc::clone(self),
        }
    }

    /// How many there are, the first included.
    pub fn len(&self) -> usize {
        self.lock().tickets.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Waits until this is the first place, or the time is over; whether it is.
    pub fn wait(&self, timeout: Duration) -> bool {
        let first = |waiting: &Waiting| waiting.tickets.front() == Some(&self.number);
        let waited = self
            .queue
            .turn
            .wait_timeout_while(self.queue.lock(), timeout, |waiting| !first(waiting));
        first(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queue.lock().tickets.retain(|&number| number != self.number);
        self.queue.turn.notify_all();
    }
}
