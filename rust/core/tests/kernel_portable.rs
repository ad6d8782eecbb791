//! The portable lanes: a file of their own, since the switch holds for the whole process.

mod kernel;

use kernel::oracle::run;
use kernel::site::element;
use kernel::{check, fixed, Activations, Adapter, Case};
use meteora_core::kernel::{force_portable, isa, Serial};
use meteora_core::layout::PAGE_BYTES_PER_COLUMN;
use meteora_core::DType::{self, BF16, F16, F32};

#[test]
fn portable_lanes_hold_to_the_oracle_and_widen_and_round_the_same() {
    let widened = every_half();
    let rounded = rounding();
    let native = isa();
    force_portable(true);
    assert!(["portable", "neon"].contains(&isa()));
    assert!(
        widened == every_half(),
        "widening differs between portable and {native}"
    );
    assert!(
        rounded == rounding(),
        "rounding differs between portable and {native}"
    );
    for dtype in [F32, F16, BF16] {
        let adapters: Vec<Adapter> = (0..6)
            .map(|i| Adapter::new(1 + 3 * i, [BF16, F32, F16][i % 3]))
            .collect();
        check(&Case::new((133, 75), &adapters, dtype, 11, 2));
    }
    force_portable(false);
    assert_eq!(isa(), native);
}

/// One adapter of rank 1 whose A picks the first input; B, x and base as given; the output's bits.
fn through(weights: DType, activations: DType, b: &[u8], x: f32, base: &[u8]) -> Vec<u8> {
    let width = b.len() / weights.size();
    let mut case = Case::new((1, width), &[Adapter::new(1, weights)], activations, 1, 1);
    case.adapters[0].scaling = 1.0;
    case.table[0].scaling_bits = 1.0f32.to_bits() as i32;
    let one = element(weights, 1.0);
    case.lora_a[PAGE_BYTES_PER_COLUMN..][..one.len()].copy_from_slice(&one);
    case.lora_b[PAGE_BYTES_PER_COLUMN * width..][..b.len()].copy_from_slice(b);
    case.x = element(activations, x);
    case.base = base.to_vec();
    run(&case.routed(&[fixed(1, &[(0, 1.0)])], &[0]), &Serial).1
}

/// Every finite half as a weight, widened and added to zero; held to the `half` crate.
fn every_half() -> [Vec<u8>; 2] {
    [F16, BF16].map(|dtype| {
        let finite = |bits: &u16| match dtype {
            F16 => bits & 0x7c00 != 0x7c00,
            _ => bits & 0x7f80 != 0x7f80,
        };
        let all: Vec<u16> = (0..=u16::MAX).filter(finite).collect();
        let bytes: Vec<u8> = all.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let y = through(dtype, F32, &bytes, 1.0, &vec![0; all.len() * 4]);
        let Activations::F32(values) = Activations::of(F32, &y) else {
            unreachable!()
        };
        for (&bits, value) in all.iter().zip(values) {
            let want = match dtype {
                F16 => half::f16::from_bits(bits).to_f32(),
                _ => half::bf16::from_bits(bits).to_f32(),
            };
            assert_eq!(value, want, "{} {bits:#06x}", dtype.name());
        }
        y
    })
}

/// Sums that round up, down, to even, to subnormals and to infinity; held to the `half` crate.
fn rounding() -> [Vec<u8>; 2] {
    let mut values = Vec::new();
    for exponent in (1..0xff).step_by(1) {
        for mantissa in [
            0, 1, 0xfff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x7fff, 0x8000, 0x8001, 0x18000, 0x7f_ffff,
        ] {
            for sign in [0, 1u32 << 31] {
                values.push(f32::from_bits(sign | exponent << 23 | mantissa));
            }
        }
    }
    values.extend([
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        65519.9,
        65520.0,
        2f32.powi(-25),
    ]);
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    [F16, BF16].map(|dtype| {
        let y = through(F32, dtype, &bytes, 1.0, &vec![0; values.len() * 2]);
        for (value, bits) in values.iter().zip(y.chunks_exact(2)) {
            let bits = u16::from_le_bytes(bits.try_into().unwrap());
            let (want, nan) = match dtype {
                F16 => (
                    half::f16::from_f32(*value).to_bits(),
                    half::f16::from_bits(bits).is_nan(),
                ),
                _ => (
                    half::bf16::from_f32(*value).to_bits(),
                    half::bf16::from_bits(bits).is_nan(),
                ),
            };
            assert!(
                if value.is_nan() { nan } else { bits == want },
                "{} {value:e}: {bits:#06x}",
                dtype.name()
            );
        }
        y
    })
}
