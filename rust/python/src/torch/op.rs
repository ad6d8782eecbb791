//! `meteora_rs::gated_lora` on the CPU, registered with torch through the C shim.

use std::ffi::{c_char, c_void, CString};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

use meteora_core::kernel::{gated_lora, Options, Routes, Selection, Site};
use meteora_core::layout::{route_width, TableEntry};
use pyo3::prelude::*;

use super::parallel::TorchPool;
use super::shim::{self, Shim, Tensor};
use super::slices::{floats, floats_mut, slice};
use super::tensor::{empty_like, Owned, View};
use crate::errors::raise;

const SCHEMA: &str = "gated_lora(Tensor base, Tensor x, Tensor gate, Tensor gate_bias, Tensor lora_A, \
                      Tensor lora_B_packed, Tensor table, Tensor row_route, Tensor routes, int top_k, \
                      float temperature) -> Tensor";
/// Tensors among the op's arguments; they come first.
const TENSORS: usize = 9;

/// See `_native.pyi`.
#[pyfunction]
pub fn register_torch_op(torch_init: &str) -> PyResult<()> {
    static ONCE: Once = Once::new();
    let shim = shim::load(torch_init).map_err(|message| raise("MeteoraError", message))?;
    let mut status = 0;
    ONCE.call_once(|| status = register(shim));
    match status {
        0 => Ok(()),
        _ => Err(raise(
            "MeteoraError",
            "torch refused to register meteora_rs::gated_lora".to_owned(),
        )),
    }
}

fn register(shim: &Shim) -> i32 {
    let text = |text: &str| CString::new(text).unwrap_or_default();
    let (namespace, file, schema) = (text("meteora_rs"), text(file!()), text(SCHEMA));
    let (key, name) = (text("CPU"), text("gated_lora"));
    let mut library: *mut c_void = std::ptr::null_mut();
    // SAFETY: C strings and out-pointers as the header declares them. The libraries are never deleted: they
    // live as long as the process, like the op.
    unsafe {
        (shim.library_fragment)(namespace.as_ptr(), file.as_ptr(), line!(), &mut library)
            | (shim.define)(library, schema.as_ptr())
            | (shim.library_impl)(
                namespace.as_ptr(),
                key.as_ptr(),
                file.as_ptr(),
                line!(),
                &mut library,
            )
            | (shim.implement)(library, name.as_ptr(), kernel)
    }
}

/// The kernel: takes its arguments off the stack and leaves the result there.
///
/// # Safety
/// Called by torch's dispatcher with the arguments of [`SCHEMA`].
unsafe extern "C-unwind" fn kernel(stack: *mut u64, inputs: u64, _outputs: u64) {
    let Some(shim) = shim::get() else { return };
    // SAFETY: the dispatcher gives `inputs` values.
    let arguments = unsafe { std::slice::from_raw_parts(stack, inputs as usize) };
    let tensors: Vec<Owned> = arguments[..TENSORS]
        .iter()
        .map(|&handle| Owned(shim, handle as Tensor))
        .collect();
    let (top_k, temperature) = (arguments[TENSORS] as i64, f64::from_bits(arguments[TENSORS + 1]));
    let done = catch_unwind(AssertUnwindSafe(|| compute(shim, &tensors, top_k, temperature)));
    drop(tensors);
    let message = match done {
        Ok(Ok(out)) => {
            // SAFETY: the stack has room for the one output.
            unsafe { *stack = out as u64 };
            return;
        }
        Ok(Err(message)) => message,
        Err(_) => "a size, a route record or a table entry is out of range".to_owned(),
    };
    let text = CString::new(format!("meteora_rs::gated_lora: {message}")).unwrap_or_default();
    let place: *const c_char = c"gated_lora".as_ptr();
    // SAFETY: C strings; the C++ exception passes through this frame, which "C-unwind" allows.
    unsafe { (shim.check_fail)(place, place, line!(), text.as_ptr()) };
}

