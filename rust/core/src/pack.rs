//! A module's rows as the pools hold them.

use crate::dtype::DType;
use crate::layout;
use crate::peft::{Adapter, Module};

/// Rows of B transposed at a time: at rank 16 in f32, 4 KiB of input, which stays in the first cache.
const BLOCK: usize = 64;

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
    match module.dtype {
        DType::F32 => transpose::<4>(&module.b, module.rank, out),
        DType::F16 | DType::BF16 => transpose::<2>(&module.b, module.rank, out),
    }
}

/// `[rows, columns]` to `[columns, rows]`, elements of `N` bytes.
fn transpose<const N: usize>(from: &[u8], columns: usize, to: &mut [u8]) {
    let rows = from.len() / (N * columns);
    for (index, block) in from.chunks(BLOCK * columns * N).enumerate() {
        for column in 0..columns {
            let start = (column * rows + index * BLOCK) * N;
            let length = block.len() / columns;
            let out = to[start..start + length].chunks_exact_mut(N);
            for (out, row) in out.zip(block.chunks_exact(columns * N)) {
                out.copy_from_slice(&row[column * N..column * N + N]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_every_size() {
        for rows in [1, 2, BLOCK - 1, BLOCK, 2 * BLOCK + 5, 133] {
            for columns in [1, 3, 8, 64] {
                let from: Vec<u8> = (0..rows * columns)
                    .flat_map(|x| (x as u32).to_le_bytes())
                    .collect();
                let mut to = vec![0; from.len()];
                transpose::<4>(&from, columns, &mut to);
                for (place, x) in to.chunks_exact(4).enumerate() {
                    let (column, row) = (place / rows, place % rows);
                    assert_eq!(
                        x,
                        ((row * columns + column) as u32).to_le_bytes(),
                        "{rows} x {columns}"
                    );
                }
            }
        }
    }
}
