// f32 products on tensor cores: a number is a large and a small part of tf32, which together have f32's precision.
//
//     a b = a.small b + a.large b.small + a.large b.large + what is below f32's rounding
//
// f16 and bf16 are tf32 as they are.

#pragma once

#include "element.cuh"

struct Split {
    uint32_t large, small;
};

template <class E> __device__ __forceinline__ Split split_of(float value) {
    const uint32_t bits = __float_as_uint(value);
    if (E::code != F32::code)
        return {bits, 0};
    const uint32_t large = tf32_of_f32(value);
    // An infinity less itself is NaN; it has no small part.
    return {large, fabsf(value) <= 3.402823466e+38f ? tf32_of_f32(value - __uint_as_float(large)) : 0};
}

// d += a b, a 16 x 8 of numbers of type A, b 8 x 8 of type B, as fragments of mma_tf32.
template <class A, class B>
__device__ __forceinline__ void mma_split(float (&d)[4], const Split (&a)[4], const Split (&b)[2]) {
    const uint32_t large[4] = {a[0].large, a[1].large, a[2].large, a[3].large};
    if constexpr (A::code == F32::code) {
        const uint32_t small[4] = {a[0].small, a[1].small, a[2].small, a[3].small};
        mma_tf32(d, small, b[0].large, b[1].large);
    }
    if constexpr (B::code == F32::code)
        mma_tf32(d, large, b[0].small, b[1].small);
    mma_tf32(d, large, b[0].large, b[1].large);
}
