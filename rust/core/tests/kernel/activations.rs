//! Inputs and outputs as the kernels take them.

use meteora_core::kernel::{Floats, FloatsMut};
use meteora_core::DType;

/// Aligned activations of one dtype, from and to bytes.
pub enum Activations {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Bf16(Vec<u16>),
}

impl Activations {
    pub fn of(dtype: DType, bytes: &[u8]) -> Activations {
        let halves = || {
            bytes
                .chunks_exact(2)
                .map(|b| u16::from_le_bytes(b.try_into().unwrap()))
                .collect()
        };
        match dtype {
            DType::F32 => Activations::F32(
                bytes
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                    .collect(),
            ),
            DType::F16 => Activations::F16(halves()),
            DType::BF16 => Activations::Bf16(halves()),
        }
    }
    pub fn floats(&self) -> Floats<'_> {
        match self {
            Activations::F32(values) => Floats::F32(values),
            Activations::F16(values) => Floats::F16(values),
            Activations::Bf16(values) => Floats::Bf16(values),
        }
    }
    pub fn floats_mut(&mut self) -> FloatsMut<'_> {
        match self {
            Activations::F32(values) => FloatsMut::F32(values),
            Activations::F16(values) => FloatsMut::F16(values),
            Activations::Bf16(values) => FloatsMut::Bf16(values),
        }
    }
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Activations::F32(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Activations::F16(values) | Activations::Bf16(values) => {
                values.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
        }
    }
}
