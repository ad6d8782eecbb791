//! Places that are being written, and those that are coming back, held from Python.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meteora_core::peft::Module;
use meteora_core::registry;
use meteora_cuda::CudaError;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::adapter::Adapter;
use crate::buffers::Buffers;
use crate::cuda::to_py;
use crate::devices::Devices;
use crate::errors::{contained, raise};
use crate::kernel::SiteKernel;
use crate::memory::distinct;
use crate::plan::Hold;

/// See `_native.pyi`. Its lock is only ever taken without the GIL, which a thread that writes may wait for.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct Reservation {
    inner: Mutex<Option<registry::Reservation>>,
    cancelled: AtomicBool,
    #[pyo3(get)]
    slot: usize,
    #[pyo3(get)]
    page_start: usize,
    /// Written over the adapter's own rows: once begun, it must be published.
    #[pyo3(get)]
    in_place: bool,
}

/// See `_native.pyi`.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct GateReservation {
    inner: Mutex<Option<registry::GateReservation>>,
    #[pyo3(get)]
    slots: Vec<usize>,
    #[pyo3(get)]
    old_slots: Vec<usize>,
    #[pyo3(get)]
    base_slot: Option<usize>,
    #[pyo3(get)]
    in_place: bool,
}

/// See `_native.pyi`.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct Retired {
    inner: registry::Retired,
    devices: Arc<Devices>,
}

fn used_up() -> PyErr {
    raise("MeteoraError", "the reservation is used up".to_owned())
}

fn lock<T>(inner: &Mutex<Option<T>>) -> MutexGuard<'_, Option<T>> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A time to wait.
pub fn timeout(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| PyValueError::new_err(format!("seconds must be 0 or more, not {seconds}")))
}

impl Reservation {
    pub fn new(inner: registry::Reservation) -> Reservation {
        Reservation {
            cancelled: AtomicBool::new(false),
            slot: inner.slot(),
            page_start: inner.page_start(),
            in_place: inner.in_place(),
            inner: Mutex::new(Some(inner)),
        }
    }

    pub fn take(&self, py: Python<'_>) -> PyResult<registry::Reservation> {
        py.detach(|| lock(&self.inner).take()).ok_or_else(used_up)
    }

    /// Whether everything was written, and has arrived, before `cancel` came.
    fn write(
        &self,
        sites: &[Buffers],
        modules: &[Module],
        slot: usize,
        page_start: usize,
    ) -> Result<bool, CudaError> {
        for memory in distinct(sites.iter().map(|site| site.memory)) {
            let mut writer = memory.writer()?;
            for site in sites.iter().filter(|site| site.memory == memory) {
                site.clear_slot(&mut writer, slot, page_start)?;
            }
            for module in modules {
                let site = &sites[module.site];
                if site.memory != memory {
                    continue;
                }
                if !self.in_place && self.cancelled.load(Ordering::Relaxed) {
                    writer.finish()?;
                    return Ok(false);
                }
                site.write_slot(&mut writer, slot, page_start, module)?;
            }
            writer.finish()?;
        }
        Ok(true)
    }
}

#[pymethods]
impl Reservation {
    /// Writes a checked adapter to its rows; false if `cancel` came first, and then it is no good any more; one in
    /// place is written to its end.
    fn write_rows(
        &self,
        py: Python<'_>,
        adapter: &Adapter,
        kernels: Vec<PyRef<'_, SiteKernel>>,
    ) -> PyResult<bool> {
        let sites = kernels
            .iter()
            .map(|kernel| kernel.bound())
            .collect::<PyResult<Vec<_>>>()?;
        let modules = &adapter.inner.modules;
        contained(py, || {
            let mut place = lock(&self.inner); // held while writing: nobody gives the rows away meanwhile
            let reserved = place.as_mut()?;
            reserved.begin();
            let (slot, page_start) = (reserved.slot(), reserved.page_start());
            Some(self.write(&sites, modules, slot, page_start))
        })?
        .ok_or_else(used_up)?
        .map_err(to_py)
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn abandon(&self, py: Python<'_>) {
        py.detach(|| drop(lock(&self.inner).take()));
    }
}

impl GateReservation {
    pub fn new(inner: registry::GateReservation) -> GateReservation {
        GateReservation {
            slots: inner.slots(),
            old_slots: inner.old_slots(),
            base_slot: inner.base_slot(),
            in_place: inner.in_place(),
            inner: Mutex::new(Some(inner)),
        }
    }

    pub fn take(&self, py: Python<'_>) -> PyResult<registry::GateReservation> {
        py.detach(|| lock(&self.inner).take()).ok_or_else(used_up)
    }
}

#[pymethods]
impl GateReservation {
    fn abandon(&self, py: Python<'_>) {
        py.detach(|| drop(lock(&self.inner).take()));
    }
}

impl Retired {
    pub fn new(inner: registry::Retired, devices: Arc<Devices>) -> Retired {
        Retired { inner, devices }
    }
}

#[pymethods]
impl Retired {
    fn wait(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        let timeout = timeout(seconds)?;
        self.devices.settle(py)?;
        Ok(py.detach(|| self.inner.wait(timeout)))
    }

    fn is_held_by(&self, hold: &Hold) -> bool {
        self.inner.is_held_by(&hold.held)
    }
}
