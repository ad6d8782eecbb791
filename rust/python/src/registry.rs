//! The registry, held from Python.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use meteora_core::kernel::Options;
use meteora_core::peft::SiteShape;
use meteora_core::registry::{self, AdapterInfo, Intent, RegistryConfig};
use meteora_core::DType;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::adapter::{Adapter, TensorParts};
use crate::cuda;
use crate::devices::Devices;
use crate::errors::{raise, to_py};
use crate::kernel::SiteKernel;
use crate::memory::Memory;
use crate::plan::{RouteParts, RoutePlan};
use crate::records;

/// Numbers plans and registries, so that none is mistaken for another.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// See `_native.pyi`.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct Registry {
    inner: registry::Registry,
    sites: Vec<SiteShape>,
    pub serial: u64,
    pub devices: Arc<Devices>,
}

/// See `_native.pyi`.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct Reservation {
    inner: Mutex<Option<registry::Reservation>>,
    #[pyo3(get)]
    slot: usize,
    #[pyo3(get)]
    page_start: usize,
}

#[pymethods]
impl Registry {
    #[new]
    fn new(
        max_adapters: usize,
        pool_rank: usize,
        element_size: usize,
        sites: Vec<(String, usize, usize, usize)>,
    ) -> Registry {
        let site = |(path, in_features, out_features, layer)| SiteShape {
            path,
            in_features,
            out_features,
            layer: Some(layer),
        };
        Registry {
            inner: registry::Registry::new(RegistryConfig {
                max_adapters,
                pool_rank,
                element_size,
            }),
            sites: sites.into_iter().map(site).collect(),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            devices: Arc::default(),
        }
    }

    #[getter]
    pub fn slots(&self) -> usize {
        self.inner.config().max_adapters + 1
    }

    #[getter]
    pub fn pages(&self) -> usize {
        self.inner.stats().pages
    }

    fn parse_folder(&self, py: Python<'_>, name: &str, folder: PathBuf) -> PyResult<Adapter> {
        Adapter::from_folder(py, name, folder, &self.sites)
    }

    fn parse_memory(
        &self,
        py: Python<'_>,
        name: &str,
        config_json: &str,
        tensors: Vec<TensorParts>,
    ) -> PyResult<Adapter> {
        Adapter::from_memory(py, name, config_json, tensors, &self.sites)
    }

    fn reserve(&self, py: Python<'_>, adapter: &Adapter, reload: bool) -> PyResult<Reservation> {
        self.settle(py)?;
        let adapter = &adapter.inner;
        let widest = adapter.dtypes.iter().copied().max_by_key(|dtype| dtype.size());
        let need = self.inner.need(adapter.max_rank, widest.unwrap_or(DType::F32));
        let intent = if reload { Intent::Reload } else { Intent::Load };
        let reserved = self.inner.reserve(&adapter.name, need, intent).map_err(to_py)?;
        Ok(Reservation {
            slot: reserved.slot(),
            page_start: reserved.page_start(),
            inner: Mutex::new(Some(reserved)),
        })
    }

