//! An adapter packed for the host tier, with its gate rows.

use std::sync::{Arc, Mutex};

use meteora_core::kernel::arrow_row;
use meteora_core::peft::Module;
use meteora_core::tiers::host::Hosted;
use meteora_core::tiers::packed::{GateForm, Packed};
use pyo3::prelude::*;
use pyo3::types::PyByteArray;

use super::lock;
use crate::errors::raise;
use crate::gates::RowParts;

/// A packed adapter: about to be kept, or kept and held, so that it does not leave. See `_native.pyi`.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct HostCopy {
    pub(super) name: String,
    /// None once it is kept or abandoned.
    held: Mutex<Option<Held>>,
}

struct Held {
    hosted: Hosted,
    /// What its gate rows were taken from.
    rows_of: Option<Hosted>,
}

impl HostCopy {
    pub(super) fn new(name: &str, hosted: Hosted, rows_of: Option<Hosted>) -> HostCopy {
        HostCopy {
            name: name.to_owned(),
            held: Mutex::new(Some(Held { hosted, rows_of })),
        }
    }

    pub(super) fn hosted(&self) -> PyResult<Hosted> {
        let held = lock(&self.held);
        let gone = || raise("MeteoraError", "the copy is kept or abandoned already".to_owned());
        held.as_ref().map(|held| held.hosted.clone()).ok_or_else(gone)
    }

    /// None once it is kept or abandoned.
    pub(super) fn take(&self) -> Option<Hosted> {
        lock(&self.held).take().map(|held| held.hosted)
    }

    /// Whether the adapter that its gate rows were taken from, if any, is so; not once it is kept or abandoned.
    pub(super) fn rows_are(&self, current: impl Fn(&Hosted) -> bool) -> bool {
        let held = lock(&self.held);
        held.as_ref()
            .is_some_and(|held| held.rows_of.as_ref().is_none_or(current))
    }
}

/// (site, rank, scaling, element type, bytes of A `[rank, in]`, bytes of B transposed `[rank, out]`)
type ModuleParts<'py> = (
    usize,
    usize,
    f32,
    &'static str,
    Bound<'py, PyByteArray>,
    Bound<'py, PyByteArray>,
);

#[pymethods]
impl HostCopy {
    /// Lets go of its bytes at once, though a traceback may keep the object; nothing if it is kept.
    fn abandon(&self, py: Python<'_>) {
        py.detach(|| drop(self.take()));
    }

    /// Its modules, sites ascending.
    fn modules<'py>(&self, py: Python<'py>) -> PyResult<Vec<ModuleParts<'py>>> {
        let packed = self.hosted()?.packed;
        let parts = packed.modules().map(|module| {
            let bytes = |bytes: &[u8]| PyByteArray::new(py, bytes);
            let (a, b) = (bytes(module.a), bytes(module.b));
            (
                module.site,
                module.rank,
                module.scaling,
                module.dtype.name(),
                a,
                b,
            )
        });
        Ok(parts.collect())
    }

    /// For each site the bytes of its gate row, f32, and the bias.
    fn gates<'py>(&self, py: Python<'py>) -> PyResult<Vec<(Bound<'py, PyByteArray>, f32)>> {
        let packed = self.hosted()?.packed;
        let rows = py.detach(|| packed.gate_rows());
        let bytes = |row: &[f32]| {
            row.iter()
                .flat_map(|value| value.to_ne_bytes())
                .collect::<Vec<u8>>()
        };
        let parts = rows
            .iter()
            .map(|(row, form)| (PyByteArray::new(py, &bytes(row)), form.bias));
        Ok(parts.collect())
    }
}

/// What a gate row is made of while an adapter is packed.
pub(super) enum Rows {
    Zero,
    Arrow,
    Given(Vec<RowParts>),
    /// Those that the host has of an earlier generation.
    Kept(Arc<Packed>),
}

impl Rows {
    pub(super) fn write(&self, modules: &[Module], site: usize, row: &mut [f32]) -> GateForm {
        match self {
            Rows::Zero => GateForm::default(),
            Rows::Arrow => {
                if let Some(module) = modules.iter().find(|module| module.site == site) {
                    arrow_row(module, row);
                }
                GateForm {
                    bias: 0.0,
                    sign_free: true,
                }
            }
            Rows::Given(rows) => {
                let (address, bias, sign_free) = rows[site];
                // SAFETY: gate_kinds/tensors.py gives for each site the address of a contiguous CPU tensor of its input
                // width, and holds it during the call.
                row.copy_from_slice(unsafe { std::slice::from_raw_parts(address as *const f32, row.len()) });
                GateForm { bias, sign_free }
            }
            Rows::Kept(packed) => packed.gate(site, row),
        }
    }
}
