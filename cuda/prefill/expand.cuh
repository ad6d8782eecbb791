// y[t, c] = round(y[t, c] + sum over chosen slots, ascending, of (w * s * u[t, :]) B[:, c])
//
// A warp has 16 tokens, neighbours in token_order, by 32 columns; it walks through the slots that any of its tokens
// chose, in ascending order, as one merges sorted lists. The product with one slot's B goes to tensor cores as tf32,
// w * s * u (and an f32 B) split in two. Each slot's product is added only to the tokens that chose it, so that what
// other tokens' adapters hold, NaN too, can't reach them; and a token's bits don't depend on its neighbours.
//
// Columns are dealt out so that a lane reads four neighbours of B and writes eight neighbours of y: column 4 n + j
// of the warp's 32 is column n of product j.

#pragma once

#include "../common/site.cuh"
#include "../common/tf32.cuh"

constexpr int EXPAND_TOKENS = 16;
constexpr int EXPAND_COLUMNS = 32;
constexpr int PRODUCTS = EXPAND_COLUMNS / 8;

// One token's list of chosen slots, on its way through it.
struct Walk {
    const int32_t *slots;
    const float *weights;
    const float *u;
    int left;

    __device__ __forceinline__ int slot() const { return left > 0 ? *slots : 0x7fffffff; }
};

__device__ __forceinline__ Walk walk_of(const MeteoraCall &call, int index, int leader, int token) {
    if (token < 0)
        return {nullptr, nullptr, nullptr, 0};
    const int64_t row = row_of(call, leader, token);
    return {call.chosen_slots + row * call.places, call.chosen_weights + row * call.places,
            call.u + row_of(call, index, token) * call.u_stride, call.chosen_count[row]};
}

// Adds one slot's products for the rows that have a weight: products[j] += (scale[i] * u[i]) B.
template <class W>
__device__ __forceinline__ void multiply(float (&products)[PRODUCTS][4], const MeteoraSlice &slice,
                                         const Adapter &adapter, const Walk (&walks)[2], const float (&scale)[2],
                                         int column) {
    const int lane = threadIdx.x % 32, width = slice.out_features, at = column + lane / 4 * 4;
    const typename W::Bits *b =
        reinterpret_cast<const typename W::Bits *>(adapter.row(slice.lora_b_packed, width, 0)) + at;
    const bool vector = width % 4 == 0 && aligned(b, min(16, 4 * int(sizeof(*b))));
    for (int first = 0; first < adapter.rank; first += 8) {
        Split coefficients[4];
        float rows[2][4];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = first + lane % 4 + half * 4;
            const bool exists = r < adapter.rank;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const bool used = exists && scale[i] != 0.0f;
                coefficients[half * 2 + i] =
                    split_of<F32>(used ? scale[i] * walks[i].u[adapter.page_start * PAGE_ROWS + r] : 0.0f);
            }
            load<W, 4>(rows[half], b + int64_t(r) * width, exists ? width - at : 0, vector);
        }
#pragma unroll
        for (int j = 0; j < PRODUCTS; j++) {
            const Split row[2] = {split_of<W>(rows[0][j]), split_of<W>(rows[1][j])};
            mma_split<F32, W>(products[j], coefficients, row);
        }
    }
}

// 16 tokens from place `first` of token_order on, by 32 columns; one warp.
__device__ __forceinline__ void expand_tokens(const MeteoraCall &call, int index, int first, int column) {
    const MeteoraSlice &slice = call.slices[index];
    const int lane = threadIdx.x % 32, leader = slice.leader;
    const int ordered = call.segment_indptr[int64_t(leader) * (call.slots + 2) + call.slots + 1];
    if (first >= ordered || column >= slice.out_features)
        return;
    // Rows lane / 4 and lane / 4 + 8 of the products.
    int tokens[2];
    Walk walks[2];
    bool adds[2] = {false, false};
    float sums[2][2 * PRODUCTS] = {};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int place = first + lane / 4 + 8 * i;
        tokens[i] = place < ordered ? call.token_order[row_of(call, leader, place)] : -1;
        walks[i] = walk_of(call, index, leader, tokens[i]);
    }
    while (true) {
        int slot = min(walks[0].slot(), walks[1].slot());
#pragma unroll
        for (int distance = 4; distance < 32; distance *= 2)
            slot = min(slot, __shfl_xor_sync(0xffffffffu, slot, distance));
        if (slot == 0x7fffffff)
            break;
        const Adapter adapter = adapter_of(call, slice, slot);
        float scale[2];
        bool mine[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const bool here = walks[i].slot() == slot;
            // A zero weight is left out: zero times an infinity in the adapter would be NaN.
            mine[i] = here && adapter.rank > 0 && *walks[i].weights != 0.0f;
            scale[i] = mine[i] ? *walks[i].weights * adapter.scaling : 0.0f;
            adds[i] = adds[i] || mine[i];
            if (here) {
                walks[i].slots++;
                walks[i].weights++;
                walks[i].left--;
            }
        }
        float products[PRODUCTS][4] = {};
        with_element(adapter.dtype, [&](auto element) {
            multiply<decltype(element)>(products, slice, adapter, walks, scale, column);
        });
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < PRODUCTS; j++)
#pragma unroll
                for (int c = 0; c < 2; c++)
                    sums[i][c * PRODUCTS + j] += mine[i] ? products[j][i * 2 + c] : 0.0f;
    }
    const int at = column + lane % 4 * 8;
    with_element(call.y_dtype, [&](auto element) {
        typedef decltype(element) Y;
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (adds[i]) {
                typename Y::Bits *y = reinterpret_cast<typename Y::Bits *>(slice.y) + tokens[i] * slice.y_stride + at;
                add<Y, 2 * PRODUCTS>(y, sums[i], slice.out_features - at, aligned(y, 16));
            }
    });
}
