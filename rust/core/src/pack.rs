//! A module's rows as the pools hold them.

use crate::layout;
use crate::peft::{Adapter, Module};
use crate::transpose::transpose;

impl Adapter {
    /// Pages of the run that the adapter takes at every site: the most that one of its modules needs.
    pub fn pages(&self) -> usize {
        self.modules
            .iter()
            .map(|module| layout::pages(module.rank, module.dtype))
            .max()
            .unwrap_or(0)
    }
}

/// Writes a module's rank rows for both pools: see [`pack_lora_a`] and [`pack_lora_b`].
///
/// # Panics
/// As they do.
pub fn pack_module(module: &Module, a_out: &mut [u8], b_out: &mut [u8]) {
    pack_lora_a(module, a_out);
    pack_lora_b(module, b_out);
}

/// Writes the rank rows of A `[rank, in]`, as they are.
///
/// # Panics
/// If `out` is not `rank * in_features * dtype.size()` bytes.
pub fn pack_lora_a(module: &Module, out: &mut [u8]) {
    let bytes = module.rank * module.dtype.size() * module.in_features;
    assert_eq!(out.len(), bytes, "lora_A rows of {}", module.path);
    out.copy_from_slice(&module.a);
}

/// Writes the rank rows of B `[out, rank]`, transposed to `[rank, out]`.
///
/// # Panics
/// If `out` is not `rank * out_features * dtype.size()` bytes.
pub fn pack_lora_b(module: &Module, out: &mut [u8]) {
    let bytes = module.rank * module.dtype.size() * module.out_features;
    assert_eq!(out.len(), bytes, "lora_B rows of {}", module.path);
    transpose(module.dtype, &module.b, module.rank, out);
}
