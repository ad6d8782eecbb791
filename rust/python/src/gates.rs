//! Gate rows of a slot, at all sites in one call and without the GIL.

use meteora_core::kernel::arrow_row;
use meteora_core::peft::Module;
use pyo3::prelude::*;

use crate::adapter::Adapter;
use crate::buffers::Buffers;
use crate::cuda::to_py;
use crate::errors::{contained, raise};
use crate::kernel::SiteKernel;
use crate::memory::finish;

/// (address of `in_features` f32, bias, whether the row is sign-free), as gate_kinds/tensors.py gives it.
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
            let writer = &mut site.memory.writer()?;
            if let Some(like) = like {
                site.copy_entry(writer, like, slot)?;
            }
            if clear {
                site.clear_slot(writer, slot, 0)?;
            }
            match &source {
                Source::Rows(rows) => {
                    let (from, bias, sign_free) = rows[place];
                    // SAFETY: gate_kinds/ passes the address of a contiguous CPU tensor of this size, and holds it
                    // during the call.
                    let row =
                        unsafe { std::slice::from_raw_parts(from as *const f32, site.sizes.in_features) };
                    site.write_gate(writer, slot, row, bias, sign_free)?;
                }
                Source::Arrow(adapter) => {
                    let row = arrow(site, adapter, *index);
                    site.write_gate(writer, slot, &row, 0.0, true)?;
                }
                Source::Zero => {
                    site.write_gate(writer, slot, &vec![0.0; site.sizes.in_features], 0.0, false)?;
                }
            }
        }
        finish(sites.iter().map(|(_, site)| site.memory))
    })?
    .map_err(to_py)
}

fn arrow(site: &Buffers, adapter: &Adapter, index: usize) -> Vec<f32> {
    let module: Option<&Module> = adapter.inner.modules.iter().find(|module| module.site == index);
    let mut row = vec![0.0; site.sizes.in_features];
    if let Some(module) = module {
        arrow_row(module, &mut row);
    }
    row
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
    py.detach(|| {
        let equal = |group: &Vec<(usize, Buffers)>| {
            for (_, site) in &group[1..] {
                if !group[0].1.same_gate(site, slot)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        groups.iter().map(equal).collect::<Result<_, _>>()
    })
    .map_err(to_py)
}
