//! An adapter packed for the host tier, with its gate rows.

use std::sync::{Arc, Mutex};

use meteora_core::arrow::arrow_row;
use meteora_core::peft::Module;
use meteora_core::tiers::host::Hosted;
use meteora_core::tiers::packed::{GateForm, Packed};
use pyo3::prelude::*;

use crate::gates::RowParts;

/// An adapter that has been packed and is not kept yet. See `_native.pyi`.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct HostCopy {
    pub(crate) name: String,
    pub(crate) hosted: Mutex<Option<Hosted>>,
}

/// What a gate row is made of while an adapter is packed.
pub(crate) enum Rows {
    Zero,
    Arrow,
    Given(Vec<RowParts>),
    /// Those that the host has of an earlier generation.
    Kept(Arc<Packed>),
}

impl Rows {
    pub(crate) fn write(&self, modules: &[Module], site: usize, row: &mut [f32]) -> GateForm {
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
                // SAFETY: gates/tensors.py gives for each site the address of a contiguous CPU tensor of its input
                // width, and holds it during the call.
                row.copy_from_slice(unsafe { std::slice::from_raw_parts(address as *const f32, row.len()) });
                GateForm { bias, sign_free }
            }
            Rows::Kept(packed) => packed.gate(site, row),
        }
    }
}
