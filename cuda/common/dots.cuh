// R x T dot products of one block: out[r][t] = w[r] . x[t], in f32.
//
// One order of summation, whatever R and T and however large the block: a group of 128 threads takes a segment of 4,096
// elements, group i of GROUPS the segments i, i + GROUPS, ...; in it, thread i takes elements 8 i to 8 i + 7 of every
// 1,024 in turn, one fused multiply-add each; then lanes by a tree of exchanges, then a group's four warps in order, then
// the groups in order. A block of fewer threads takes the groups one after the other. So a dot product has the same bits
// in every kernel with as many groups and in every batch, and a wide row waits for memory no more often than a narrow one
// where there is room for a large block.

#pragma once

#include "element.cuh"

constexpr int BLOCK = 128; // threads of a group
constexpr int WARPS = BLOCK / 32;
constexpr int CHUNK = 8;
constexpr int PARTS = METEORA_DOT_GROUPS * WARPS; // what a dot product of the decode path is summed of in the end

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

// Steps of 1,024 elements whose loads are under way at once, so that a segment waits for memory once: as many as
// leave registers for them. Types are told at run time, so a compiler would not move loads across what widens them.
constexpr int steps_at_once(int rows, int tokens, bool whole) {
    return !whole || rows * tokens > 8 ? 1 : rows * tokens > 2 ? 2 : 4;
}

// Adds the products of this thread's elements, of the segments of one group. Loads without a test: WHOLE.
template <int R, int T, int GROUPS, bool WHOLE>
__device__ __forceinline__ void add_dots(float (&sums)[R][T], const uint8_t *const (&w)[R], int w_code,
                                         const uint8_t *const (&x)[T], int x_code, int width, int group) {
    constexpr int STEPS = steps_at_once(R, T, WHOLE), STEP = BLOCK * CHUNK, SEGMENT = METEORA_DOT_SEGMENT;
    const int w_size = size_of(w_code), x_size = size_of(x_code);
    static_assert(SEGMENT % (STEPS * STEP) == 0, "steps end where a segment does");
#pragma unroll 1
    for (int first = group * SEGMENT + threadIdx.x % BLOCK * CHUNK; first < width;) {
        Eight tokens[STEPS][T] = {}, rows[STEPS][R] = {};
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            const int at = first + s * STEP;
            if (at >= width)
                continue;
#pragma unroll
            for (int t = 0; t < T; t++)
                tokens[s][t] = eight_at<WHOLE>(x[t] + int64_t(at) * x_size, x_size, width - at);
#pragma unroll
            for (int r = 0; r < R; r++)
                rows[s][r] = eight_at<WHOLE>(w[r] + int64_t(at) * w_size, w_size, width - at);
        }
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            if (first + s * STEP >= width)
                continue;
            float token[T][CHUNK];
#pragma unroll
            for (int t = 0; t < T; t++)
                widen(token[t], tokens[s][t], x_code);
#pragma unroll
            for (int r = 0; r < R; r++) {
                float row[CHUNK];
                widen(row, rows[s][r], w_code);
#pragma unroll
                for (int t = 0; t < T; t++)
#pragma unroll
                    for (int i = 0; i < CHUNK; i++)
                        sums[r][t] = fmaf(row[i], token[t][i], sums[r][t]);
            }
        }
        first += STEPS * STEP;
        if (first % SEGMENT < STEP) // behind the segment: the other groups' come first
            first += (GROUPS - 1) * SEGMENT;
    }
}

// Calls emit(r, t, dot) from one thread for each product. All threads of the block, one to GROUPS groups,
// come here together; `room`, for R * T rows, is shared by them.
template <int R, int T, int GROUPS, class Emit>
__device__ __forceinline__ void dots(const uint8_t *const (&w)[R], int w_code, const uint8_t *const (&x)[T], int x_code,
                                     int width, float (*room)[GROUPS * WARPS], Emit emit) {
    bool whole = width % CHUNK == 0;
#pragma unroll
    for (int r = 0; r < R; r++)
        whole = whole && aligned(w[r], 16);
#pragma unroll
    for (int t = 0; t < T; t++)
        whole = whole && aligned(x[t], 16);
    const int first = GROUPS == 1 ? 0 : threadIdx.x / BLOCK, stride = GROUPS == 1 ? 1 : blockDim.x / BLOCK;
#pragma unroll 1
    for (int group = first; group < GROUPS && group * METEORA_DOT_SEGMENT < width; group += stride) {
        float sums[R][T] = {};
        if (whole)
            add_dots<R, T, GROUPS, true>(sums, w, w_code, x, x_code, width, group);
        else
            add_dots<R, T, GROUPS, false>(sums, w, w_code, x, x_code, width, group);
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
            for (int t = 0; t < T; t++) {
                const float sum = warp_sum(sums[r][t]);
                if (threadIdx.x % 32 == 0)
                    room[r * T + t][group * WARPS + threadIdx.x % BLOCK / 32] = sum;
            }
    }
    __syncthreads();
    if (threadIdx.x < R * T) {
        const int i = threadIdx.x;
        float dot = 0.0f;
#pragma unroll 1
        for (int group = 0; group < GROUPS && group * METEORA_DOT_SEGMENT < width; group++) {
            float sum = room[i][group * WARPS];
#pragma unroll
            for (int warp = 1; warp < WARPS; warp++)
                sum += room[i][group * WARPS + warp];
            dot += sum;
        }
        emit(i / T, i % T, dot);
    }
    __syncthreads();
}
