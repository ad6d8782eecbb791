//! A site's buffers, bound by address, and the eager CPU path over them.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use meteora_core::arrow::arrow_row;
use meteora_core::kernel::{apply, gated_lora, Floats, FloatsMut, Selection, Site};
use meteora_core::layout::{TableEntry, KIND_ABS, PAGE_BYTES_PER_COLUMN};
use meteora_core::peft::Module;
use meteora_core::DType;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::adapter::Adapter;
use crate::errors::raise;
use crate::plan::RoutePlan;
use crate::registry::Registry;
use crate::torch::parallel::TorchPool;
use crate::torch::slices::{floats, floats_mut};

/// Tokens from which a call lets other Python threads run: below, the hand-over costs more than the work.
const DETACH_FROM: usize = 8;
/// Bytes of input up to which a group's selection is remembered.
const REMEMBER_UP_TO: usize = 8 << 20;

/// The addresses of a site's torch buffers.
#[derive(Clone, Copy)]
struct Buffers {
    gate: usize,
    gate_bias: usize,
    lora_a: usize,
    lora_b_packed: usize,
    table: usize,
}

/// See `_native.pyi`.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct SiteKernel {
    registry: u64,
    index: usize,
    group: usize,
    leads: bool,
    /// Whether the group's gate rows are equal for all live slots.
    shares_gate: AtomicBool,
    in_features: usize,
    out_features: usize,
    slots: usize,
    pages: usize,
    buffers: RwLock<Option<Buffers>>,
}

/// What this thread chose last: the next sites of the group take it over if their input is the same to the bit.
#[derive(Default)]
struct Last {
    of: Option<(u64, usize, u64, u8)>,
    x: Vec<u8>,
    selection: Selection,
}

thread_local! {
    static LAST: RefCell<Last> = RefCell::new(Last::default());
}

impl SiteKernel {
    fn bound(&self) -> Result<Buffers, String> {
        let buffers = *self.buffers.read().unwrap_or_else(PoisonError::into_inner);
        buffers.ok_or_else(|| format!("site {} has no buffers on the CPU", self.index))
    }

    fn site(&self, buffers: Buffers) -> Site<'_> {
        let pool = |width: usize| self.pages * PAGE_BYTES_PER_COLUMN * width;
        // SAFETY: `bind` was given the addresses of live torch buffers of exactly these sizes (see site.py, the
        // only caller), and is called again whenever they move; the torch module that holds them holds `self`.
        // Rows that a snapshot can reach are not written while it lives, so the shared slices stay unchanged
        // where the kernel reads them.
        unsafe {
            Site {
                in_features: self.in_features,
                out_features: self.out_features,
                slots: self.slots,
                gate: std::slice::from_raw_parts(buffers.gate as *const f32, self.slots * self.in_features),
                gate_bias: std::slice::from_raw_parts(buffers.gate_bias as *const f32, self.slots),
                lora_a: std::slice::from_raw_parts(buffers.lora_a as *const u8, pool(self.in_features)),
                lora_b_packed: std::slice::from_raw_parts(
                    buffers.lora_b_packed as *const u8,
                    pool(self.out_features),
                ),
                table: std::slice::from_raw_parts(buffers.table as *const TableEntry, self.slots),
            }
        }
    }

    fn entry_ptr(&self, buffers: Buffers, slot: usize) -> *mut TableEntry {
        assert!(slot < self.slots, "slot {slot} of {}", self.slots);
        (buffers.table as *mut TableEntry).wrapping_add(slot)
    }

    /// Makes `slot` an adapter that misses this site.
    pub fn clear_slot(&self, slot: usize, page_start: usize) -> Result<(), String> {
        let entry = self.entry_ptr(self.bound()?, slot);
        // SAFETY: inside the table (asserted); no snapshot names the slot, so nobody reads the entry now.
        unsafe { entry.write(TableEntry::new(page_start, 0, DType::F32, 0.0)) };
        Ok(())
    }

    /// Writes a module's rows and its entry.
    pub fn write_slot(
        &self,
        slot: usize,
        page_start: usize,
        module: &Module,
        pack: impl Fn(&Module, &mut [u8], &mut [u8]),
    ) -> Result<(), String> {
        let buffers = self.bound()?;
        let rows = |pool: usize, width: usize| {
            let start = page_start * PAGE_BYTES_PER_COLUMN * width;
            let len = module.rank * width * module.dtype.size();
            assert!(
                start + len <= self.pages * PAGE_BYTES_PER_COLUMN * width,
                "page {page_start}: {len} bytes"
            );
            // SAFETY: inside the pool (asserted); the rows belong to a reservation, so nobody reads them now.
            unsafe { std::slice::from_raw_parts_mut((pool + start) as *mut u8, len) }
        };
        pack(
            module,
            rows(buffers.lora_a, self.in_features),
            rows(buffers.lora_b_packed, self.out_features),
        );
        let entry = TableEntry::new(page_start, module.rank, module.dtype, module.scaling);
        // SAFETY: as in `clear_slot`.
        unsafe { self.entry_ptr(buffers, slot).write(entry) };
        Ok(())
    }

    fn run(
        &self,
        plan: &RoutePlan,
        x: Floats,
        x_code: u8,
        y: FloatsMut,
        pool: &TorchPool,
    ) -> Result<(), String> {
        let site = self.site(self.bound()?);
        LAST.with_borrow_mut(|last| {
            let of = (self.registry, self.group, plan.serial, x_code);
            let bytes = bytes_of(&x);
            if !self.leads
                && self.shares_gate.load(Ordering::Relaxed)
                && last.of == Some(of)
                && last.x == bytes
            {
                apply(&site, &last.selection, x, y, pool);
                return;
            }
            last.of = None;
            gated_lora(
                &site,
                &plan.routes(),
                x,
                y,
                &plan.options,
                pool,
                &mut last.selection,
            );
            if self.leads && self.shares_gate.load(Ordering::Relaxed) && bytes.len() <= REMEMBER_UP_TO {
                last.x.clear();
                last.x.extend_from_slice(bytes);
                last.of = Some(of);
            }
        });
        Ok(())
    }
}

