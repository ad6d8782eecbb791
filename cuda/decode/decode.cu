// Few tokens: gate logits, choice, shrink and expand as dot products, in f32.
//
//     y = y + sum over chosen adapters of w * s * B (A x)
//
// Gather form: decode_logits, decode_shrink, decode_expand. Dense form: decode_dense reads the A of every adapter
// beside its gate, so that nothing waits for the choice but decode_choose_expand. Both give the same bits, and a
// token's bits depend on its input and its route alone.

#include "../common/choose.cuh"
#include "expand.cuh"
#include "logits.cuh"
#include "shrink.cuh"

// Tokens that share a reading of a gate row or of an adapter's A.
constexpr int TOKENS = 4;

// A leader's logits: block (slot, tokens).
__device__ __forceinline__ void logits(const MeteoraCall &call, float (*room)[PARTS]) {
    const int index = blockIdx.z;
    if (call.slices[index].leader != index)
        return;
    if (call.tokens == 1)
        gate_logits<1, 1>(call, index, blockIdx.x, 0, room);
    else
        gate_logits<1, TOKENS>(call, index, blockIdx.x, blockIdx.y * TOKENS, room);
}

// The token's choice, made by each block for itself; the leader's first block keeps it.
__device__ __forceinline__ Choice chosen(const MeteoraCall &call, int index, int token, void *shared) {
    const int leader = call.slices[index].leader;
    const Choice choice = Choice::in(shared, call);
    if (threadIdx.x < 32)
        choose(call, leader, token, choice);
    __syncthreads();
    if (blockIdx.x == 0 && leader == index)
        keep(call, index, token, choice);
    return choice;
}

// Chosen slots' products with A: block (share of the rows, token).
__device__ __forceinline__ void shrink(const MeteoraCall &call, void *shared, float (*room)[PARTS]) {
    const int index = blockIdx.z, token = blockIdx.y;
    const Choice choice = chosen(call, index, token, shared);
    int turn = 0;
    for (int i = 0; i < *choice.count; i++) {
        if (choice.weights[i] == 0.0f)
            continue;
        const Adapter adapter = adapter_of(call, call.slices[index], choice.slots[i]);
        for (int group = 0; group < row_groups(adapter); group++, turn++)
            if (turn % gridDim.x == blockIdx.x)
                shrink_rows<1>(call, index, adapter, group, token, 1, room);
    }
}

// Logits and every usable slot's product with A: block (slot and share of its rows, T tokens).
template <int T> __device__ __forceinline__ void dense(const MeteoraCall &call, float (*room)[PARTS]) {
    const int index = blockIdx.z, slot = blockIdx.x / 4, share = blockIdx.x % 4;
    const int first = blockIdx.y * T, tokens = min(T, call.tokens - first);
    if (share == 0 && call.slices[index].leader == index)
        gate_logits<1, T>(call, index, slot, first, room);
    bool wanted = false;
    for (int t = 0; t < tokens; t++)
        wanted = wanted || may_use(call, route_of(call, first + t), slot);
    if (!wanted)
        return;
    const Adapter adapter = adapter_of(call, call.slices[index], slot);
    // From the other end, so that the share with the gate row gets the fewest rows.
    for (int group = 3 - share; group < row_groups(adapter); group += 4)
        shrink_rows<T>(call, index, adapter, group, first, tokens, room);
}

// block (columns, token)
__device__ __forceinline__ void expand_chosen(const MeteoraCall &call) {
    const int index = blockIdx.z, token = blockIdx.y;
    const int64_t row = row_of(call, call.slices[index].leader, token);
    expand(call, index, token, call.chosen_count[row], call.chosen_slots + row * call.places,
              call.chosen_weights + row * call.places);
}

// block (columns, token)
__device__ __forceinline__ void choose_and_expand(const MeteoraCall &call, void *shared) {
    const int index = blockIdx.z, token = blockIdx.y;
    const Choice choice = chosen(call, index, token, shared);
    expand(call, index, token, *choice.count, choice.slots, choice.weights);
}

#define KERNEL(name, threads)                                                                                          \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ MeteoraCall call)

KERNEL(decode_logits, BLOCK * METEORA_DOT_GROUPS) {
    __shared__ float room[TOKENS][PARTS];
    grid_dependency_launch();
    grid_dependency_wait();
    logits(call, room);
}

KERNEL(decode_dense, BLOCK) {
    __shared__ float room[SHRINK_ROWS * TOKENS][PARTS];
    grid_dependency_launch();
    grid_dependency_wait();
    if (call.tokens == 1)
        dense<1>(call, room);
    else
        dense<TOKENS>(call, room);
}

KERNEL(decode_shrink, BLOCK * METEORA_DOT_GROUPS) {
    DYNAMIC_SHARED(shared);
    __shared__ float room[SHRINK_ROWS][PARTS];
    grid_dependency_launch();
    grid_dependency_wait();
    shrink(call, shared, room);
}

KERNEL(decode_expand, BLOCK) {
    grid_dependency_launch();
    grid_dependency_wait();
    expand_chosen(call);
}

KERNEL(decode_choose_expand, BLOCK) {
    DYNAMIC_SHARED(shared);
    grid_dependency_launch();
    grid_dependency_wait();
    choose_and_expand(call, shared);
}
