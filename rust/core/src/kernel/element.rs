//! Element types as lanes see them.

use super::lane::{Lane, LANES};

/// How an element type is read into lanes and written from them.
///
/// # Safety
/// All methods: [`Lane`]'s contract; `count` elements (at most eight) behind the pointers of `*_some`.
pub(super) trait Element {
    /// The stored form.
    type Bits: Copy + Default;
    /// Eight elements, widened exactly.
    unsafe fn load<L: Lane>(from: *const Self::Bits) -> L;
    /// Writes eight elements, rounded to nearest even.
    unsafe fn store<L: Lane>(value: L, to: *mut Self::Bits);

    /// `count` elements, then zeros.
    #[inline(always)]
    unsafe fn load_some<L: Lane>(from: *const Self::Bits, count: usize) -> L {
        let mut padded = [Self::Bits::default(); LANES];
        let bytes = count * size_of::<Self::Bits>();
        // SAFETY: `count <= 8` elements behind `from`, eight in `padded`; bytes, since pools may be unaligned.
        unsafe {
            std::ptr::copy_nonoverlapping(from.cast::<u8>(), padded.as_mut_ptr().cast(), bytes);
            Self::load(padded.as_ptr())
        }
    }

    /// Writes the first `count` elements.
    #[inline(always)]
    unsafe fn store_some<L: Lane>(value: L, to: *mut Self::Bits, count: usize) {
        let mut padded = [Self::Bits::default(); LANES];
        // SAFETY: eight elements in `padded`, `count <= 8` behind `to`.
        unsafe {
            Self::store(value, padded.as_mut_ptr());
            std::ptr::copy_nonoverlapping(padded.as_ptr(), to, count);
        }
    }
}

/// IEEE binary32.
pub(super) struct F32;
/// IEEE binary16.
pub(super) struct F16;
/// bfloat16.
pub(super) struct Bf16;

/// One element type by its two lane methods.
macro_rules! element {
    ($name:ident, $bits:ty, $load:ident, $store:ident) => {
        impl Element for $name {
            type Bits = $bits;
            #[inline(always)]
            unsafe fn load<L: Lane>(from: *const $bits) -> L {
                // SAFETY: the contract is handed on.
                unsafe { L::$load(from) }
            }
            #[inline(always)]
            unsafe fn store<L: Lane>(value: L, to: *mut $bits) {
                // SAFETY: the contract is handed on.
                unsafe { value.$store(to) }
            }
        }
    };
}

element!(F32, f32, load_f32, store_f32);
element!(F16, u16, load_f16, store_f16);
element!(Bf16, u16, load_bf16, store_bf16);
