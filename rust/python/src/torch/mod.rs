//! Torch by its C shim: nothing of libtorch is linked.

mod arguments;
mod cpu;
pub mod cuda;
pub mod op;
pub mod parallel;
pub mod shim;
pub mod slices;
pub mod tensor;