fn compute(shim: &'static Shim, tensors: &[Owned], top_k: i64, temperature: f64) -> Result<Tensor, String> {
    let views: Vec<View> = tensors.iter().map(View::of).collect();
    let [base, x, gate, gate_bias, lora_a, lora_b, table, row_route, routes] = &views[..] else {
        return Err("nine tensors are needed".to_owned());
    };
    // SAFETY: functions without arguments.
    let (float32, int32, uint8) = unsafe { ((shim.float32)(), (shim.int32)(), (shim.uint8)()) };
    let require = |holds: bool, message: &str| if holds { Ok(()) } else { Err(message.to_owned()) };
    let (in_features, out_features) = (width(x, "x")?, width(base, "base")?);
    let slots = gate.sizes.first().copied().unwrap_or(0);
    require(
        x.sizes[..x.sizes.len() - 1] == base.sizes[..base.sizes.len() - 1],
        "x and base differ in shape",
    )?;
    require(
        gate.sizes == [slots, in_features] && gate.dtype == float32,
        "gate must be [slots, in] float32",
    )?;
    require(
        gate_bias.sizes == [slots] && gate_bias.dtype == float32,
        "gate_bias must be [slots] float32",
    )?;
    require(
        table.sizes == [slots, 4] && table.dtype == int32,
        "table must be [slots, 4] int32",
    )?;
    require(
        lora_a.dtype == uint8 && lora_b.dtype == uint8,
        "lora_A and lora_B_packed must be uint8",
    )?;
    require(
        row_route.sizes.len() == 1 && row_route.len() > 0,
        "row_route must be [n], n > 0",
    )?;
    require(
        routes.sizes.len() == 2 && routes.sizes[1] == route_width(slots as usize) as i64,
        "routes must be [R, 2 + 2 * slots]",
    )?;
    require(
        row_route.dtype == int32 && routes.dtype == int32,
        "row_route and routes must be int32",
    )?;
    require(
        top_k >= 1 && temperature as f32 > 0.0,
        "top_k must be at least 1, temperature above 0",
    )?;
    let state = [gate, gate_bias, lora_a, lora_b, table, row_route, routes];
    require(
        state.iter().all(|view| view.is_contiguous()),
        "gates, pools, table and routes must be contiguous",
    )?;

    let (x_code, base_code) = (code(shim, x.dtype)?, code(shim, base.dtype)?);
    let out = empty_like(shim, base)?;
    let out_view = View::of(&out);
    let strided_x = (!x.is_contiguous()).then(|| x.gather(element_size(x_code)));
    let strided_base = (!base.is_contiguous()).then(|| base.gather(element_size(base_code)));
    let x_address = strided_x
        .as_ref()
        .map_or(x.address, |bytes| bytes.as_ptr() as usize);
    let base_address = strided_base
        .as_ref()
        .map_or(base.address, |bytes| bytes.as_ptr() as usize);
    let base_bytes = base.len() * element_size(base_code);
    // SAFETY: contiguous CPU tensors, whose sizes and types were checked above and which the dispatcher's
    // caller holds; `out` is new, so nobody else has it, and does not overlap `base`.
    unsafe {
        std::ptr::copy_nonoverlapping(base_address as *const u8, out_view.address as *mut u8, base_bytes);
        let site = Site {
            in_features: in_features as usize,
            out_features: out_features as usize,
            slots: slots as usize,
            gate: slice(gate.address, gate.len()),
            gate_bias: slice(gate_bias.address, gate_bias.len()),
            screen: None,
            lora_a: slice(lora_a.address, lora_a.len()),
            lora_b_packed: slice(lora_b.address, lora_b.len()),
            table: slice::<TableEntry>(table.address, slots as usize),
        };
        let routes = Routes {
            row_route: slice(row_route.address, row_route.len()),
            records: slice(routes.address, routes.len()),
            width: routes.sizes[1] as usize,
        };
        // Counts and top_k are places for each token: unchecked, they could ask for more memory than there is.
        let mut counts = routes.records.chunks_exact(routes.width).map(|record| record[1]);
        require(
            counts.all(|count| (0..=slots).contains(&i64::from(count))),
            "the count of a route record must be 0 to slots",
        )?;
        let options = Options {
            top_k: (top_k as usize).min(slots as usize),
            temperature: temperature as f32,
        };
        let x = floats(x_address, x.len(), x_code);
        let y = floats_mut(out_view.address, base.len(), base_code);
        gated_lora(
            &site,
            &routes,
            x,
            y,
            &options,
            &TorchPool,
            &mut Selection::default(),
        );
    }
    let handle = out.1;
    std::mem::forget(out);
    Ok(handle)
}

fn width(view: &View, name: &str) -> Result<i64, String> {
    view.sizes
        .last()
        .copied()
        .ok_or_else(|| format!("{name} must have at least one dimension"))
}

fn element_size(code: u8) -> usize {
    if code == 0 {
        4
    } else {
        2
    }
}

/// Our code of a torch dtype.
fn code(shim: &Shim, dtype: i32) -> Result<u8, String> {
    // SAFETY: functions without arguments.
    let known = unsafe { [(shim.float32)(), (shim.float16)(), (shim.bfloat16)()] };
    let found = known.iter().position(|&one| one == dtype);
    found
        .map(|code| code as u8)
        .ok_or_else(|| "x and base must be float32, float16 or bfloat16".to_owned())
}
