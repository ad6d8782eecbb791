//! CUDA devices, as Python sees them, and the emulation of one in tests.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use meteora_cuda::{
    built, compiler, device, device_count, driver, emulated, sizes, source_hash, CudaError, Device,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::raise;

/// Whether CPU tensors go through the CUDA path.
static EMULATING: AtomicBool = AtomicBool::new(false);

/// The number of the emulated device's current stream.
static STREAM: AtomicUsize = AtomicUsize::new(0);

/// Whether tensors on the CPU are those of an emulated device.
pub fn emulating() -> bool {
    EMULATING.load(Ordering::Relaxed)
}

/// The current stream of the emulated device.
pub fn emulated_stream() -> *mut c_void {
    std::ptr::without_provenance_mut(STREAM.load(Ordering::Relaxed))
}

/// The device with this index.
pub fn device_of(index: i32) -> Result<&'static Device, String> {
    device(if emulating() { 0 } else { index }).map_err(|error| error.to_string())
}

/// The exception for what went wrong with a device.
pub fn to_py(error: CudaError) -> PyErr {
    raise("MeteoraError", error.to_string())
}

/// See `_native.pyi`.
#[pyfunction]
pub fn cuda_built() -> bool {
    built()
}

/// See `_native.pyi`.
#[pyfunction]
#[pyo3(signature = (on, stream=0))]
pub fn emulate_cuda(on: bool, stream: usize) -> PyResult<()> {
    if on {
        driver().map_err(to_py)?;
        if !emulated() {
            let message = "the CUDA driver is no emulator: METEORA_LIBCUDA must name that of the tests";
            return Err(raise("MeteoraError", message.to_owned()));
        }
        device(0).map_err(to_py)?;
    }
    EMULATING.store(on, Ordering::Relaxed);
    STREAM.store(stream, Ordering::Relaxed);
    Ok(())
}

/// See `_native.pyi`.
#[pyfunction]
pub fn cuda_report(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let report = PyDict::new(py);
    report.set_item("compiler", compiler())?;
    report.set_item("source_hash", source_hash())?;
    let images: Vec<(String, usize, usize)> = sizes()
        .map(|(image, embedded)| {
            let kind = if image.ptx { "compute" } else { "sm" };
            (
                format!("{} {kind}_{}", image.source, image.arch),
                image.bytes,
                embedded,
            )
        })
        .collect();
    report.set_item("images", images)?;
    let found = driver().and_then(|driver| device_count().map(|count| (driver, count)));
    let (driver, count) = match found {
        Ok(found) => found,
        Err(error) => {
            report.set_item("problem", error.to_string())?;
            return Ok(report);
        }
    };
    report.set_item("library", &driver.library)?;
    report.set_item(
        "driver",
        format!("{}.{}", driver.version / 1000, driver.version % 1000 / 10),
    )?;
    let mut devices = Vec::new();
    for ordinal in 0..count {
        let entry = PyDict::new(py);
        match py.detach(|| device(ordinal as i32)) {
            Ok(device) => {
                entry.set_item("name", &device.name)?;
                entry.set_item("capability", device.capability)?;
                entry.set_item("multiprocessors", device.multiprocessors)?;
                let kind = if device.choice.ptx { "compute" } else { "sm" };
                entry.set_item("image", format!("{kind}_{}", device.choice.arch))?;
            }
            Err(error) => entry.set_item("problem", error.to_string())?,
        }
        devices.push(entry);
    }
    report.set_item("devices", devices)?;
    Ok(report)
}
