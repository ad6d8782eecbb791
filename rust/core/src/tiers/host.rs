//! The host tier: adapters that are ready to be copied to the pools, within a budget of bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::arena::Arena;
use super::lru::Lru;
use super::packed::{packed_size, GateForm, Packed};
use crate::error::{Error, Result};
use crate::peft::{Adapter, SiteShape};
use crate::registry::{AdapterInfo, GateKind};
use crate::rows::Need;

/// What the host tier knows of one of its adapters.
#[derive(Debug, Clone)]
pub struct Hosted {
    /// Its rows.
    pub packed: Arc<Packed>,
    /// What it needs of the pools.
    pub need: Need,
    /// What will be published of it.
    pub info: AdapterInfo,
    /// The generation whose gate rows these are; none before it was on the device.
    pub generation: Option<u64>,
    /// Whether its weights can be read again from where they came from.
    pub has_source: bool,
    /// How often its gate rows were replaced here.
    pub gate_changes: u64,
}

impl Hosted {
    /// Whether it can be read again, gate rows and all, so that it may go for another.
    pub fn can_leave(&self) -> bool {
        self.has_source && self.info.gate.follows_from_weights()
    }

    /// Whether this is the same state of weights and gate rows as `other`.
    pub fn is(&self, other: &Hosted) -> bool {
        Arc::ptr_eq(&self.packed, &other.packed) && self.gate_changes == other.gate_changes
    }
}

/// Bytes and counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostStats {
    /// The budget.
    pub total: usize,
    /// Bytes that nobody has.
    pub free: usize,
    /// The largest piece of them.
    pub largest_run: usize,
    /// Adapters.
    pub adapters: usize,
    /// How often an adapter went for another.
    pub evictions: u64,
}

/// The tier. One lock, held for bookkeeping only: rows are packed and copied outside it.
#[derive(Debug)]
pub struct HostTier {
    arena: Arc<Arena>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    adapters: HashMap<Arc<str>, Hosted>,
    order: Lru<Arc<str>>,
    evictions: u64,
}

impl HostTier {
    /// A tier of `bytes`.
    ///
    /// Errors: the system's, if it hasn't got so much address space.
    pub fn new(bytes: usize) -> std::io::Result<HostTier> {
        Ok(HostTier {
            arena: Arena::new(bytes)?,
            state: Mutex::default(),
        })
    }

    /// Its memory.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Packs an adapter, whose gate rows `gate` fills; [`HostTier::insert`] then makes it the one of its name.
    ///
    /// Others go for it, the one unused for longest first, if they can be read again, `stays` does not say
    /// that they are in use, and nobody is copying them.
    ///
    /// Errors: [`Error::Capacity`] in bytes; then nothing has changed but for those that went.
    pub fn pack(
        &self,
        adapter: &Adapter,
        sites: &[SiteShape],
        stays: impl Fn(&str) -> bool,
        mut gate: impl FnMut(usize, &mut [f32]) -> GateForm,
    ) -> Result<Arc<Packed>> {
        loop {
            match Packed::new(adapter, sites, &self.arena, &mut gate) {
                Some(packed) => return Ok(Arc::new(packed)),
                None if self.evict_one(&adapter.name, &stays) => {}
                None => return Err(self.capacity(adapter, sites, &stays)),
            }
        }
    }

    /// Keeps an adapter under this name, in place of the one that had it.
    pub fn insert(&self, name: &str, hosted: Hosted) {
        let name: Arc<str> = name.into();
        let mut state = self.lock();
        state.order.touch(&name);
        let before = state.adapters.insert(name, hosted);
        drop(state);
        drop(before); // its bytes go back without the lock
    }

    /// Whether the adapter of this name is here.
    pub fn contains(&self, name: &str) -> bool {
        self.lock().adapters.contains_key(name)
    }

    /// The adapter of this name, if it is here.
    pub fn get(&self, name: &str) -> Option<Hosted> {
        self.lock().adapters.get(name).cloned()
    }

    /// Makes these the ones that were used last, those that are here.
    pub fn touch<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let mut state = self.lock();
        for name in names {
            if let Some((name, _)) = state.adapters.get_key_value(name) {
                let name = Arc::clone(name);
                state.order.touch(&name);
            }
        }
    }

    /// Notes what was published of an adapter, under which generation.
    pub fn published(&self, name: &str, info: &AdapterInfo, generation: u64) {
        if let Some(hosted) = self.lock().adapters.get_mut(name) {
            hosted.info = info.clone();
            hosted.generation = Some(generation);
        }
    }

    /// Replaces the gate rows of an adapter that is not on the device: `gate` fills that of each site. `held` is what
    /// the tier has under this name; whoever copies it meanwhile finds that it [is](Hosted::is) so no longer.
    pub fn set_gates(
        &self,
        name: &str,
        held: &Hosted,
        kind: GateKind,
        routable: bool,
        gate: impl FnMut(usize, &mut [f32]) -> GateForm,
    ) {
        held.packed.set_gates(gate);
        if let Some(hosted) = self.lock().adapters.get_mut(name) {
            hosted.info.gate = kind;
            hosted.info.routable = routable;
            hosted.gate_changes += 1;
        }
    }

    /// Forgets an adapter; whether it was here.
    pub fn forget(&self, name: &str) -> bool {
        let mut state = self.lock();
        state.order.remove(name);
        let gone = state.adapters.remove(name);
        drop(state);
        gone.is_some()
    }

    /// The names, in order.
    pub fn names(&self) -> Vec<String> {
        let state = self.lock();
        let mut names: Vec<String> = state.adapters.keys().map(|name| name.to_string()).collect();
        names.sort_unstable();
        names
    }

    /// Bytes and counts.
    pub fn stats(&self) -> HostStats {
        let state = self.lock();
        HostStats {
            total: self.arena.len(),
            free: self.arena.free(),
            largest_run: self.arena.largest_run(),
            adapters: state.adapters.len(),
            evictions: state.evictions,
        }
    }

    fn evict_one(&self, wanted: &str, stays: &impl Fn(&str) -> bool) -> bool {
        let mut state = self.lock();
        let goes = |name: &&Arc<str>| {
            let hosted = &state.adapters[*name];
            hosted.can_leave() && Arc::strong_count(&hosted.packed) == 1 && &***name != wanted && !stays(name)
        };
        let Some(name) = state.order.coldest_first().find(goes).cloned() else {
            return false;
        };
        state.order.remove(&name);
        state.evictions += 1;
        let gone = state.adapters.remove(&name);
        drop(state);
        gone.is_some()
    }

    fn capacity(&self, adapter: &Adapter, sites: &[SiteShape], stays: &impl Fn(&str) -> bool) -> Error {
        let stats = self.stats();
        let state = self.lock();
        let bound = |(name, hosted): (&Arc<str>, &Hosted)| match hosted.can_leave() && !stays(name) {
            true => 0,
            false => hosted.packed.bytes(),
        };
        Error::Capacity {
            adapter: adapter.name.clone(),
            what: "host bytes",
            needed: packed_size(adapter, sites),
            free: stats.free,
            largest_run: stats.largest_run,
            total: stats.total,
            pinned: state.adapters.iter().map(bound).sum(),
            held: 0,
            setting: "host_bytes",
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
