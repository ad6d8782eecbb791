//! The registry, held from Python.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use meteora_core::held::Held;
use meteora_core::kernel::Options;
use meteora_core::layout::BASE_SLOTS;
use meteora_core::peft::SiteShape;
use meteora_core::registry::{self, Intent, RegistryConfig};
use meteora_core::DType;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::adapter::{Adapter, TensorParts};
use crate::devices::Devices;
use crate::errors::to_py;
use crate::parsing::{Parsing, SiteParts};
use crate::plan::{Hold, RouteParts, RoutePlan};
use crate::records;
use crate::reservation::{timeout, GateReservation, Reservation, Retired};

/// Numbers plans and registries, so that none is mistaken for another.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// See `_native.pyi`.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct Registry {
    inner: registry::Registry,
    parsing: Parsing,
    pub serial: u64,
    pub devices: Arc<Devices>,
}

/// See `_native.pyi`.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct Kept {
    _inner: registry::Kept,
}

impl Registry {
    pub fn core(&self) -> &registry::Registry {
        &self.inner
    }

    pub fn sites(&self) -> &[SiteShape] {
        self.parsing.sites()
    }
}

#[pymethods]
impl Registry {
    #[new]
    #[pyo3(signature = (max_adapters, pool_rank, element_size, sites, limits=None, root=None))]
    fn new(
        max_adapters: usize,
        pool_rank: usize,
        element_size: usize,
        sites: Vec<SiteParts>,
        limits: Option<HashMap<String, u64>>,
        root: Option<PathBuf>,
    ) -> PyResult<Registry> {
        let parsing = Parsing::new(sites, limits.unwrap_or_default(), root)?;
        Ok(Registry {
            inner: registry::Registry::new(RegistryConfig {
                max_adapters,
                pool_rank,
                element_size,
            }),
            parsing,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            devices: Arc::default(),
        })
    }

    #[getter]
    fn has_root(&self) -> bool {
        self.parsing.has_root()
    }

    fn check_sizes(&self, name: &str, tensors: usize, bytes: u64) -> PyResult<()> {
        self.parsing.check_sizes(name, tensors, bytes)
    }

    #[getter]
    pub fn slots(&self) -> usize {
        self.inner.config().max_adapters + BASE_SLOTS
    }

    /// The slot of the base's gate row, where the gates may choose the base.
    #[getter]
    fn base_slot(&self) -> Option<usize> {
        self.inner.snapshot().base_slot()
    }

    #[getter]
    pub fn pages(&self) -> usize {
        self.inner.stats().pages
    }

    fn parse_folder(&self, py: Python<'_>, name: &str, folder: PathBuf) -> PyResult<Adapter> {
        Adapter::from_folder(py, name, folder, &self.parsing)
    }

    fn parse_memory(
        &self,
        py: Python<'_>,
        name: &str,
        config_json: &str,
        tensors: Vec<TensorParts>,
    ) -> PyResult<Adapter> {
        Adapter::from_memory(py, name, config_json, tensors, &self.parsing)
    }

    #[pyo3(signature = (adapter, reload, if_generation))]
    fn reserve(
        &self,
        py: Python<'_>,
        adapter: &Adapter,
        reload: bool,
        if_generation: Option<u64>,
    ) -> PyResult<Reservation> {
        self.devices.settle(py)?;
        let adapter = &adapter.inner;
        let widest = adapter.dtypes.iter().copied().max_by_key(|dtype| dtype.size());
        let need = self.inner.need(adapter.max_rank, widest.unwrap_or(DType::F32));
        let intent = match (reload, if_generation) {
            (false, _) => Intent::Load,
            (true, None) => Intent::Reload,
            (true, Some(generation)) => Intent::ReloadIf(generation),
        };
        let reserved = self.inner.reserve(&adapter.name, need, intent).map_err(to_py)?;
        Ok(Reservation::new(reserved))
    }