#[pymethods]
impl SiteKernel {
    #[new]
    fn new(
        registry: &Registry,
        index: usize,
        group: usize,
        leads: bool,
        in_features: usize,
        out_features: usize,
    ) -> SiteKernel {
        SiteKernel {
            registry: registry.serial,
            index,
            group,
            leads,
            shares_gate: AtomicBool::new(false),
            in_features,
            out_features,
            slots: registry.slots(),
            pages: registry.pages(),
            buffers: RwLock::new(None),
        }
    }

    fn bind(&self, gate: usize, gate_bias: usize, lora_a: usize, lora_b_packed: usize, table: usize) {
        let buffers = Buffers {
            gate,
            gate_bias,
            lora_a,
            lora_b_packed,
            table,
        };
        *self.buffers.write().unwrap_or_else(PoisonError::into_inner) = Some(buffers);
    }

    fn unbind(&self) {
        *self.buffers.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    #[setter]
    fn set_shares_gate(&self, shares: bool) {
        self.shares_gate.store(shares, Ordering::Relaxed);
    }

    #[allow(clippy::too_many_arguments)]
    fn forward(
        &self,
        py: Python<'_>,
        plan: &RoutePlan,
        x: usize,
        y: usize,
        tokens: usize,
        x_dtype: u8,
        y_dtype: u8,
    ) -> PyResult<()> {
        let pool = TorchPool;
        // SAFETY: site.py passes the addresses of contiguous CPU tensors of these sizes and types, which it
        // holds during the call; y is the linear's fresh output, which nobody else has yet.
        let (x, y) = unsafe {
            (
                floats(x, tokens * self.in_features, x_dtype),
                floats_mut(y, tokens * self.out_features, y_dtype),
            )
        };
        let done = if tokens < DETACH_FROM {
            self.run(plan, x, x_dtype, y, &pool)
        } else {
            py.detach(|| self.run(plan, x, x_dtype, y, &pool))
        };
        done.map_err(|message| raise("MeteoraError", message))
    }

    /// What the last `forward` of this thread chose: (slots int32, weights float32), each `[tokens, stride]`.
    fn selection<'py>(&self, py: Python<'py>) -> (usize, Bound<'py, PyBytes>, Bound<'py, PyBytes>) {
        LAST.with_borrow(|last| {
            let chosen = &last.selection;
            let slots: Vec<u8> = chosen.slots.iter().flat_map(|slot| slot.to_ne_bytes()).collect();
            let weights: Vec<u8> = chosen
                .weights
                .iter()
                .flat_map(|weight| weight.to_ne_bytes())
                .collect();
            (
                chosen.stride,
                PyBytes::new(py, &slots),
                PyBytes::new(py, &weights),
            )
        })
    }

    /// Fills this site's gate row of `slot` with the adapter's arrow row, which is sign-free.
    fn write_arrow(&self, py: Python<'_>, adapter: &Adapter, slot: usize) -> PyResult<()> {
        let buffers = self.bound().map_err(|message| raise("MeteoraError", message))?;
        py.detach(|| {
            let entry = self.entry_ptr(buffers, slot);
            let start = buffers.gate + slot * self.in_features * size_of::<f32>();
            // SAFETY: row `slot` (asserted in range by `entry_ptr`) of the gate buffer; the slot is reserved, so nobody reads it.
            let row = unsafe { std::slice::from_raw_parts_mut(start as *mut f32, self.in_features) };
            match adapter
                .inner
                .modules
                .iter()
                .find(|module| module.site == self.index)
            {
                Some(module) => arrow_row(module, row),
                None => row.fill(0.0),
            }
            // SAFETY: as above, for the bias and the table's entry.
            unsafe {
                (buffers.gate_bias as *mut f32).add(slot).write(0.0);
                (*entry).kind |= KIND_ABS;
            }
        });
        Ok(())
    }
}

fn bytes_of<'a>(x: &Floats<'a>) -> &'a [u8] {
    let (start, len) = match x {
        Floats::F32(values) => (values.as_ptr().cast(), size_of_val(*values)),
        Floats::F16(values) | Floats::Bf16(values) => (values.as_ptr().cast(), size_of_val(*values)),
    };
    // SAFETY: the same memory, seen as bytes.
    unsafe { std::slice::from_raw_parts(start, len) }
}
