//! What a request keeps in place.

use std::sync::Arc;

use crate::registry::SlotLease;
use crate::snapshot::{Entry, Snapshot};
use crate::sync::{AtomicUsize, Ordering};

/// The adapters of a snapshot that a request can reach: theirs, and no others', are not rewritten while this is held.
///
/// So what a request can't use may be evicted or replaced while it runs.
#[derive(Debug)]
pub struct Held {
    entries: Vec<Arc<Entry>>,
    /// The slot of the base's gate row, if it can reach that.
    base: Option<Arc<SlotLease>>,
    readers: Readers,
}

/// How many requests there are, of whatever reach. A clone is a handle on the same count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readers(Arc<AtomicUsize>);

impl Readers {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

impl Held {
    /// The adapters in those slots of `snapshot` whose bits are set in `words`, bit `s % 32` of word `s / 32`.
    pub(crate) fn new(snapshot: &Snapshot, words: &[u32]) -> Held {
        let reached = |slot: usize| words[slot / 32] >> (slot % 32) & 1 == 1;
        let readers = snapshot.readers().clone();
        readers.0.fetch_add(1, Ordering::Relaxed);
        Held {
            entries: snapshot
                .entries()
                .filter(|entry| reached(entry.slot()))
                .cloned()
                .collect(),
            base: snapshot.base().filter(|base| reached(base.index)).cloned(),
            readers,
        }
    }

    /// All adapters of `snapshot`.
    pub fn all(snapshot: &Snapshot) -> Held {
        Held::new(snapshot, &vec![u32::MAX; snapshot.slots().div_ceil(32)])
    }

    /// The adapters, in slot order.
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.base = None;
        self.entries.clear(); // no reader is counted out before it has let go
        self.readers.0.fetch_sub(1, Ordering::Release);
    }
}
