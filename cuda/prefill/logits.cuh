// logits[s, t] = gate[s] . x[t] + gate_bias[s];  sign-free slots: |gate[s] . x[t]| + gate_bias[s]
//
// Tensor cores, 16 tokens by 32 slots a block; the warps take 16 elements of K in turn, and their sums are added in
// order. A gate and an x of f32 are split in two parts of tf32. Lane l has elements 4 (l % 4) to 4 (l % 4) + 3 of
// each 16, of its token and of its slot alike: which element is which k of a product does not matter, as long as
// both sides agree, and so they load four neighbours at once.

#pragma once

#include "../common/site.cuh"
#include "../common/tf32.cuh"

constexpr int LOGIT_TOKENS = 16;
constexpr int LOGIT_SLOTS = 32;
constexpr int LOGIT_WARPS = 8;
constexpr int LOGIT_TILES = LOGIT_SLOTS / 8;

// This warp's share of the dot products. WHOLE: loads need no test.
template <class X, bool WHOLE>
__device__ __forceinline__ void gate_products(float (&sums)[LOGIT_TILES][4], const MeteoraCall &call,
                                              const float *gate, int first_slot, int first_token) {
    typedef typename X::Bits Bits;
    const int lane = threadIdx.x % 32, group = lane / 4, width = call.in_features;
    // Rows beyond the last are the last once more, and thrown away.
    const Bits *x[2];
    const float *rows[LOGIT_TILES];
#pragma unroll
    for (int i = 0; i < 2; i++)
        x[i] = reinterpret_cast<const Bits *>(input_of(call, min(first_token + group + 8 * i, call.tokens - 1)));
#pragma unroll
    for (int j = 0; j < LOGIT_TILES; j++)
        rows[j] = gate + int64_t(min(first_slot + 8 * j + group, call.slots - 1)) * width;
#pragma unroll(WHOLE ? 4 : 1)
    for (int at = threadIdx.x / 32 * 16 + lane % 4 * 4; at - lane % 4 * 4 < width; at += LOGIT_WARPS * 16) {
        float token[2][4], row[LOGIT_TILES][4];
#pragma unroll
        for (int i = 0; i < 2; i++)
            load<X, 4>(token[i], x[i] + at, WHOLE ? 4 : width - at, WHOLE);
#pragma unroll
        for (int j = 0; j < LOGIT_TILES; j++)
            load<F32, 4>(row[j], rows[j] + at, WHOLE ? 4 : width - at, WHOLE);
#pragma unroll
        for (int pair = 0; pair < 4; pair += 2) {
            const Split a[4] = {split_of<X>(token[0][pair]), split_of<X>(token[1][pair]),
                                split_of<X>(token[0][pair + 1]), split_of<X>(token[1][pair + 1])};
#pragma unroll
            for (int j = 0; j < LOGIT_TILES; j++) {
                const Split b[2] = {split_of<F32>(row[j][pair]), split_of<F32>(row[j][pair + 1])};
                mma_split<X, F32>(sums[j], a, b);
            }
        }
    }
}

// One block; `parts` is shared.
__device__ __forceinline__ void gate_logits(const MeteoraCall &call, int index, int first_slot, int first_token,
                                            float (*parts)[LOGIT_TOKENS][LOGIT_SLOTS]) {
    const MeteoraSlice &slice = call.slices[index];
    const int lane = threadIdx.x % 32;
    // Every warp has all tokens among its lanes, so that all warps decide alike.
    const int own = first_token + lane % LOGIT_TOKENS;
    const int32_t *record = own < call.tokens ? route_of(call, own) : nullptr;
    if (!__ballot_sync(0xffffffffu, record && record[0] == ROUTE_AUTO))
        return;
    float sums[LOGIT_TILES][4] = {};
    with_element(call.x_dtype, [&](auto element) {
        typedef decltype(element) X;
        if (call.in_features % 16 == 0 && call.x_stride % 4 == 0 &&
            aligned(call.x, 4 * sizeof(typename X::Bits)) && aligned(slice.gate, 16))
            gate_products<X, true>(sums, call, slice.gate, first_slot, first_token);
        else
            gate_products<X, false>(sums, call, slice.gate, first_slot, first_token);
    });
#pragma unroll
    for (int j = 0; j < LOGIT_TILES; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            parts[threadIdx.x / 32][lane / 4 + i / 2 * 8][8 * j + lane % 4 * 2 + i % 2] = sums[j][i];
    __syncthreads();
    for (int i = threadIdx.x; i < LOGIT_TOKENS * LOGIT_SLOTS; i += LOGIT_WARPS * 32) {
        const int t = i / LOGIT_SLOTS, s = i % LOGIT_SLOTS, token = first_token + t, slot = first_slot + s;
        if (token >= call.tokens || slot >= call.slots)
            continue;
        float dot = parts[0][t][s];
#pragma unroll
        for (int warp = 1; warp < LOGIT_WARPS; warp++)
            dot += parts[warp][t][s];
        call.logits[row_of(call, index, token) * call.slots + slot] =
            (sign_free(slice, slot) ? fabsf(dot) : dot) + slice.gate_bias[slot];
    }
}
