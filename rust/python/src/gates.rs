//! Gate rows of a slot, at all sites in one call and without the GIL.

use meteora_core::arrow::arrow_row;
use meteora_core::peft::Module;
use pyo3::prelude::*;

use crate::adapter::Adapter;
use crate::buffers::Buffers;
use crate::errors::{contained, raise};
use crate::kernel::SiteKernel;

/// (address of `in_features` f32, bias, whether the row is sign-free), as gates/tensors.py gives it.
pub type RowParts = (usize, f32, bool);

/// Where the rows of a slot come from.
enum Source<'a> {
    Rows(Vec<RowParts>),
    Arrow(&'a Adapter),
    Zero,
}

fn bound(kernels: &[PyRef<'_, SiteKernel>]) -> PyResult<Vec<(usize, Buffers)>> {
    kernels
        .iter()
        .map(|kernel| Ok((kernel.index, kernel.bound()?)))
        .collect()
}

/// Fills the gate row of `slot` at each site: with `rows`, one for each; without, with the arrow rows of `adapter`,
/// which are sign-free; without either, with zeros. `like`: a slot whose table entries are copied first; `clear`:
/// the slot is that of the base, which has no rank rows.
#[pyfunction]
#[pyo3(signature = (kernels, slot, rows=None, adapter=None, like=None, clear=false))]
pub fn write_gates(
    py: Python<'_>,
    kernels: Vec<PyRef<'_, SiteKernel>>,
    slot: usize,
    rows: Option<Vec<RowParts>>,
    adapter: Option<&Adapter>,
    like: Option<usize>,
    clear: bool,
) -> PyResult<()> {
    let sites = bound(&kernels)?;
    let source = match (rows, adapter) {
        (Some(rows), _) if rows.len() != sites.len() => {
            let message = format!("{} gate rows for {} sites", rows.len(), sites.len());
            return Err(raise("MeteoraError", message));
        }
        (Some(rows), _) => Source::Rows(rows),
        (None, Some(adapter)) => Source::Arrow(adapter),
        (None, None) => Source::Zero,
    };
    contained(py, || {
        for (place, (index, site)) in sites.iter().enumerate() {
            if let Some(like) = like {
                site.copy_entry(like, slot);
            }
            if clear {
                site.clear_slot(slot, 0);
            }
            match &source {
                Source::Rows(rows) => {
                    let (from, bias, sign_free) = rows[place];
                    site.write_gate(slot, bias, sign_free, |to| {
                        // SAFETY: gates/tensors.py passes the address of a contiguous CPU tensor of this size, and
                        // holds it during the call.
                        let from = unsafe { std::slice::from_raw_parts(from as *const f32, to.len()) };
                        to.copy_from_slice(from);
                    });
                }
                Source::Arrow(adapter) => write_arrow(site, slot, adapter, *index),
                Source::Zero => site.write_gate(slot, 0.0, false, |to| to.fill(0.0)),
            }
        }
    })
}

fn write_arrow(site: &Buffers, slot: usize, adapter: &Adapter, index: usize) {
    let module: Option<&Module> = adapter.inner.modules.iter().find(|module| module.site == index);
    site.write_gate(slot, 0.0, true, |to| match module {
        Some(module) => arrow_row(module, to),
        None => to.fill(0.0),
    });
}

/// For each group of sites, whether the gate of `slot` is the same at all of them, to the bit.
#[pyfunction]
pub fn equal_gates(
    py: Python<'_>,
    groups: Vec<Vec<PyRef<'_, SiteKernel>>>,
    slot: usize,
) -> PyResult<Vec<bool>> {
    let groups = groups
        .iter()
        .map(|group| bound(group))
        .collect::<PyResult<Vec<_>>>()?;
    Ok(py.detach(|| {
        let equal = |group: &Vec<(usize, Buffers)>| {
            group[1..]
                .iter()
                .all(|(_, site)| group[0].1.same_gate(site, slot))
        };
        groups.iter().map(equal).collect()
    }))
}