    /// Writes a checked adapter to its reserved rows and publishes it; `write_gate` fills the gate rows of the
    /// slot in between.
    #[pyo3(signature = (reservation, adapter, kernels, gate, routable, write_gate))]
    #[allow(clippy::too_many_arguments)]
    fn publish<'py>(
        &self,
        py: Python<'py>,
        reservation: &Reservation,
        adapter: &Adapter,
        kernels: Vec<PyRef<'py, SiteKernel>>,
        gate: &str,
        routable: bool,
        write_gate: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let gate = records::gate_kind(gate)?;
        let mut place = reservation.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(reserved) = place.as_ref() else {
            return Err(raise("MeteoraError", "the reservation is used up".to_owned()));
        };
        let sites = kernels
            .iter()
            .map(|kernel| kernel.bound())
            .collect::<PyResult<Vec<_>>>()?;
        let (slot, page_start) = (reserved.slot(), reserved.page_start());
        let memories = distinct(sites.iter().map(|site| site.memory));
        py.detach(|| {
            memories.iter().try_for_each(|memory| {
                let mut writer = memory.writer()?;
                for site in sites.iter().filter(|site| site.memory == *memory) {
                    site.clear_slot(&mut writer, slot, page_start)?;
                }
                let mut modules = adapter.inner.modules.iter();
                modules.try_for_each(|module| {
                    let site = &sites[module.site];
                    if site.memory == *memory {
                        site.write_slot(&mut writer, slot, page_start, module)?;
                    }
                    Ok(())
                })
            })
        })
        .map_err(cuda::to_py)?;
        write_gate.call1((slot,))?;
        // Nothing is published before it has arrived.
        py.detach(|| memories.iter().try_for_each(|memory| memory.writer()?.finish()))
            .map_err(cuda::to_py)?;
        let info = AdapterInfo {
            rank: adapter.inner.max_rank,
            dtype: adapter.inner.dtypes.first().copied().unwrap_or(DType::F32),
            bytes: adapter.inner.bytes,
            gate,
            routable,
            sites: adapter.inner.modules.len(),
            source: adapter.source.clone(),
        };
        let Some(reserved) = place.take() else {
            return Err(raise("MeteoraError", "the reservation is used up".to_owned()));
        };
        let published = self.inner.publish(reserved, info);
        records::record(py, &published)
    }

    fn unload(&self, name: &str) -> PyResult<()> {
        self.inner.unload(name).map_err(to_py)
    }

    fn pin(&self, name: &str, pinned: bool) -> PyResult<()> {
        self.inner.pin(name, pinned).map_err(to_py)
    }

    fn set_gate(&self, py: Python<'_>, name: &str, gate: &str, routable: bool) -> PyResult<()> {
        self.finish_gates(py)?;
        self.inner
            .set_gate(name, records::gate_kind(gate)?, routable)
            .map_err(to_py)?;
        Ok(())
    }

    fn set_base_routable(&self, py: Python<'_>, routable: bool) -> PyResult<()> {
        self.finish_gates(py)?;
        self.inner.set_base_routable(routable);
        Ok(())
    }

    #[getter]
    fn base_routable(&self) -> bool {
        self.inner.snapshot().base_routable()
    }

    fn readers(&self, py: Python<'_>) -> PyResult<usize> {
        self.settle(py)?;
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
        self.settle(py)?;
        records::stats(py, &self.inner.stats())
    }

    fn plan(&self, routes: Vec<RouteParts>, top_k: usize, temperature: f32) -> PyResult<RoutePlan> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        RoutePlan::new(
            self.inner.snapshot(),
            routes,
            Options { top_k, temperature },
            serial,
            self.devices.clone(),
        )
    }
}

impl Registry {
    /// Waits for what ended requests still have running on devices: until then, they hold their rows.
    fn settle(&self, py: Python<'_>) -> PyResult<()> {
        if self.devices.is_idle() {
            return Ok(());
        }
        py.detach(|| self.devices.settle()).map_err(cuda::to_py)
    }

    /// Waits until gates that were written in place are where kernels read them.
    fn finish_gates(&self, py: Python<'_>) -> PyResult<()> {
        let devices = self.devices.all();
        if devices.is_empty() {
            return Ok(());
        }
        let finish = || {
            devices
                .iter()
                .try_for_each(|device| Memory::Device(device).writer()?.finish())
        };
        py.detach(finish).map_err(cuda::to_py)
    }
}

/// Each memory once.
fn distinct(memories: impl Iterator<Item = Memory>) -> Vec<Memory> {
    let mut found: Vec<Memory> = Vec::new();
    for memory in memories {
        if !found.contains(&memory) {
            found.push(memory);
        }
    }
    found
}

#[pymethods]
impl Reservation {
    fn abandon(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
