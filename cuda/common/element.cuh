// Element types, by the codes of rust/core/src/dtype.rs, and loads of eight and of four of them as f32.

#pragma once

#include "abi.h"
#include <ptx.cuh>

struct F32 {
    static constexpr int code = 0;
    typedef float Bits;
    static __device__ __forceinline__ float wide(float value) { return value; }
    static __device__ __forceinline__ float narrow(float value) { return value; }
};

struct F16 {
    static constexpr int code = 1;
    typedef uint16_t Bits;
    static __device__ __forceinline__ float wide(uint16_t bits) { return f32_of_f16(bits); }
    static __device__ __forceinline__ uint16_t narrow(float value) { return f16_of_f32(value); }
};

struct BF16 {
    static constexpr int code = 2;
    typedef uint16_t Bits;
    static __device__ __forceinline__ float wide(uint16_t bits) { return __uint_as_float(uint32_t(bits) << 16); }
    static __device__ __forceinline__ uint16_t narrow(float value) { return bf16_of_f32(value); }
};

__device__ __forceinline__ bool aligned(const void *address, int bytes) {
    return reinterpret_cast<uint64_t>(address) % bytes == 0;
}

// Bytes of an element of the type with this code.
__device__ __forceinline__ int size_of(int code) { return code == F32::code ? 4 : 2; }

// Up to 16 bytes of elements of `size` bytes, aligned to no more than that; the rest is 0. Out of line: rare, and
// long where it is unrolled into every load.
__device__ __noinline__ uint4 gather(const uint8_t *from, int bytes, int size) {
    uint32_t words[4] __align__(16) = {};
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if (size == 2 && 2 * i < bytes)
            words[i / 2] |= uint32_t(reinterpret_cast<const uint16_t *>(from)[i]) << (16 * (i % 2));
        if (size == 4 && i < 4 && 4 * i < bytes)
            words[i % 4] = reinterpret_cast<const uint32_t *>(from)[i];
    }
    return *reinterpret_cast<const uint4 *>(words);
}

// Eight elements as they are in memory.
struct Eight {
    uint4 pieces[2]; // the second for f32 alone
};

// Eight elements of `size` bytes, of which `count` exist; WHOLE: all do, and `from` is aligned to 16 bytes.
template <bool WHOLE> __device__ __forceinline__ Eight eight_at(const uint8_t *from, int size, int count) {
    Eight eight = {};
    if (WHOLE) {
        eight.pieces[0] = *reinterpret_cast<const uint4 *>(from);
        if (size == 4)
            eight.pieces[1] = *reinterpret_cast<const uint4 *>(from + 16);
    } else {
        eight.pieces[0] = gather(from, count * size, size);
        if (size == 4)
            eight.pieces[1] = gather(from + 16, count * size - 16, size);
    }
    return eight;
}

__device__ __forceinline__ void widen(float (&out)[8], const Eight &eight, int code) {
    const uint32_t *words = reinterpret_cast<const uint32_t *>(eight.pieces);
    if (code == F32::code) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            out[i] = __uint_as_float(words[i]);
    } else if (code == F16::code) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            out[i] = F16::wide(uint16_t(words[i / 2] >> (16 * (i % 2))));
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            out[i] = BF16::wide(uint16_t(words[i / 2] >> (16 * (i % 2))));
    }
}

// Copies `bytes` (4, 8 or a multiple of 16), both sides aligned to them or to 16 bytes, in the widest steps.
template <int bytes> __device__ __forceinline__ void move(void *to, const void *from) {
    if constexpr (bytes >= 16) {
#pragma unroll
        for (int i = 0; i < bytes / 16; i++)
            static_cast<uint4 *>(to)[i] = static_cast<const uint4 *>(from)[i];
    } else if constexpr (bytes == 8) {
        *static_cast<uint2 *>(to) = *static_cast<const uint2 *>(from);
    } else {
        *static_cast<uint32_t *>(to) = *static_cast<const uint32_t *>(from);
    }
}

// N elements at `from`, of which `count` (any number) exist; the others are 0. `vector`: `from` is aligned to N
// elements or 16 bytes, whichever is less.
template <class E, int N>
__device__ __forceinline__ void load(float (&out)[N], const typename E::Bits *from, int count, bool vector) {
    constexpr int bytes = N * sizeof(typename E::Bits);
    typename E::Bits raw[N] __align__(16) = {};
    if (vector && count >= N) {
        move<bytes>(raw, from);
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            if (i < count)
                raw[i] = from[i];
    }
#pragma unroll
    for (int i = 0; i < N; i++)
        out[i] = E::wide(raw[i]);
}

// Adds `sums` to N elements at `at`, of which `count` exist, rounding each once.
template <class E, int N>
__device__ __forceinline__ void add(typename E::Bits *at, const float (&sums)[N], int count, bool vector) {
    float old[N];
    load<E, N>(old, at, count, vector);
    if (vector && count >= N) {
        constexpr int bytes = N * sizeof(typename E::Bits);
        typename E::Bits raw[N] __align__(16);
#pragma unroll
        for (int i = 0; i < N; i++)
            raw[i] = E::narrow(old[i] + sums[i]);
        move<bytes>(at, raw);
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            if (i < count)
                at[i] = E::narrow(old[i] + sums[i]);
    }
}

// Calls `body` with the element type that has this code.
template <class Body> __device__ __forceinline__ void with_element(int code, Body body) {
    if (code == F32::code)
        body(F32());
    else if (code == F16::code)
        body(F16());
    else if (code == BF16::code)
        body(BF16());
}
