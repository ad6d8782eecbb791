//! The registry, held from Python.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use meteora_core::held::Held;
use meteora_core::kernel::Options;
use meteora_core::peft::SiteShape;
use meteora_core::registry::{self, AdapterInfo, Intent, RegistryConfig};
use meteora_core::DType;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::adapter::{Adapter, TensorParts};
use crate::errors::{raise, to_py};
use crate::kernel::SiteKernel;
use crate::plan::{Hold, RouteParts, RoutePlan};
use crate::records;

/// Numbers plans and registries, so that none is mistaken for another.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// See `_native.pyi`.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct Registry {
    inner: registry::Registry,
    sites: Vec<SiteShape>,
    pub serial: u64,
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

    fn reserve(&self, adapter: &Adapter, reload: bool) -> PyResult<Reservation> {
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
        py.detach(|| {
            for site in &sites {
                site.clear_slot(slot, page_start);
            }
            for module in &adapter.inner.modules {
                sites[module.site].write_slot(slot, page_start, module);
            }
        });
        write_gate.call1((slot,))?;
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

    fn set_gate(&self, name: &str, gate: &str, routable: bool) -> PyResult<()> {
        self.inner
            .set_gate(name, records::gate_kind(gate)?, routable)
            .map_err(to_py)?;
        Ok(())
    }

    fn set_base_routable(&self, routable: bool) {
        self.inner.set_base_routable(routable);
    }

    #[getter]
    fn base_routable(&self) -> bool {
        self.inner.snapshot().base_routable()
    }

    /// Holds all live adapters.
    fn hold(&self) -> Hold {
        Hold::new(Held::all(&self.inner.snapshot()))
    }

    fn readers(&self) -> usize {
        self.inner.readers()
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
        records::stats(py, &self.inner.stats())
    }

    fn plan(&self, routes: Vec<RouteParts>, top_k: usize, temperature: f32) -> PyResult<RoutePlan> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        RoutePlan::new(
            &self.inner.snapshot(),
            routes,
            Options { top_k, temperature },
            serial,
        )
    }
}

#[pymethods]
impl Reservation {
    fn abandon(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
