//! The Python boundary of meteora-rs: wrappers, one error map, the torch op. No algorithms.
#![allow(missing_docs)] // What Python sees is documented in `_native.pyi`.

mod adapter;
mod buffers;
mod cuda;
mod devices;
mod errors;
mod gates;
mod kernel;
mod launch;
mod memory;
mod parsing;
mod plan;
mod records;
mod registry;
mod reservation;
mod tiers;
mod torch;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::adapter::{check_name, Adapter};
    #[pymodule_export]
    use super::cuda::{cuda_built, cuda_report, emulate_cuda};
    #[pymodule_export]
    use super::gates::{equal_gates, write_gates};
    #[pymodule_export]
    use super::kernel::SiteKernel;
    #[pymodule_export]
    use super::plan::{Hold, RoutePlan};
    #[pymodule_export]
    use super::registry::{Kept, Registry};
    #[pymodule_export]
    use super::reservation::{GateReservation, Reservation, Retired};
    #[pymodule_export]
    use super::tiers::{Arrivals, HostCopy, Ticket, Tiers};
    #[pymodule_export]
    use super::torch::op::register_torch_op;
    use pyo3::prelude::*;

    /// The instruction set that the CPU kernels use here.
    #[pyfunction]
    fn isa() -> &'static str {
        meteora_core::kernel::isa()
    }

    /// Whether this CPU has products of bf16 numbers.
    #[pyfunction]
    fn has_bf16_products() -> bool {
        meteora_core::kernel::has_bf16_products()
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add(
            "PAGE_BYTES_PER_COLUMN",
            meteora_core::layout::PAGE_BYTES_PER_COLUMN,
        )
    }
}
