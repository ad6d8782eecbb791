//! Addresses of tensors as typed slices.

use meteora_core::kernel::{Floats, FloatsMut};

/// # Safety
/// `address` is that of `len` elements of the type with code `dtype` (0 f32, 1 f16, else bf16), alive and
/// unchanged for `'a`.
pub unsafe fn floats<'a>(address: usize, len: usize, dtype: u8) -> Floats<'a> {
    // SAFETY: the caller's promise.
    unsafe {
        match dtype {
            0 => Floats::F32(slice(address, len)),
            1 => Floats::F16(slice(address, len)),
            _ => Floats::Bf16(slice(address, len)),
        }
    }
}

/// # Safety
/// As [`floats`], and nobody else reads or writes the elements for `'a`.
pub unsafe fn floats_mut<'a>(address: usize, len: usize, dtype: u8) -> FloatsMut<'a> {
    // SAFETY: the caller's promise.
    unsafe {
        match dtype {
            0 => FloatsMut::F32(slice_mut(address, len)),
            1 => FloatsMut::F16(slice_mut(address, len)),
            _ => FloatsMut::Bf16(slice_mut(address, len)),
        }
    }
}

/// A slice at `address`; an empty tensor may have the address 0.
///
/// # Safety
/// `len` elements of `T` live at `address`, unchanged for `'a`.
pub unsafe fn slice<'a, T>(address: usize, len: usize) -> &'a [T] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(address as *const T, len) }
}

/// # Safety
/// As [`slice`], and nobody else reads or writes the elements for `'a`.
unsafe fn slice_mut<'a, T>(address: usize, len: usize) -> &'a mut [T] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(address as *mut T, len) }
}
