// Many tokens: logits, choice, pairs sorted by adapter, grouped shrink, expand by neighbours of one adapter.
//
//     y = y + sum over chosen adapters of w * s * B (A x)
//
// No launch needs to know on the host how many pairs there are.

#include "expand.cuh"
#include "logits.cuh"
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

// Block (slots, tokens); the first block of a leader also clears its counts.
KERNEL(prefill_logits, LOGIT_WARPS * 32) {
    __shared__ float parts[LOGIT_WARPS][LOGIT_TOKENS][LOGIT_SLOTS];
    grid_dependency_launch();
    grid_dependency_wait();
    const int index = blockIdx.z;
    if (call.slices[index].leader != index)
        return;
    if (blockIdx.x == 0 && blockIdx.y == 0)
        clear_counts(call, index);
    gate_logits(call, index, blockIdx.x * LOGIT_SLOTS, blockIdx.y * LOGIT_TOKENS, parts);
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
