//! Adapters on their way from the host to the device.

use std::sync::Mutex;

use meteora_core::registry;
use meteora_core::tiers::host::Hosted;
use meteora_core::tiers::packed::Packed;
use meteora_cuda::CudaError;
use pyo3::prelude::*;

use super::{bound, lock};
use crate::buffers::Buffers;
use crate::cuda;
use crate::errors::contained;
use crate::kernel::SiteKernel;
use crate::memory::distinct;

/// See `_native.pyi`.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct Arrivals {
    #[pyo3(get)]
    pub(super) slots: Vec<usize>,
    pub(super) places: Mutex<Vec<(registry::Reservation, Hosted)>>,
}

#[pymethods]
impl Arrivals {
    /// Writes the rows and gate rows where nobody reads them.
    fn write(&self, py: Python<'_>, kernels: Vec<PyRef<'_, SiteKernel>>) -> PyResult<()> {
        let sites = bound(&kernels)?;
        contained(py, || {
            lock(&self.places).iter().try_for_each(|(place, hosted)| {
                write(&sites, place.slot(), place.page_start(), &hosted.packed)
            })
        })?
        .map_err(cuda::to_py)
    }

    fn abandon(&self, py: Python<'_>) {
        py.detach(|| lock(&self.places).clear());
    }
}

/// Writes an adapter to each memory; it has arrived when this returns.
fn write(sites: &[Buffers], slot: usize, page_start: usize, packed: &Packed) -> Result<(), CudaError> {
    for memory in distinct(sites.iter().map(|site| site.memory)) {
        let mut writer = memory.writer()?;
        let here = |site: usize| sites[site].memory == memory;
        for site in sites.iter().filter(|site| site.memory == memory) {
            site.clear_slot(&mut writer, slot, page_start)?;
        }
        for module in packed.modules().filter(|module| here(module.site)) {
            sites[module.site].write_packed(&mut writer, slot, page_start, &module)?;
        }
        for (index, site) in sites.iter().enumerate().filter(|(index, _)| here(*index)) {
            let mut row = vec![0.0; site.sizes.in_features];
            let form = packed.gate(index, &mut row);
            site.write_gate(&mut writer, slot, &row, form.bias, form.sign_free)?;
        }
        writer.finish()?;
    }
    Ok(())
}
