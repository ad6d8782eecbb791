//! What a request holds: the adapters that were live when it began.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, TryLockError};

use crate::error::{Error, Result};
use crate::held::Readers;
use crate::layout::BASE_SLOTS;
use crate::naming::Naming;
use crate::reach::Names;
use crate::registry::{AdapterId, AdapterInfo, RowsLease, SlotLease};
use crate::sync::{spin_loop, AtomicUsize, Ordering, RwLock};

/// One generation of an adapter. Its slot and rows are free again when the last snapshot that holds it, and
/// every later generation in the same place, are gone.
#[derive(Debug)]
pub struct Entry {
    pub(crate) name: Arc<str>,
    pub(crate) id: AdapterId,
    pub(crate) generation: u64,
    pub(crate) info: AdapterInfo,
    pub(crate) slot: Arc<SlotLease>,
    pub(crate) rows: Arc<RowsLease>,
}

impl Entry {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The identity.
    pub fn id(&self) -> AdapterId {
        self.id
    }

    /// The generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The slot.
    pub fn slot(&self) -> usize {
        self.slot.index
    }

    /// First page of the run.
    pub fn page_start(&self) -> usize {
        self.rows.run.start
    }

    /// Pages of the run.
    pub fn pages(&self) -> usize {
        self.rows.run.len()
    }

    /// What the loader told.
    pub fn info(&self) -> &AdapterInfo {
        &self.info
    }

    /// Whether the gates may choose it.
    pub fn is_routable(&self) -> bool {
        self.info.is_routable()
    }
}

/// The live adapters at one moment. It never changes; what it names is not rewritten while it is held.
#[derive(Debug)]
pub struct Snapshot {
    version: u64,
    entries: Vec<Option<Arc<Entry>>>,
    names: BTreeMap<Arc<str>, usize>,
    /// Adapters whose own places a reload is writing: nobody may use them, and they are not unknown either.
    reloading: BTreeSet<Arc<str>>,
    /// The slot of the base's gate row, where the gates may choose the base.
    base: Option<Arc<SlotLease>>,
    naming: Arc<Naming>,
    candidates: Vec<u32>,
    readers: Readers,
}

impl Snapshot {
    pub(crate) fn new(
        version: u64,
        entries: Vec<Option<Arc<Entry>>>,
        reloading: BTreeSet<Arc<str>>,
        base: Option<Arc<SlotLease>>,
        naming: Arc<Naming>,
        readers: Readers,
    ) -> Snapshot {
        let mut names = BTreeMap::new();
        let mut candidates = vec![0u32; (entries.len() + BASE_SLOTS).div_ceil(32)];
        let mut admit = |slot: usize| candidates[slot / 32] |= 1 << (slot % 32);
        for (slot, entry) in entries.iter().enumerate() {
            let Some(entry) = entry else { continue };
            names.insert(Arc::clone(&entry.name), slot);
            if entry.is_routable() {
                admit(slot);
            }
        }
        if let Some(base) = &base {
            admit(base.index);
        }
        Snapshot {
            version,
            entries,
            names,
            reloading,
            base,
            naming,
            candidates,
            readers,
        }
    }

    /// Grows with each change of the registry: equal versions of one registry are equal snapshots.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Slots, the base's included.
    pub fn slots(&self) -> usize {
        self.entries.len() + BASE_SLOTS
    }

    /// The slot of the base as a class of its own, where the gates may choose it.
    pub fn base_slot(&self) -> Option<usize> {
        self.base.as_ref().map(|base| base.index)
    }

    /// Aliases and groups.
    pub fn naming(&self) -> &Arc<Naming> {
        &self.naming
    }

