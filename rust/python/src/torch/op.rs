//! `meteora_rs::gated_lora`, registered with torch for CPU and CUDA through the C shim.

use std::ffi::{c_char, c_void, CString};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

use pyo3::prelude::*;

use super::arguments::Arguments;
use super::shim::{self, Kernel, Shim, Tensor};
use super::tensor::Owned;
use super::{cpu, cuda};
use crate::cuda::emulating;
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
    let (namespace, file, name) = (text("meteora_rs"), text(file!()), text("gated_lora"));
    let schema = text(SCHEMA);
    let mut library: *mut c_void = std::ptr::null_mut();
    // SAFETY: C strings and out-pointers as the header declares them. The libraries are never deleted: they
    // live as long as the process, like the op.
    let mut status = unsafe {
        (shim.library_fragment)(namespace.as_ptr(), file.as_ptr(), line!(), &mut library)
            | (shim.define)(library, schema.as_ptr())
    };
    let kernels: [(&str, Kernel); 2] = [("CPU", on_cpu), ("CUDA", on_cuda)];
    for (key, kernel) in kernels {
        let key = text(key);
        // SAFETY: as above.
        status |= unsafe {
            (shim.library_impl)(
                namespace.as_ptr(),
                key.as_ptr(),
                file.as_ptr(),
                line!(),
                &mut library,
            ) | (shim.implement)(library, name.as_ptr(), kernel)
        };
    }
    status
}

/// What makes the output from the arguments.
type Compute = fn(&'static Shim, &Arguments) -> Result<Tensor, String>;

/// # Safety
/// Called by torch's dispatcher with the arguments of [`SCHEMA`].
unsafe extern "C-unwind" fn on_cpu(stack: *mut u64, inputs: u64, _outputs: u64) {
    let compute = if emulating() { cuda::compute } else { cpu::compute };
    // SAFETY: the caller's promise.
    unsafe { kernel(stack, inputs, compute) };
}

/// # Safety
/// Called by torch's dispatcher with the arguments of [`SCHEMA`].
unsafe extern "C-unwind" fn on_cuda(stack: *mut u64, inputs: u64, _outputs: u64) {
    // SAFETY: the caller's promise.
    unsafe { kernel(stack, inputs, cuda::compute) };
}

/// Takes the arguments off the stack and leaves the result there.
///
/// # Safety
/// As [`on_cpu`].
unsafe fn kernel(stack: *mut u64, inputs: u64, compute: Compute) {
    let Some(shim) = shim::get() else { return };
    // SAFETY: the dispatcher gives `inputs` values.
    let arguments = unsafe { std::slice::from_raw_parts(stack, inputs as usize) };
    let tensors: Vec<Owned> = arguments[..TENSORS]
        .iter()
        .map(|&handle| Owned(shim, handle as Tensor))
        .collect();
    let (top_k, temperature) = (arguments[TENSORS] as i64, f64::from_bits(arguments[TENSORS + 1]));
    let done = catch_unwind(AssertUnwindSafe(|| {
        let arguments = Arguments::new(shim, &tensors, top_k, temperature)?;
        compute(shim, &arguments)
    }));
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
