// Many tokens: logits, choice, pairs sorted by adapter, grouped shrink, expand by neighbours of one adapter.
//
//     y = y + sum over chosen adapters of w * s * B (A x)
//
// No launch needs to know on the host how many pairs there are. The choice is that of the decode path, to the bit.

#include "../decode/logits.cuh"
#include "expand.cuh"
#include "select.cuh"
#include "shrink.cuh"

#define KERNEL(name, threads)                                                                                          \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ MeteoraCall call)

KERNEL(prefill_choose, 32) {
    DYNAMIC_SHARED(shared);
    grid_dependency_launch();
    grid_dependency_wait();
    if (call.slices[blockIdx.z].leader == int(blockIdx.z))
        choose_and_count(call, blockIdx.z, blockIdx.x, shared);
}

KERNEL(prefill_scatter, 128) {
    DYNAMIC_SHARED(shared);
    grid_dependency_launch();
    grid_dependency_wait();
    if (call.slices[blockIdx.z].leader == int(blockIdx.z))
        scatter(call, blockIdx.z, shared);
}

// Slots and tokens that share a reading.
constexpr int LOGIT_SLOTS = 4;
constexpr int LOGIT_TOKENS = 8;

// Logits: block (slots, tokens); the first block of a leader also clears its counts.
__device__ __forceinline__ void logits(const MeteoraCall &call, float (*room)[WARPS]) {
    const int index = blockIdx.z;
    if (call.slices[index].leader != index)
        return;
    if (blockIdx.x == 0 && blockIdx.y == 0)
        clear_counts(call, index);
    gate_logits<LOGIT_SLOTS, LOGIT_TOKENS>(call, index, blockIdx.x * LOGIT_SLOTS, blockIdx.y * LOGIT_TOKENS, room);
}

KERNEL(prefill_logits, 128) {
    __shared__ float room[LOGIT_SLOTS * LOGIT_TOKENS][WARPS];
    grid_dependency_launch();
    grid_dependency_wait();
    logits(call, room);
}

KERNEL(prefill_shrink, 128) {
    DYNAMIC_SHARED(shared);
    __shared__ float room[DOT_ROWS * DOT_TOKENS][WARPS];
    __shared__ Tile tile;
    grid_dependency_launch();
    grid_dependency_wait();
    shrink_pairs(call, shared, &tile, room);
}

KERNEL(prefill_expand, 128) {
    grid_dependency_launch();
    grid_dependency_wait();
    const int warp = threadIdx.x / 32;
    expand_tokens(call, blockIdx.z, (blockIdx.y * WARPS + warp) * EXPAND_TOKENS, blockIdx.x * EXPAND_COLUMNS);
}
