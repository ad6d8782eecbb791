//! The host tier and room on the device, held from Python.

mod arrivals;
mod host_copy;
mod names;
mod report;
mod room;
mod ticket;

pub use arrivals::Arrivals;
pub use host_copy::HostCopy;
pub use ticket::Ticket;

use std::sync::{Arc, Mutex, PoisonError};

use meteora_core::peft::SiteShape;
use meteora_core::registry::{self, GateKind};
use meteora_core::tiers::host::{HostTier, Hosted};
use meteora_core::tiers::queue;
use meteora_core::tiers::room::Residency;
use meteora_cuda::PageLock;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::adapter::Adapter;
use crate::buffers::Buffers;
use crate::devices::Devices;
use crate::errors::{contained, raise, to_py};
use crate::gates::RowParts;
use crate::kernel::SiteKernel;
use crate::plan::{RouteParts, RoutePlan};
use crate::records;
use crate::registry::Registry;
use crate::reservation::Reservation;
use host_copy::Rows;
use names::named;

/// See `_native.pyi`.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct Tiers {
    registry: registry::Registry,
    devices: Arc<Devices>,
    sites: Vec<SiteShape>,
    host: HostTier,
    residency: Residency,
    queue: Arc<queue::Queue>,
}

fn lock<T>(inner: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bound(kernels: &[PyRef<'_, SiteKernel>]) -> PyResult<Vec<Buffers>> {
    kernels.iter().map(|kernel| kernel.bound()).collect()
}

#[pymethods]
impl Tiers {
    #[new]
    fn new(registry: &Registry, host_bytes: usize) -> PyResult<Tiers> {
        Ok(Tiers {
            registry: registry.core().clone(),
            devices: registry.devices.clone(),
            sites: registry.sites().to_vec(),
            host: HostTier::new(host_bytes)?,
            residency: Residency::default(),
            queue: Arc::default(),
        })
    }

    /// Packs an adapter with its gate rows: `rows`, or the arrow rows of `arrow`, or those of the copy that is `kept`, or
    /// zeros.
    #[allow(clippy::too_many_arguments)]
    #[pyo3(signature = (adapter, gate, rows, arrow, kept, has_source))]
    fn pack(
        &self,
        py: Python<'_>,
        adapter: &Adapter,
        gate: &str,
        rows: Option<Vec<RowParts>>,
        arrow: Option<&Adapter>,
        kept: bool,
        has_source: bool,
    ) -> PyResult<HostCopy> {
        let kind = records::gate_kind(gate)?;
        let inner = &adapter.inner;
        let kept = self.host.get(&inner.name).filter(|_| kept);
        let rows = match (rows, arrow, &kept) {
            (Some(rows), ..) => self.given(rows)?,
            (None, Some(_), _) => Rows::Arrow,
            (None, None, Some(hosted)) => Rows::Kept(Arc::clone(&hosted.packed)),
            (None, None, None) => Rows::Zero,
        };
        contained(py, || {
            self.page_lock();
            let live = self.registry.snapshot();
            let stays = |name: &str| live.has(name);
            let write = |site: usize, row: &mut [f32]| rows.write(&inner.modules, site, row);
            let hosted = Hosted {
                packed: self.host.pack(inner, &self.sites, stays, write)?,
                need: self.need(adapter),
                info: adapter.info(kind, kind != GateKind::None),
                generation: None,
                has_source,
                gate_changes: 0,
            };
            Ok(HostCopy::new(&inner.name, hosted, kept))
        })?
        .map_err(to_py)
    }

    /// Keeps a packed adapter under its name; `generation` is that under which its rows are on the device. One that is
    /// kept already stays: so who was interrupted by a signal may do it again.
    #[pyo3(signature = (copy, generation))]
    fn keep(&self, py: Python<'_>, copy: &HostCopy, generation: Option<u64>) {
        let Some(mut hosted) = copy.take() else { return };
        hosted.generation = generation;
        py.detach(|| self.host.insert(&copy.name, hosted));
    }

    /// Whether the gate rows of a packed adapter, if it took those of the host, are still the host's.
    fn is_current(&self, copy: &HostCopy) -> bool {
        copy.rows_are(|rows_of| self.is_kept(&copy.name, rows_of))
    }

    /// The copy of this name, if the host has one; it does not leave while it is held.
    fn hold(&self, name: &str) -> Option<HostCopy> {
        self.host
            .get(name)
            .map(|hosted| HostCopy::new(name, hosted, None))
    }

    /// Whether a copy that is held is what the host has under its name, and not on the device.
    fn rests(&self, copy: &HostCopy) -> PyResult<bool> {
        let live = self.registry.snapshot().has(&copy.name);
        Ok(!live && self.is_kept(&copy.name, &copy.hosted()?))
    }

    /// Replaces the gate rows of a copy that is held and rests.
    fn set_gates(
        &self,
        py: Python<'_>,
        copy: &HostCopy,
        gate: &str,
        routable: bool,
        rows: Vec<RowParts>,
    ) -> PyResult<()> {
        let (kind, held) = (records::gate_kind(gate)?, copy.hosted()?);
        let rows = self.given(rows)?;
        contained(py, || {
            let write = |site: usize, row: &mut [f32]| rows.write(&[], site, row);
            self.host.set_gates(&copy.name, &held, kind, routable, write);
        })
    }

    fn forget(&self, py: Python<'_>, name: &str) -> bool {
        py.detach(|| {
            self.residency.forget(name);
            self.registry.forget(name);
            self.host.forget(name)
        })
    }

    fn hosts(&self, name: &str) -> bool {
        self.host.contains(name)
    }

    fn hosted<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(hosted) = self.host.get(name) else {
            return Ok(None);
        };
        records::info(py, &hosted.info).map(Some)
    }

    /// The adapters that these routes name, and those of them that are not on the device: all are now the last to go. And
    /// the names that lead beyond the reach of `within`, of which nothing is looked up.
    #[pyo3(signature = (routes, within))]
    fn asked(
        &self,
        routes: Vec<RouteParts>,
        within: Option<&RoutePlan>,
    ) -> (Vec<String>, Vec<String>, Vec<String>) {
        let snapshot = self.registry.snapshot();
        let reach = within.map(|within| within.reach.clone()).unwrap_or_default();
        let known = reach.names(snapshot.naming());
        let (names, beyond) = named(&routes, &known);
        let is_live = |name: &str| snapshot.has(name);
        self.residency
            .asked(names.iter().map(|name| (*name, is_live(name))));
        self.host.touch(names.iter().copied());
        let missing = names.iter().copied().filter(|name| !is_live(name));
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        let missing = owned(missing.collect());
        (owned(names), missing, owned(beyond))
    }

    /// Makes an adapter the last to go, though nobody asked for it.
    fn touch(&self, name: &str) {
        self.residency.touch(name);
        self.host.touch([name]);
    }

    /// Which of these are not on the device. One that is being reloaded in its own place is there, though no request
    /// can use it: what would change it meanwhile has to find it so.
    fn missing(&self, names: Vec<String>) -> Vec<String> {
        let snapshot = self.registry.snapshot();
        let missing = names.into_iter().filter(|name| !snapshot.has(name));
        missing.collect()
    }

    fn join(&self) -> Ticket {
        Ticket::new(self.queue.join())
    }

    /// Makes room for all of `names`, which the host has, while those of `keep` stay; or says what is short until running
    /// requests end.
    fn make_room(
        &self,
        py: Python<'_>,
        names: Vec<String>,
        keep: Vec<String>,
        kernels: Vec<PyRef<'_, SiteKernel>>,
    ) -> PyResult<(Option<Arrivals>, String)> {
        let sites = bound(&kernels)?;
        contained(py, || {
            self.page_lock();
            self.room(&names, &keep, &sites)
        })?
        .map_err(to_py)
    }

    /// The same for an adapter that is being loaded.
    fn make_room_for(
        &self,
        py: Python<'_>,
        adapter: &Adapter,
        kernels: Vec<PyRef<'_, SiteKernel>>,
    ) -> PyResult<(Option<Reservation>, String)> {
        let sites = bound(&kernels)?;
        let (place, shortage) = contained(py, || self.room_for(adapter, &sites))?.map_err(to_py)?;
        Ok((place.map(Reservation::new), shortage))
    }

    /// Makes arrivals live, if they are still what the host has under their names.
    fn publish(&self, arrivals: &Arrivals) -> bool {
        let places = std::mem::take(&mut *lock(&arrivals.places));
        let current = |(place, hosted): &(registry::Reservation, Hosted)| {
            let now = self.host.get(place.name());
            now.is_some_and(|now| now.is(hosted))
        };
        if !places.iter().all(current) {
            return false;
        }
        for (place, hosted) in places {
            let record = self.registry.publish(place, hosted.info.clone());
            self.host.published(&record.name, &hosted.info, record.generation);
        }
        true
    }

    fn names(&self) -> Vec<String> {
        self.host.names()
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        report::stats(self, py)
    }
}

impl Tiers {
    /// Has devices read the host's memory where it is, from when there is one.
    fn page_lock(&self) {
        if let Some(device) = self.devices.first() {
            self.host.arena().page_lock(|address, len| {
                // SAFETY: the arena keeps the memory, and every page of it, until it has dropped the lock.
                let lock = unsafe { PageLock::new(device, address, len) };
                Ok(Box::new(lock.map_err(|error| error.to_string())?))
            });
        }
    }

    fn given(&self, rows: Vec<RowParts>) -> PyResult<Rows> {
        if rows.len() != self.sites.len() {
            let message = format!("{} gate rows for {} sites", rows.len(), self.sites.len());
            return Err(raise("MeteoraError", message));
        }
        Ok(Rows::Given(rows))
    }

    fn is_kept(&self, name: &str, hosted: &Hosted) -> bool {
        self.host.get(name).is_some_and(|now| now.is(hosted))
    }
}
