//! Eight f32 lanes: the one unit of arithmetic of all kernels.
//!
//! A dot product is one such accumulator, reduced by one tree, on every path; that makes a token's bits
//! independent of tiling, batch and threads. Kernels are written once over [`Lane`].

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::Avx2;

/// Lanes in a vector.
pub(super) const LANES: usize = 8;
/// Ints that [`Lane::add_int_products`] takes at once.
pub(super) const STEP: usize = 16;

/// Eight f32 lanes of one instruction set.
///
/// # Safety
/// All methods: the CPU has the implementation's instruction set ([`super::isa::dispatch`] sees to it), and
/// pointers are good for eight elements, of any alignment.
pub(super) trait Lane: Copy {
    /// All lanes zero.
    unsafe fn zero() -> Self;
    /// All lanes `value`.
    unsafe fn splat(value: f32) -> Self;
    /// Eight f32.
    unsafe fn load_f32(from: *const f32) -> Self;
    /// Eight binary16, widened exactly.
    unsafe fn load_f16(from: *const u16) -> Self;
    /// Eight bfloat16, widened exactly.
    unsafe fn load_bf16(from: *const u16) -> Self;
    /// Writes eight f32.
    unsafe fn store_f32(self, to: *mut f32);
    /// Writes eight binary16, rounded to nearest even.
    unsafe fn store_f16(self, to: *mut u16);
    /// Writes eight bfloat16, rounded to nearest even.
    unsafe fn store_bf16(self, to: *mut u16);
    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// `self + a * b`, rounded once where the instruction set can.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// The sum by a fixed tree: `((l0+l4) + (l2+l6)) + ((l1+l5) + (l3+l7))`.
    unsafe fn sum(self) -> f32;

    /// Eight int32 sums; exact, so in no set order.
    type Sums: Copy;
    /// All zero.
    unsafe fn no_sums() -> Self::Sums;
    /// `sums` and the products of [`STEP`] int8 and int16.
    unsafe fn add_int_products(sums: Self::Sums, bytes: *const i8, ints: *const i16) -> Self::Sums;
    /// The sum of the sums.
    unsafe fn total(sums: Self::Sums) -> i32;
}
