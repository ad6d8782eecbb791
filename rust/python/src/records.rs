//! The registry's reports as Python dicts.

use meteora_core::registry::{AdapterInfo, AdapterRecord, GateKind, RegistryStats, Usage};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::raise;

/// The gate kind of this name.
pub fn gate_kind(name: &str) -> PyResult<GateKind> {
    [
        GateKind::None,
        GateKind::Arrow,
        GateKind::Tensors,
        GateKind::Fitted,
        GateKind::Examples,
    ]
    .into_iter()
    .find(|kind| kind.name() == name)
    .ok_or_else(|| raise("MeteoraError", format!("no gate of kind {name:?}")))
}

/// A record as `meteora_rs.meteora.AdapterRecord` takes it.
pub fn record<'py>(py: Python<'py>, record: &AdapterRecord) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("name", &record.name)?;
    dict.set_item("id", record.id.0)?;
    dict.set_item("generation", record.generation)?;
    dict.set_item("weights", record.weights)?;
    dict.set_item("slot", record.slot)?;
    dict.set_item("pinned", record.pinned)?;
    dict.set_item("kept", record.kept)?;
    describe(&dict, &record.info)?;
    Ok(dict)
}

/// The part of a record that an adapter has wherever it is.
pub fn info<'py>(py: Python<'py>, info: &AdapterInfo) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    describe(&dict, info)?;
    Ok(dict)
}

fn describe(dict: &Bound<'_, PyDict>, info: &AdapterInfo) -> PyResult<()> {
    dict.set_item("rank", info.rank)?;
    dict.set_item("dtype", info.dtype.name())?;
    dict.set_item("bytes", info.bytes)?;
    dict.set_item("sites", info.sites)?;
    dict.set_item("gate", info.gate.name())?;
    dict.set_item("routable", info.is_routable())?;
    dict.set_item("source", &info.source)
}

/// Slots, rank rows and pages, each with its use.
pub fn stats<'py>(py: Python<'py>, stats: &RegistryStats) -> PyResult<Bound<'py, PyDict>> {
    let usage = |usage: &Usage| -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("total", usage.total)?;
        dict.set_item("live", usage.live)?;
        dict.set_item("pending", usage.pending)?;
        dict.set_item("held", usage.held)?;
        dict.set_item("free", usage.free)?;
        dict.set_item("pinned", usage.pinned)?;
        Ok(dict)
    };
    let dict = PyDict::new(py);
    dict.set_item("version", stats.version)?;
    dict.set_item("readers", stats.readers)?;
    dict.set_item("slots", usage(&stats.slots)?)?;
    dict.set_item("rank_rows", usage(&stats.rank_rows)?)?;
    dict.set_item("pages", stats.pages)?;
    dict.set_item("free_pages", stats.free_pages)?;
    dict.set_item("largest_run_pages", stats.largest_run_pages)?;
    dict.set_item("touched_pages", stats.touched_pages)?;
    Ok(dict)
}
