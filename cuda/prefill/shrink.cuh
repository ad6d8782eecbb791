// u[token, row] = A[row] . x[token] for the pairs of one slot, kept at 8 * page_start + row.
//
// Tiles of TILE_PAIRS pairs of one slot by TILE_ROWS rank rows; blocks take tiles in turn. On tensor cores where x
// and the adapter are of one 16-bit type and rows are whole 16-byte pieces, with K in steps of TILE_K through
// STAGES stages of shared memory, filled by cp.async; else as dot products, with the bits of the decode path.

#pragma once

#include "../common/dots.cuh"
#include "../common/site.cuh"

constexpr int TILE_PAIRS = 64;
constexpr int TILE_ROWS = 64;
constexpr int TILE_K = 64; // elements: rows of 128 bytes, in 8 pieces of 16
constexpr int STAGES = 3;
constexpr int PIECES = TILE_K / CHUNK;
constexpr int STAGE_PIECES = (TILE_PAIRS + TILE_ROWS) * PIECES;
static_assert(STAGES * STAGE_PIECES * sizeof(uint4) == METEORA_SHRINK_BYTES, "as cuda/abi.h says");

constexpr int DOT_ROWS = 4;
constexpr int DOT_TOKENS = 8;

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

// Piece `piece` of row `row` of a tile: pieces change places by row, so that eight rows lie in different banks.
__device__ __forceinline__ uint4 *piece_of(uint4 *tile, int row, int piece) {
    return tile + row * PIECES + (piece ^ (row & 7));
}

// Rows first_row.. of the adapter for one tile of pairs, by tensor cores.
__device__ __forceinline__ void shrink_tile(const MeteoraCall &call, int index, const Tile &tile,
                                            const Adapter &adapter, int first_row, uint4 *shared) {
    const int rows = min(TILE_ROWS, adapter.rank - first_row), steps = (call.in_features + TILE_K - 1) / TILE_K;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int piece = threadIdx.x % PIECES, first = threadIdx.x / PIECES; // this thread's part of every 16th row
    constexpr int EACH = BLOCK / PIECES;
    const uint16_t *x[TILE_PAIRS / EACH];
#pragma unroll
    for (int i = 0; i < TILE_PAIRS / EACH; i++)
        x[i] = reinterpret_cast<const uint16_t *>(input_of(call, tile.tokens[min(first + i * EACH, tile.pairs - 1)])) +
               piece * CHUNK;
    const uint16_t *a =
        reinterpret_cast<const uint16_t *>(adapter.row(call.slices[index].lora_a, call.in_features, first_row)) +
        piece * CHUNK;

    const auto fetch = [&](int step) {
        uint4 *x_tile = shared + step % STAGES * STAGE_PIECES, *a_tile = x_tile + TILE_PAIRS * PIECES;
        const int column = step * TILE_K;
        const bool exists = column + piece * CHUNK < call.in_features;
#pragma unroll
        for (int i = 0; i < TILE_PAIRS / EACH; i++) {
            const int row = first + i * EACH;
            const bool filled = exists && row < tile.pairs;
            cp_async_16(piece_of(x_tile, row, piece), filled ? x[i] + column : x[i], filled ? 16 : 0);
        }
#pragma unroll
        for (int i = 0; i < TILE_ROWS / EACH; i++) {
            const int row = first + i * EACH;
            const bool filled = exists && row < rows;
            if (i * EACH < rows) // 16 rows that no one multiplies are not fetched
                cp_async_16(piece_of(a_tile, row, piece),
                            filled ? a + int64_t(row) * call.in_features + column : a, filled ? 16 : 0);
        }
    };

    float sums[TILE_ROWS / 8][4] = {};
    for (int step = 0; step < STAGES - 1; step++) {
        if (step < steps)
            fetch(step);
        cp_async_commit();
    }
    for (int step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < steps)
            fetch(step + STAGES - 1);
        cp_async_commit();
        uint4 *x_tile = shared + step % STAGES * STAGE_PIECES, *a_tile = x_tile + TILE_PAIRS * PIECES;
#pragma unroll
        for (int k = 0; k < PIECES; k += 2) {
            uint32_t x_part[4];
            ldmatrix_x4(x_part, piece_of(x_tile, warp * 16 + lane % 16, k + lane / 16));
#pragma unroll
            for (int n = 0; n < TILE_ROWS / 16; n++) {
                if (n * 16 >= rows)
                    break;
                uint32_t a_part[4];
                ldmatrix_x4(a_part, piece_of(a_tile, n * 16 + lane / 16 * 8 + lane % 8, k + lane / 8 % 2));
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float(&d)[4] = sums[2 * n + half];
                    if (adapter.dtype == F16::code)
                        mma_f16(d, x_part, a_part[2 * half], a_part[2 * half + 1]);
                    else
                        mma_bf16(d, x_part, a_part[2 * half], a_part[2 * half + 1]);
                }
            }
        }
    }
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int pair = warp * 16 + lane / 4 + half * 8;
        if (pair >= tile.pairs)
            continue;
        float *u = u_of(call, index, tile.tokens[pair], adapter) + first_row;
#pragma unroll
        for (int n = 0; n < TILE_ROWS / 8; n++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const int row = n * 8 + lane % 4 * 2 + c;
                if (row < rows)
                    u[row] = sums[n][half * 2 + c];
            }
    }
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
            dots<DOT_ROWS, DOT_TOKENS>(w, adapter.dtype, x, call.x_dtype, call.in_features, room,
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
            for (int row = 0; row < adapter.rank; row += TILE_ROWS)
                shrink_tile(call, index, tile, adapter, row, shared);
        } else {
            shrink_tile_by_dots(call, index, tile, adapter, room);
        }
    }
}
