//! The eager paths over a site's buffers.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use meteora_core::kernel::{apply, gated_lora, screen_stride, Floats, FloatsMut, Selection};
use meteora_core::DType;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffers::{Buffers, Sizes};
use crate::cuda::{device_of, emulating};
use crate::devices::Devices;
use crate::errors::{caught, contained, raise};
use crate::launch::{add, Activations, Group, RouteAddresses};
use crate::memory::Memory;
use crate::plan::RoutePlan;
use crate::registry::Registry;
use crate::torch::cuda::Stream;
use crate::torch::parallel::TorchPool;
use crate::torch::slices::{floats, floats_mut};

/// Tokens from which a call lets other Python threads run: below, the hand-over costs more than the work.
const DETACH_FROM: usize = 8;
/// Bytes of input up to which a group's selection is remembered.
const REMEMBER_UP_TO: usize = 8 << 20;

/// See `_native.pyi`.
#[pyclass(frozen, module = "meteora_rs._native")]
pub struct SiteKernel {
    registry: u64,
    pub index: usize,
    group: usize,
    leads: bool,
    /// Whether the group's gate rows are equal for all live slots.
    shares_gate: AtomicBool,
    sizes: Sizes,
    buffers: RwLock<Option<Buffers>>,
    devices: Arc<Devices>,
    /// The other sites of the group, if this one leads it.
    followers: OnceLock<Vec<Py<SiteKernel>>>,
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
    /// The buffers; an error while they are neither on the CPU nor on a CUDA device.
    pub fn bound(&self) -> PyResult<Buffers> {
        let buffers = *self.buffers.read().unwrap_or_else(PoisonError::into_inner);
        let message = || {
            format!(
                "site {} has no buffers on the CPU or on one CUDA device",
                self.index
            )
        };
        buffers.ok_or_else(|| raise("MeteoraError", message()))
    }

    fn run(&self, buffers: &Buffers, plan: &RoutePlan, x: Floats, x_code: u8, y: FloatsMut) {
        let (site, pool) = (buffers.site(), &TorchPool);
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
            sizes: Sizes {
                in_features,
                out_features,
                slots: registry.slots(),
                pages: registry.pages(),
            },
            buffers: RwLock::new(None),
            devices: registry.devices.clone(),
            followers: OnceLock::new(),
        }
    }

    /// Bytes of a slot's screen row.
    #[getter]
    fn screen_stride(&self) -> usize {
        screen_stride(self.sizes.in_features)
    }

    #[allow(clippy::too_many_arguments)]
    fn bind(
        &self,
        py: Python<'_>,
        cuda: Option<i32>,
        gate: usize,
        gate_bias: usize,
        screen: usize,
        lora_a: usize,
        lora_b_packed: usize,
        table: usize,
    ) -> PyResult<()> {
        let index = if emulating() { Some(0) } else { cuda };
        let memory = match index {
            // Loads the kernels, if this is the first site there: not inside a request, or a graph's capture.
            Some(index) => {
                let device = py
                    .detach(|| device_of(index))
                    .map_err(|message| raise("MeteoraError", message))?;
                self.devices.add(device);
                Memory::Device(device)
            }
            None => Memory::Host,
        };
        let buffers = Buffers {
            sizes: self.sizes,
            memory,
            gate,
            gate_bias,
            screen,
            lora_a,
            lora_b_packed,
            table,
        };
        *self.buffers.write().unwrap_or_else(PoisonError::into_inner) = Some(buffers);
        Ok(())
    }

    /// Whether the buffers are a CUDA device's, so that `launch` serves, and not `forward`.
    #[getter]
    fn on_device(&self) -> bool {
        let buffers = self.buffers.read().unwrap_or_else(PoisonError::into_inner);
        buffers.is_some_and(|buffers| buffers.memory != Memory::Host)
    }

    /// Whether torch's current stream on the buffers' device is in the capture of a graph.
    fn is_capturing(&self) -> PyResult<bool> {
        match self.bound()?.memory {
            Memory::Host => Ok(false),
            Memory::Device(device) => Stream::current(device)
                .map(|stream| stream.capture.is_some())
                .map_err(|message| raise("MeteoraError", message)),
        }
    }

    fn unbind(&self) {
        *self.buffers.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Makes this the site that computes for `followers` what hangs on their common input; once.
    fn lead(&self, followers: Vec<Py<SiteKernel>>) {
        let _ = self.followers.set(followers);
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
        x_len: usize,
        x_dtype: u8,
        y_dtype: u8,
    ) -> PyResult<()> {
        let tokens = x_len / self.sizes.in_features;
        // SAFETY: routed_site.py passes the addresses of contiguous CPU tensors of these sizes and types, which it
        // holds during the call; y is the linear's fresh output, which nobody else has yet.
        let (x, y) = unsafe {
            (
                floats(x, tokens * self.sizes.in_features, x_dtype),
                floats_mut(y, tokens * self.sizes.out_features, y_dtype),
            )
        };
        let buffers = self.bound()?;
        let run = || self.run(&buffers, plan, x, x_dtype, y);
        if tokens < DETACH_FROM {
            caught(run)
        } else {
            contained(py, run)
        }
    }

    /// Adds the products on the buffers' device, on torch's current stream, and returns whether that was put into a
    /// graph; with `keep`, `selection` says what was chosen, when the device has come so far.
    #[allow(clippy::too_many_arguments)]
    fn launch(
        &self,
        py: Python<'_>,
        plan: &RoutePlan,
        routes: RouteAddresses,
        graph_routes: RouteAddresses,
        input: Option<(Bound<'_, PyAny>, u64)>,
        x: usize,
        y: usize,
        x_len: usize,
        x_dtype: u8,
        y_dtype: u8,
        keep: bool,
    ) -> PyResult<bool> {
        let buffers = self.bound()?;
        let (Memory::Device(device), Some(x_dtype), Some(y_dtype)) = (
            buffers.memory,
            DType::from_code(x_dtype),
            DType::from_code(y_dtype),
        ) else {
            return Err(raise("MeteoraError", "the buffers are on no device".to_owned()));
        };
        let mut members = vec![(self.index, buffers)];
        for follower in self.followers.get().into_iter().flatten() {
            let follower = follower.bind(py).get();
            members.push((follower.index, follower.bound()?));
        }
        let group = Group {
            members: &members,
            shares_gate: self.shares_gate.load(Ordering::Relaxed),
        };
        let activations = Activations {
            x,
            y,
            tokens: x_len / self.sizes.in_features,
            x_dtype,
            y_dtype,
            input,
        };
        let launched = || {
            LAST.with_borrow_mut(|last| {
                last.of = None;
                let chosen = keep.then_some(&mut last.selection);
                // SAFETY: routed_site.py passes the addresses of contiguous tensors of these sizes and types on the
                // device, which it holds during the call; torch frees their memory behind it. y is the linear's fresh
                // output.
                unsafe { add(device, &group, plan, routes, graph_routes, &activations, chosen) }
            })
        };
        caught(launched)?.map_err(|message| raise("MeteoraError", message))
    }

    /// What the last `forward` of this thread, or `launch` that was to keep it, chose: (slots int32, weights float32),
    /// each `[tokens, stride]`.
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
}

fn bytes_of<'a>(x: &Floats<'a>) -> &'a [u8] {
    let (start, len) = match x {
        Floats::F32(values) => (values.as_ptr().cast(), size_of_val(*values)),
        Floats::F16(values) | Floats::Bf16(values) => (values.as_ptr().cast(), size_of_val(*values)),
    };
    // SAFETY: the same memory, seen as bytes.
    unsafe { std::slice::from_raw_parts(start, len) }
}
