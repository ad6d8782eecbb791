//! Element values of raw little-endian bytes at any alignment.

use crate::dtype::DType;

/// Elements looked at before asking whether one of them was bad: long enough for the loop to vectorise.
const BLOCK: usize = 1024;

/// The index of the first element that is NaN or infinite.
pub(crate) fn first_non_finite(dtype: DType, bytes: &[u8]) -> Option<usize> {
    match dtype {
        DType::F32 => scan::<4>(bytes, |x| u32::from_le_bytes(x) & 0x7f80_0000 == 0x7f80_0000),
        DType::F16 => scan::<2>(bytes, |x| u16::from_le_bytes(x) & 0x7c00 == 0x7c00),
        DType::BF16 => scan::<2>(bytes, |x| u16::from_le_bytes(x) & 0x7f80 == 0x7f80),
    }
}

fn scan<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool) -> Option<usize> {
    let element = |x: &[u8]| <[u8; N]>::try_from(x).unwrap_or([0; N]);
    for (index, block) in bytes.chunks(BLOCK * N).enumerate() {
        if block.chunks_exact(N).fold(false, |any, x| any | bad(element(x))) {
            let within = block.chunks_exact(N).position(|x| bad(element(x)))?;
            return Some(index * BLOCK + within);
        }
    }
    None
}

/// Widens elements to f32, which is exact for every finite value; stops at the shorter of the two.
///
/// Inlined so that it takes the instruction set of its caller.
#[inline(always)]
pub(crate) fn to_f32(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => {
            for (y, x) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *y = f32::from_le_bytes([x[0], x[1], x[2], x[3]]);
            }
        }
        DType::F16 => {
            for (y, x) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *y = f16_to_f32(u16::from_le_bytes([x[0], x[1]]));
            }
        }
        DType::BF16 => {
            for (y, x) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *y = f32::from_bits(u32::from(u16::from_le_bytes([x[0], x[1]])) << 16);
            }
        }
    }
}

/// Elements as the bytes of f32.
pub(crate) fn widen(dtype: DType, bytes: &[u8]) -> Vec<u8> {
    let mut values = vec![0f32; bytes.len() / dtype.size()];
    to_f32(dtype, bytes, &mut values);
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A finite half; infinities and NaN come out finite and were refused before. No f32 subnormal arises on the way,
/// since a process may flush those to zero.
#[inline(always)]
fn f16_to_f32(half: u16) -> f32 {
    const EXPONENT_OF_SMALLEST_NORMAL: u32 = 113 << 23;
    let sign = u32::from(half & 0x8000) << 16;
    let rest = u32::from(half & 0x7fff) << 13;
    let normal = rest.wrapping_add(112 << 23);
    let subnormal =
        f32::from_bits(rest | EXPONENT_OF_SMALLEST_NORMAL) - f32::from_bits(EXPONENT_OF_SMALLEST_NORMAL);
    let magnitude = if rest < 1 << 23 {
        subnormal.to_bits()
    } else {
        normal
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_exactly() {
        for bits in 0..=u16::MAX {
            let (half, bf16) = (half::f16::from_bits(bits), half::bf16::from_bits(bits));
            let mut out = [0f32];
            if half.is_finite() {
                to_f32(DType::F16, &bits.to_le_bytes(), &mut out);
                assert_eq!(out[0].to_bits(), half.to_f32().to_bits());
            }
            assert_eq!(
                first_non_finite(DType::F16, &bits.to_le_bytes()).is_none(),
                half.is_finite()
            );
            assert_eq!(
                first_non_finite(DType::BF16, &bits.to_le_bytes()).is_none(),
                bf16.is_finite()
            );
            if bf16.is_finite() {
                to_f32(DType::BF16, &bits.to_le_bytes(), &mut out);
                assert_eq!(out[0].to_bits(), bf16.to_f32().to_bits());
            }
        }
    }

    #[test]
    fn the_first_bad_element_is_found_anywhere() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 5] {
                let mut values = vec![f32::MAX; 3 * BLOCK + 6];
                values[place] = bad;
                let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                assert_eq!(first_non_finite(DType::F32, &bytes), Some(place));
            }
        }
    }
}