    /// Publishes an adapter that has been written to its reserved rows.
    fn publish<'py>(
        &self,
        py: Python<'py>,
        reservation: &Reservation,
        adapter: &Adapter,
        gate: &str,
        routable: bool,
    ) -> PyResult<Bound<'py, PyDict>> {
        let info = adapter.info(records::gate_kind(gate)?, routable);
        let published = self.inner.publish(reservation.take(py)?, info);
        records::record(py, &published)
    }

    fn unload(&self, name: &str) -> PyResult<Retired> {
        let retired = self.inner.unload(name).map_err(to_py)?;
        Ok(Retired::new(retired, self.devices.clone()))
    }

    fn reserve_gates(&self, py: Python<'_>, names: Vec<String>, base: bool) -> PyResult<GateReservation> {
        self.devices.settle(py)?;
        let reserved = self.inner.reserve_gates(&names, base).map_err(to_py)?;
        Ok(GateReservation::new(reserved))
    }

    /// Publishes gates that have been written to their reserved slots.
    fn publish_gates(
        &self,
        py: Python<'_>,
        reservation: &GateReservation,
        gates: Vec<(String, bool)>,
        base_routable: Option<bool>,
    ) -> PyResult<()> {
        let gates = gates
            .iter()
            .map(|(kind, routable)| Ok((records::gate_kind(kind)?, *routable)))
            .collect::<PyResult<Vec<_>>>()?;
        self.inner
            .publish_gates(reservation.take(py)?, &gates, base_routable);
        Ok(())
    }

    fn set_alias(&self, alias: &str, target: &str, registered: bool) -> PyResult<()> {
        self.inner.set_alias(alias, target, registered).map_err(to_py)
    }

    fn remove_alias(&self, alias: &str) -> bool {
        self.inner.remove_alias(alias)
    }

    fn aliases(&self) -> BTreeMap<String, String> {
        let naming = Arc::clone(self.inner.snapshot().naming());
        let owned = naming
            .aliases()
            .map(|(alias, target)| (alias.to_owned(), target.to_owned()));
        owned.collect()
    }

    fn set_group(&self, group: &str, members: Vec<String>) -> PyResult<()> {
        self.inner.set_group(group, &members).map_err(to_py)
    }

    fn remove_group(&self, group: &str) -> bool {
        self.inner.remove_group(group)
    }

    fn groups(&self) -> BTreeMap<String, Vec<String>> {
        let naming = Arc::clone(self.inner.snapshot().naming());
        let owned = naming
            .groups()
            .map(|(group, members)| (group.to_owned(), members.into_iter().map(str::to_owned).collect()));
        owned.collect()
    }

    fn pin(&self, name: &str, pinned: bool) -> PyResult<()> {
        self.inner.pin(name, pinned).map_err(to_py)
    }

    /// Pins an adapter for as long as the result lives.
    fn keep(&self, name: &str) -> PyResult<Kept> {
        let kept = self.inner.keep(name).map_err(to_py)?;
        Ok(Kept { _inner: kept })
    }

    /// Holds all live adapters.
    fn hold(&self) -> Hold {
        Hold::new(Held::all(&self.inner.snapshot()), self.devices.clone())
    }

    fn freed(&self) -> u64 {
        self.inner.freed()
    }

    fn wait_freed(&self, py: Python<'_>, seen: u64, seconds: f64) -> PyResult<u64> {
        let timeout = timeout(seconds)?;
        self.devices.settle(py)?;
        Ok(py.detach(|| self.inner.wait_freed(seen, timeout)))
    }

    fn readers(&self, py: Python<'_>) -> PyResult<usize> {
        self.devices.settle(py)?;
        Ok(self.inner.readers())
    }

    fn records<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        self.inner
            .records()
            .iter()
            .map(|entry| records::record(py, entry))
            .collect()
    }

    fn record<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyDict>> {
        records::record(py, &self.inner.record(name).map_err(to_py)?)
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.devices.settle(py)?;
        records::stats(py, &self.inner.stats())
    }

    /// `within`: the plan in force, beyond whose adapters no error tells of any, and beyond whose reach no route leads.
    /// `confine`: what this plan reaches becomes the reach of those within it.
    #[pyo3(signature = (routes, top_k, temperature, within, confine))]
    fn plan(
        &self,
        routes: Vec<RouteParts>,
        top_k: usize,
        temperature: f32,
        within: Option<&RoutePlan>,
        confine: bool,
    ) -> PyResult<RoutePlan> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let options = Options { top_k, temperature };
        let devices = self.devices.clone();
        let snapshot = self.inner.snapshot();
        RoutePlan::new(&snapshot, routes, options, serial, within, confine, devices)
    }
}