    /// The adapter with this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Entry>> {
        self.names.get(name).and_then(|&slot| self.at(slot))
    }

    /// Whether there is an adapter with this name, be it that a reload is writing its own place and nobody may use it.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name) || self.reloading.contains(name)
    }

    /// The adapter with this name of its own.
    ///
    /// Errors: [`Error::AdapterInUse`] while a reload writes its own place; [`Error::AdapterNotFound`], which lists
    /// the adapters that there are.
    pub fn find(&self, name: &str) -> Result<&Arc<Entry>> {
        if self.reloading.contains(name) {
            return Err(Error::AdapterInUse {
                adapter: name.to_owned(),
                reason:
                    "it is being reloaded in its own place, as there is no room for a second generation; try \
                         again when the reload has ended"
                        .to_owned(),
            });
        }
        self.get(name).ok_or_else(|| self.not_found(name))
    }

    fn not_found(&self, name: &str) -> Error {
        let known: BTreeSet<&Arc<str>> = self.names.keys().chain(&self.reloading).collect();
        Error::AdapterNotFound {
            name: name.to_owned(),
            known: known.into_iter().map(|name| name.to_string()).collect(),
            of_route: false,
        }
    }

    /// The adapter that a route means: by its own name or an alias.
    ///
    /// Errors: as [`Snapshot::find`]; what `names` doesn't know is not found under the name that was asked for.
    pub fn routed(&self, name: &str, names: &Names) -> Result<&Arc<Entry>> {
        match names.resolve(name) {
            Some(adapter) => self.find(adapter),
            None => Err(self.not_found(name)),
        }
    }

    /// The adapter in this slot.
    pub fn at(&self, slot: usize) -> Option<&Arc<Entry>> {
        self.entries.get(slot)?.as_ref()
    }

    /// The adapters, in slot order.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.iter().flatten()
    }

    /// What the gates may choose among: bit `s % 32` of word `s / 32` for each slot `s`, the base's included.
    pub fn candidates(&self) -> &[u32] {
        &self.candidates
    }

    pub(crate) fn readers(&self) -> &Readers {
        &self.readers
    }

    pub(crate) fn by_slot(&self) -> &[Option<Arc<Entry>>] {
        &self.entries
    }

    pub(crate) fn base(&self) -> Option<&Arc<SlotLease>> {
        self.base.as_ref()
    }
}

/// The snapshot that new requests get.
///
/// There are two cells, and `current` says which one is published. The writer fills the other one, turns
/// `current`, and empties the old one; so the cell that a reader is sent to is not being written, unless the
/// reader was sent there before the writer's last turn. Readers only ever try a lock: one that meets the writer
/// looks at `current` again and finds the other cell. So no reader waits for a writer, were it stopped at any
/// point of this. A writer may wait for readers, each of which copies one pointer.
#[derive(Debug)]
pub(crate) struct Published {
    cells: [RwLock<Option<Arc<Snapshot>>>; 2],
    current: AtomicUsize,
}

impl Published {
    pub(crate) fn new(first: Arc<Snapshot>) -> Published {
        Published {
            cells: [RwLock::new(Some(first)), RwLock::new(None)],
            current: AtomicUsize::new(0),
        }
    }

    pub(crate) fn load(&self) -> Arc<Snapshot> {
        loop {
            let cell = &self.cells[self.current.load(Ordering::Acquire)];
            let found = match cell.try_read() {
                Ok(cell) => cell.clone(),
                Err(TryLockError::Poisoned(cell)) => cell.into_inner().clone(),
                Err(TryLockError::WouldBlock) => None,
            };
            if let Some(snapshot) = found {
                return snapshot;
            }
            spin_loop();
        }
    }

    /// Publishes `next` and returns what was published. One call at a time: the registry's lock sees to that.
    pub(crate) fn swap(&self, next: Arc<Snapshot>) -> Option<Arc<Snapshot>> {
        let old = self.current.load(Ordering::Relaxed);
        self.fill(1 - old, Some(next));
        self.current.store(1 - old, Ordering::Release);
        self.fill(old, None)
    }

    fn fill(&self, cell: usize, with: Option<Arc<Snapshot>>) -> Option<Arc<Snapshot>> {
        let mut cell = self.cells[cell].write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *cell, with)
    }
}
