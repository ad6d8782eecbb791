//! Lanes in plain Rust: NEON by the autovectoriser on aarch64, SSE2 on old x86, anything elsewhere.

use super::{Lane, LANES, STEP};

/// Eight lanes as an array.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub(in super::super) struct Portable([f32; LANES]);

/// Widens a binary16: exact, subnormals included.
#[inline(always)]
fn widen_f16(half: u16) -> f32 {
    let magnitude = u32::from(half & 0x7fff) << 13;
    // 2^112 moves the exponent from bias 15 to 127 and normalises subnormals on the way.
    let finite = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let bits = if magnitude >= 0x0f80_0000 {
        magnitude | 0x7f80_0000
    } else {
        finite.to_bits()
    };
    f32::from_bits(bits | u32::from(half & 0x8000) << 16)
}

/// Rounds to binary16, to nearest even.
#[inline(always)]
fn narrow_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let half = if magnitude > 0x7f80_0000 {
        0x7e00 | (magnitude >> 13 & 0x3ff)
    } else if magnitude >= 0x477f_f000 {
        0x7c00 // 65520 and more
    } else if magnitude < 0x3880_0000 {
        // Below 2^-14: the last place of 0.5 is 2^-24, the step of binary16 subnormals.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0x3f00_0000
    } else {
        (magnitude - 0x3800_0000 + 0xfff + (magnitude >> 13 & 1)) >> 13
    };
    (bits >> 16 & 0x8000 | half) as u16
}

/// Rounds to bfloat16, to nearest even.
#[inline(always)]
fn narrow_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = if bits & 0x7fff_ffff > 0x7f80_0000 {
        bits | 0x0040_0000
    } else {
        bits + 0x7fff + (bits >> 16 & 1)
    };
    (rounded >> 16) as u16
}

/// Applies `$of` to each of the lanes `$i`.
macro_rules! each {
    ($i:ident => $of:expr) => {{
        let mut lanes = [Default::default(); LANES];
        for $i in 0..LANES {
            lanes[$i] = $of;
        }
        lanes
    }};
}

// SAFETY (of every block below): the trait's contract gives eight elements behind each pointer.
impl Lane for Portable {
    #[inline(always)]
    unsafe fn zero() -> Self {
        Portable([0.0; LANES])
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Portable([value; LANES])
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: eight f32 are readable.
        Portable(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: eight u16 are readable.
        let halves = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        Portable(each!(i => widen_f16(halves[i])))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        // SAFETY: eight u16 are readable.
        let halves = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        Portable(each!(i => f32::from_bits(u32::from(halves[i]) << 16)))
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32) {
        // SAFETY: eight f32 are writable.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16) {
        let halves: [u16; LANES] = each!(i => narrow_f16(self.0[i]));
        // SAFETY: eight u16 are writable.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(halves) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        let halves: [u16; LANES] = each!(i => narrow_bf16(self.0[i]));
        // SAFETY: eight u16 are writable.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(halves) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Portable(each!(i => self.0[i] + other.0[i]))
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // Without the instruction `mul_add` is a library call, 50 times slower.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            Portable(each!(i => a.0[i].mul_add(b.0[i], self.0[i])))
        } else {
            Portable(each!(i => self.0[i] + a.0[i] * b.0[i]))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let l = self.0;
        ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
    }

    type Sums = [i32; LANES];

    #[inline(always)]
    unsafe fn no_sums() -> [i32; LANES] {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn add_int_products(sums: [i32; LANES], bytes: *const i8, ints: *const i16) -> [i32; LANES] {
        // SAFETY: sixteen i8 and i16 are readable.
        let (bytes, ints) = unsafe {
            (
                bytes.cast::<[i8; STEP]>().read_unaligned(),
                ints.cast::<[i16; STEP]>().read_unaligned(),
            )
        };
        let product = |i: usize| i32::from(bytes[i]) * i32::from(ints[i]);
        each!(i => sums[i] + product(2 * i) + product(2 * i + 1))
    }
    #[inline(always)]
    unsafe fn total(sums: [i32; LANES]) -> i32 {
        sums.iter().sum()
    }
}
