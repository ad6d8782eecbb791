//! The instruction set, chosen once at run time.

use super::lane::{Lane, Portable};
use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(target_arch = "x86_64")]
use super::lane::Avx2;

/// A kernel over lanes; `run` and all that it calls must be `#[inline(always)]`, to be compiled for the
/// instruction set of the entry that calls it.
///
/// # Safety
/// `run`: the kernel's own contract, stated where it is defined, and [`Lane`]'s.
pub(super) trait Kernel {
    /// What it returns.
    type Output;
    /// Runs on lanes `L`.
    unsafe fn run<L: Lane>(self) -> Self::Output;
}

const UNKNOWN: u8 = 0;
const PORTABLE: u8 = 1;
#[cfg(target_arch = "x86_64")]
const AVX2: u8 = 2;

static CHOSEN: AtomicU8 = AtomicU8::new(UNKNOWN);

fn chosen() -> u8 {
    match CHOSEN.load(Ordering::Relaxed) {
        UNKNOWN => {
            let found = detect();
            CHOSEN.store(found, Ordering::Relaxed);
            found
        }
        known => known,
    }
}

fn detect() -> u8 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
    {
        return AVX2;
    }
    PORTABLE
}

/// The name of the instruction set in use: `avx2`, `neon` or `portable`.
pub fn isa() -> &'static str {
    match chosen() {
        #[cfg(target_arch = "x86_64")]
        AVX2 => "avx2",
        _ if cfg!(target_arch = "aarch64") => "neon",
        _ => "portable",
    }
}

/// Whether this CPU has products of bf16 numbers, which are faster than those of f32.
pub fn has_bf16_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// For tests: the portable code from now on (`true`), or what the CPU has (`false`).
#[doc(hidden)]
pub fn force_portable(on: bool) {
    CHOSEN.store(if on { PORTABLE } else { detect() }, Ordering::Relaxed);
}

/// Runs `kernel` on the widest instruction set that this CPU has.
///
/// # Safety
/// The kernel's own contract.
#[inline]
pub(super) unsafe fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    match chosen() {
        // SAFETY: `detect` has seen the features; the kernel's contract is the caller's.
        #[cfg(target_arch = "x86_64")]
        AVX2 => unsafe { run_avx2(kernel) },
        // SAFETY: portable code needs no feature; the kernel's contract is the caller's.
        _ => unsafe { run_portable(kernel) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the contract is handed on.
    unsafe { kernel.run::<Avx2>() }
}

#[inline(never)]
unsafe fn run_portable<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the contract is handed on.
    unsafe { kernel.run::<Portable>() }
}
