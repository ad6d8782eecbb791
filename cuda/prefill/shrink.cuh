// u[token, row] = A[row] . x[token] for the pairs of one slot, kept at 8 * page_start + row.
//
// Tiles of TILE_PAIRS pairs of one slot by all of its rank rows; blocks take tiles in turn. On tensor cores where x
// and the adapter are of one 16-bit type and rows are whole 16-byte pieces: K comes in steps through STAGES stages of
// shared memory, filled by cp.async, three under way while one is multiplied, for a tile waits for memory most of
// its time; each warp multiplies a quarter of a step, and the four sums are added in order. Else as dot products, in one
// group: for four there are no registers.

#pragma once

#include "../common/dots.cuh"
#include "../common/site.cuh"

constexpr int TILE_PAIRS = 32;
constexpr int STAGES = 4;
constexpr int STAGE_PIECES = METEORA_SHRINK_BYTES / STAGES / sizeof(uint4);

constexpr int DOT_ROWS = 4;
constexpr int DOT_TOKENS = 4;

// Up to ROWS rank rows at a time by K elements: a stage holds (TILE_PAIRS + ROWS) rows of K elements.
template <int ROWS, int K> struct Shape {
    static constexpr int rows = ROWS;
    static constexpr int k = K;
    static constexpr int pieces = K / CHUNK;
    static_assert((TILE_PAIRS + ROWS) * pieces <= STAGE_PIECES, "a stage fits");
    static_assert(K % (WARPS * 16) == 0, "each warp has whole products");
    static_assert(WARPS * TILE_PAIRS * ROWS * sizeof(float) <= METEORA_SHRINK_BYTES, "the warps' sums fit");
};
typedef Shape<16, 128> FewRows;
typedef Shape<64, 64> ManyRows;

// Some pairs of one slot.
struct Tile {
    int slot; // below zero: no more tiles
    int pairs;
    const int32_t *tokens;
};

// Tile number `tile` of all segments; one warp.
__device__ __forceinline__ Tile find_tile(const MeteoraCall &call, int leader, int tile) {
    const int32_t *indptr = call.segment_indptr + int64_t(leader) * (call.slots + 2);
    const int lane = threadIdx.x % 32;
    int before = 0; // tiles of lower slots
    for (int first = 0; first < call.slots; first += 32) {
        const int slot = first + lane;
        const int start = slot < call.slots ? indptr[slot] : 0;
        const int length = slot < call.slots ? indptr[slot + 1] - start : 0;
        const int tiles = (length + TILE_PAIRS - 1) / TILE_PAIRS;
        int up_to = tiles;
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) {
            const int lower = __shfl_up_sync(0xffffffffu, up_to, distance);
            up_to += lane >= distance ? lower : 0;
        }
        const uint32_t beyond = __ballot_sync(0xffffffffu, before + up_to > tile);
        if (beyond) {
            const int owner = __ffs(beyond) - 1;
            const int offset = (tile - before - __shfl_sync(0xffffffffu, up_to - tiles, owner)) * TILE_PAIRS;
            const int of_owner = __shfl_sync(0xffffffffu, length, owner) - offset;
            const int64_t at = row_of(call, leader, 0) * call.places + __shfl_sync(0xffffffffu, start, owner) + offset;
            return {first + owner, min(TILE_PAIRS, of_owner), call.pair_tokens + at};
        }
        before += __shfl_sync(0xffffffffu, up_to, 31);
    }
    return {-1, 0, nullptr};
}

__device__ __forceinline__ float *u_of(const MeteoraCall &call, int index, int token, const Adapter &adapter) {
    return call.u + row_of(call, index, token) * call.u_stride + adapter.page_start * PAGE_ROWS;
}

// Piece `piece` of row `row` of a stage: pieces change places by row, so that eight rows lie in different banks.
template <int PIECES> __device__ __forceinline__ uint4 *piece_of(uint4 *rows, int row, int piece) {
    return rows + row * PIECES + (piece ^ (row & 7));
}

// Brings step `step` of the tile's inputs and of the adapter's rows first_row.. into its stage.
template <class S>
__device__ __forceinline__ void fetch(const MeteoraCall &call, const Tile &tile, const uint8_t *a, int rows, int step,
                                      uint4 *stage) {
    const int needed = TILE_PAIRS + (rows + 15) / 16 * 16;
    for (int i = threadIdx.x; i < needed * S::pieces; i += BLOCK) {
        const int row = i / S::pieces, piece = i % S::pieces, column = step * S::k + piece * CHUNK;
        const bool of_x = row < TILE_PAIRS;
        const bool exists = column < call.in_features && (of_x ? row < tile.pairs : row - TILE_PAIRS < rows);
        const uint8_t *from = a;
        if (exists && of_x)
            from = input_of(call, tile.tokens[row]) + column * 2;
        else if (exists)
            from = a + (int64_t(row - TILE_PAIRS) * call.in_features + column) * 2;
        cp_async_16(piece_of<S::pieces>(stage, row, piece), from, exists ? 16 : 0);
    }
}

// sums[m][n] += this warp's quarter of a stage, 16 pairs times eight rows each.
template <class S>
__device__ __forceinline__ void multiply_stage(float (&sums)[TILE_PAIRS / 16][S::rows / 8][4], uint4 *stage, int rows,
                                               int dtype) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint4 *const a_rows = stage + TILE_PAIRS * S::pieces;
