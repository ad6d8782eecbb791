//! What the tiers report of themselves.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::Tiers;

/// The host's bytes, and how often requests found their adapters on the device.
pub(super) fn stats<'py>(tiers: &Tiers, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
    let (host, counts) = (tiers.host.stats(), tiers.residency.counts());
    let dict = PyDict::new(py);
    dict.set_item("total", host.total)?;
    dict.set_item("free", host.free)?;
    dict.set_item("largest_run", host.largest_run)?;
    dict.set_item("adapters", host.adapters)?;
    dict.set_item("dropped", host.evictions)?;
    dict.set_item("hits", counts.hits)?;
    dict.set_item("misses", counts.misses)?;
    dict.set_item("evictions", counts.evictions)?;
    dict.set_item("waiting", tiers.queue.len())?;
    let page_locked = tiers.host.arena().page_locked();
    dict.set_item("page_locked", page_locked == Some(Ok(())))?;
    dict.set_item("not_locked", page_locked.and_then(Result::err))?;
    Ok(dict)
}
