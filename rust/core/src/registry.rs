//! The adapters that are live, and the only way to change them.
//!
//! A change has three steps: [`Registry::reserve`] a slot and rows that nobody reads, write them, and
//! [`Registry::publish`]. Writers take turns at one lock, held for bookkeeping only, never while an adapter is
//! parsed or written; readers take the published [`Snapshot`] and never meet that lock.

mod capacity;
mod evict;
mod gates;
mod names;
mod pins;
mod record;
mod reservation;
mod reserve;
mod retired;
mod space;
mod stats;
mod writer;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

pub use gates::GateReservation;
pub use pins::Kept;
pub use record::{AdapterId, AdapterInfo, AdapterRecord, GateKind};
pub use reservation::{Intent, Reservation};
pub use retired::Retired;
pub(crate) use space::{RowsLease, SlotLease};
pub use stats::{RegistryStats, Usage};

use crate::dtype::DType;
use crate::error::Result;
use crate::held::Readers;
use crate::naming::Naming;
use crate::rows::{Need, Rows};
use crate::snapshot::{Entry, Published, Snapshot};
use crate::sync::{Mutex, MutexGuard};
use space::Pool;
use writer::Writer;

/// The sizes that are fixed when a model is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Adapters that may be live at once; the base's slot comes after them.
    pub max_adapters: usize,
    /// Rank rows of the pools.
    pub pool_rank: usize,
    /// Bytes of the model's elements.
    pub element_size: usize,
}

/// A handle on the registry of one model; clones share it.
#[derive(Debug, Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

/// What all handles and reservations share. Lock order: `writer`, then the pool's or `published`'s.
#[derive(Debug)]
struct Shared {
    config: RegistryConfig,
    pool: Arc<Pool>,
    published: Published,
    writer: Mutex<Writer>,
}

impl Registry {
    /// A registry without adapters.
    pub fn new(config: RegistryConfig) -> Registry {
        let first = Arc::new(Snapshot::new(
            0,
            vec![None; config.max_adapters],
            BTreeSet::new(),
            None,
            Arc::default(),
            Readers::default(),
        ));
        let rows = Rows::new(config.pool_rank, config.element_size);
        let shared = Shared {
            config,
            pool: Pool::new(config.max_adapters, rows),
            writer: Mutex::new(Writer::new(&first)),
            published: Published::new(first),
        };
        Registry {
            shared: Arc::new(shared),
        }
    }

    /// The sizes.
    pub fn config(&self) -> RegistryConfig {
        self.shared.config
    }

    /// What an adapter of this largest rank and element type needs here.
    pub fn need(&self, max_rank: usize, dtype: DType) -> Need {
        Need::new(max_rank, dtype, self.shared.config.element_size)
    }