#pragma unroll
    for (int step = 0; step < S::k / (WARPS * 16); step++) {
        const int k = (warp * (S::k / (WARPS * 16)) + step) * 2; // in pieces
        uint32_t x_part[TILE_PAIRS / 16][4];
#pragma unroll
        for (int m = 0; m < TILE_PAIRS / 16; m++)
            ldmatrix_x4(x_part[m], piece_of<S::pieces>(stage, m * 16 + lane % 16, k + lane / 16));
#pragma unroll
        for (int n = 0; n < S::rows / 16; n++) {
            if (n * 16 >= rows)
                break;
            uint32_t a_part[4];
            ldmatrix_x4(a_part, piece_of<S::pieces>(a_rows, n * 16 + lane / 16 * 8 + lane % 8, k + lane / 8 % 2));
#pragma unroll
            for (int m = 0; m < TILE_PAIRS / 16; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float(&d)[4] = sums[m][2 * n + half];
                    if (dtype == F16::code)
                        mma_f16(d, x_part[m], a_part[2 * half], a_part[2 * half + 1]);
                    else
                        mma_bf16(d, x_part[m], a_part[2 * half], a_part[2 * half + 1]);
                }
        }
    }
}

// Up to S::rows rows of the adapter, from first_row on, for one tile of pairs, by tensor cores.
template <class S>
__device__ __forceinline__ void shrink_tile(const MeteoraCall &call, int index, const Tile &tile,
                                            const Adapter &adapter, int first_row, uint4 *shared) {
    const int rows = min(S::rows, adapter.rank - first_row), steps = (call.in_features + S::k - 1) / S::k;
    const uint8_t *a = adapter.row(call.slices[index].lora_a, call.in_features, first_row);
    float sums[TILE_PAIRS / 16][S::rows / 8][4] = {};
    for (int step = 0; step < STAGES - 1; step++) {
        if (step < steps)
            fetch<S>(call, tile, a, rows, step, shared + step * STAGE_PIECES);
        cp_async_commit();
    }
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        const int next = step + STAGES - 1;
        if (next < steps)
            fetch<S>(call, tile, a, rows, next, shared + next % STAGES * STAGE_PIECES);
        cp_async_commit();
        multiply_stage<S>(sums, shared + step % STAGES * STAGE_PIECES, rows, adapter.dtype);
    }
    cp_async_wait<0>();
    __syncthreads();
    // The stages are free: the warps' sums, [WARPS, TILE_PAIRS, S::rows].
    float *const parts = reinterpret_cast<float *>(shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int m = 0; m < TILE_PAIRS / 16; m++)
#pragma unroll
        for (int n = 0; n < S::rows / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int pair = m * 16 + lane / 4 + i / 2 * 8, row = n * 8 + lane % 4 * 2 + i % 2;
                parts[(warp * TILE_PAIRS + pair) * S::rows + row] = sums[m][n][i];
            }
    __syncthreads();
    for (int i = threadIdx.x; i < tile.pairs * S::rows; i += BLOCK) {
        const int row = i % S::rows;
        float sum = parts[i];
#pragma unroll
        for (int other = 1; other < WARPS; other++)
            sum += parts[other * TILE_PAIRS * S::rows + i];
        if (row < rows)
            u_of(call, index, tile.tokens[i / S::rows], adapter)[first_row + row] = sum;
    }
    __syncthreads();
}

// All rows of the adapter for one tile of pairs, by dot products.
__device__ __forceinline__ void shrink_tile_by_dots(const MeteoraCall &call, int index, const Tile &tile,
                                                    const Adapter &adapter, float (*room)[WARPS]) {
    for (int first_pair = 0; first_pair < tile.pairs; first_pair += DOT_TOKENS) {
        const int pairs = min(DOT_TOKENS, tile.pairs - first_pair);
        const uint8_t *x[DOT_TOKENS];
#pragma unroll
        for (int t = 0; t < DOT_TOKENS; t++)
            x[t] = input_of(call, tile.tokens[first_pair + min(t, pairs - 1)]);
        for (int first_row = 0; first_row < adapter.rank; first_row += DOT_ROWS) {
            const int rows = min(DOT_ROWS, adapter.rank - first_row);
            const uint8_t *w[DOT_ROWS];
#pragma unroll
            for (int r = 0; r < DOT_ROWS; r++)
                w[r] = adapter.row(call.slices[index].lora_a, call.in_features, first_row + min(r, rows - 1));
            dots<DOT_ROWS, DOT_TOKENS, 1>(w, adapter.dtype, x, call.x_dtype, call.in_features, room,
                                          [&](int r, int t, float dot) {
                if (r < rows && t < pairs)
                    u_of(call, index, tile.tokens[first_pair + t], adapter)[first_row + r] = dot;
            });
        }
    }
}

__device__ __forceinline__ void shrink_pairs(const MeteoraCall &call, uint4 *shared, Tile *current,
                                             float (*room)[WARPS]) {
    const int index = blockIdx.z;
    const MeteoraSlice &slice = call.slices[index];
    const bool whole_pieces = call.x_dtype != F32::code && call.in_features % CHUNK == 0 && call.x_stride % CHUNK == 0 && aligned(call.x, 16) &&
                              aligned(slice.lora_a, 16);
    for (int number = blockIdx.x;; number += gridDim.x) {
        if (threadIdx.x < 32) {
            const Tile found = find_tile(call, slice.leader, number);
            if (threadIdx.x == 0)
                *current = found;
        }
        __syncthreads();
        const Tile tile = *current;
        __syncthreads();
        if (tile.slot < 0)
            return;
        const Adapter adapter = adapter_of(call, slice, tile.slot);
        if (adapter.dtype == call.x_dtype && whole_pieces) {
            if (adapter.rank <= FewRows::rows)
                shrink_tile<FewRows>(call, index, tile, adapter, 0, shared);
            else
                for (int row = 0; row < adapter.rank; row += ManyRows::rows)
                    shrink_tile<ManyRows>(call, index, tile, adapter, row, shared);
        } else {
            shrink_tile_by_dots(call, index, tile, adapter, room);
        }
    }
}