    /// The live adapters now. Hold it for as long as a request runs: what it names is not rewritten until then.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.published.load()
    }

    /// Reserves a slot and rows for an adapter, to be written and then given to [`Registry::publish`].
    ///
    /// A reload gets a fresh place if there is one, else its old one ([`Reservation::in_place`]), if no request
    /// reads that: it is then out of the published snapshot until the reservation is published, or dropped, and
    /// whoever asks the snapshot for it gets [`crate::Error::AdapterInUse`].
    ///
    /// Errors: [`crate::Error::AdapterInUse`] (a load of a live name, or another change of the name is under way),
    /// [`crate::Error::AdapterNotFound`] (a reload of an unknown name), [`crate::Error::Capacity`].
    pub fn reserve(&self, name: &str, need: Need, intent: Intent) -> Result<Reservation> {
        reserve::reserve(&self.shared, name, need, intent)
    }

    /// Makes a written reservation live, in one step. It can't fail: all checks came before the writing.
    pub fn publish(&self, reservation: Reservation, info: AdapterInfo) -> AdapterRecord {
        debug_assert!(
            Arc::ptr_eq(&self.shared, reservation.shared()),
            "a reservation of another registry"
        );
        reservation.publish(info)
    }

    /// Takes an adapter out of the published snapshot. Its slot and rows are free when its last reader is gone,
    /// which the result can tell.
    ///
    /// Errors: [`crate::Error::AdapterNotFound`]; [`crate::Error::AdapterInUse`] if it is pinned, being changed, or the target of
    /// an alias.
    pub fn unload(&self, name: &str) -> Result<Retired> {
        let mut writer = self.shared.lock();
        let entry = self.shared.settled(&writer, name)?;
        if writer.pins.has(entry.id) {
            let reason = match writer.pins.is_set(entry.id) {
                true => "it is pinned; unpin it before unloading it",
                false => "a fit or a training keeps it; unload it when that is done",
            };
            return Err(names::in_use(name, reason.to_owned()));
        }
        if let Some(alias) = self.shared.published.load().naming().alias_of(name) {
            let reason = format!("the alias {alias:?} points to it; set_alias() or remove_alias() first");
            return Err(names::in_use(name, reason));
        }
        self.shared
            .change(&mut writer, |next| next.entries[entry.slot()] = None);
        Ok(Retired::new(&self.shared.pool, &entry))
    }

    /// The live adapters, in slot order; one that is being reloaded in its own place as it was before.
    pub fn records(&self) -> Vec<AdapterRecord> {
        let writer = self.shared.lock();
        let snapshot = self.shared.published.load();
        let withdrawn = writer.withdrawn.values().cloned();
        let mut records: Vec<AdapterRecord> = snapshot
            .entries()
            .map(|entry| writer.record(entry))
            .chain(withdrawn)
            .collect();
        records.sort_by_key(|record| record.slot);
        records
    }

    /// The live adapter of this name or alias, as [`Registry::records`] lists it.
    ///
    /// Errors: [`crate::Error::AdapterNotFound`].
    pub fn record(&self, name: &str) -> Result<AdapterRecord> {
        let writer = self.shared.lock();
        let snapshot = self.shared.published.load();
        let name = snapshot.naming().resolve(name);
        if let Some(record) = writer.withdrawn.get(name) {
            return Ok(record.clone());
        }
        Ok(writer.record(snapshot.find(name)?))
    }

    /// How many requests hold adapters ([`Held`](crate::held::Held)), and how many handles on snapshots, published or
    /// older, there are outside the registry.
    pub fn readers(&self) -> usize {
        self.shared.readers(&self.shared.lock())
    }

    /// How often slots or rows were given back until now: see [`Registry::wait_freed`].
    pub fn freed(&self) -> u64 {
        self.shared.pool.freed()
    }

    /// Waits until slots or rows have been given back since [`Registry::freed`] said `seen`, or the time is over;
    /// returns the count then.
    pub fn wait_freed(&self, seen: u64, timeout: Duration) -> u64 {
        self.shared.pool.wait_freed(seen, timeout)
    }

    /// Slots, rank rows and pages: in use, held and free.
    pub fn stats(&self) -> RegistryStats {
        let writer = self.shared.lock();
        self.shared.stats(&writer)
    }
}

impl Shared {
    /// The writer's turn. What a panic could leave is no more than a reservation that was never made, so a
    /// poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The live adapter of this name, which no reservation is about to change.
    fn settled(&self, writer: &Writer, name: &str) -> Result<Arc<Entry>> {
        // An adapter whose reload took its own place over is in no snapshot, but not unknown either; one that
        // is being loaded for the first time doesn't exist yet.
        if writer
            .pending
            .get(name)
            .is_some_and(|pending| pending.intent != Intent::Load)
        {
            return Err(writer::busy(name));
        }
        self.no_alias(name)?;
        self.published.load().find(name).cloned()
    }

    /// Requests, and handles on snapshots that may become one.
    fn readers(&self, writer: &Writer) -> usize {
        // Those that have a snapshot first: a request counts itself in before it lets go of that.
        let snapshots = writer.readers();
        snapshots + self.published.load().readers().count()
    }

    /// Publishes what `edit` makes of the published state.
    fn change(&self, writer: &mut Writer, edit: impl FnOnce(&mut Draft)) {
        let current = self.published.load();
        let mut next = Draft {
            entries: current.by_slot().to_vec(),
            base: current.base().cloned(),
            naming: Arc::clone(current.naming()),
        };
        drop(current);
        edit(&mut next);
        let reloading = writer.withdrawn.keys().cloned().collect();
        let next = Arc::new(Snapshot::new(
            writer.next_version(),
            next.entries,
            reloading,
            next.base,
            next.naming,
            self.published.load().readers().clone(),
        ));
        writer.track(&next);
        drop(self.published.swap(next));
    }
}

/// The next snapshot, while it is made.
struct Draft {
    entries: Vec<Option<Arc<Entry>>>,
    base: Option<Arc<SlotLease>>,
    naming: Arc<Naming>,
}
