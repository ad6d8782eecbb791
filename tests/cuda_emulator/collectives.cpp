// What a warp does together, conversions, and cp.async.

#include "machine.h"
#include <ptx.cuh>

#include <array>

namespace {

struct Shuffle {
    uint64_t value, result;
    int source;
};

void shuffle_lanes(void *const *arguments, uint32_t mask) {
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) {
            Shuffle *self = static_cast<Shuffle *>(arguments[i]);
            if (!(mask >> (self->source & 31) & 1))
                fault("a shuffle from a lane that takes no part");
            self->result = static_cast<Shuffle *>(arguments[self->source & 31])->value;
        }
}

struct Vote {
    bool predicate;
    uint32_t result;
};

void vote_lanes(void *const *arguments, uint32_t mask) {
    uint32_t votes = 0;
    for (int i = 0; i < 32; i++)
        if ((mask >> i & 1) && static_cast<Vote *>(arguments[i])->predicate)
            votes |= 1u << i;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1)
            static_cast<Vote *>(arguments[i])->result = votes;
}

void order_lanes(void *const *, uint32_t) { block.warps[block.current->index / 32].epoch++; }

struct Product {
    float *d;
    const uint32_t *a;
    uint32_t b0, b1;
};

// PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point types" and "... mma.m16n8k8 .tf32":
// group = lane / 4, in_group = lane % 4.
struct Halves { // m16n8k16: two elements in a register
    static constexpr int k = 16;
    static void a_at(int group, int in_group, int i, int &row, int &column) { // i of 8
        row = (i / 2) % 2 == 0 ? group : group + 8;
        column = in_group * 2 + i % 2 + (i >= 4 ? 8 : 0);
    }
    static void b_at(int group, int in_group, int i, int &row, int &column) { // i of 4
        row = in_group * 2 + i % 2 + (i >= 2 ? 8 : 0);
        column = group;
    }
};

struct Tf32s { // m16n8k8: one element in a register
    static constexpr int k = 8;
    static void a_at(int group, int in_group, int i, int &row, int &column) { // i of 4
        row = i % 2 == 0 ? group : group + 8;
        column = i < 2 ? in_group : in_group + 4;
    }
    static void b_at(int group, int in_group, int i, int &row, int &column) { // i of 2
        row = in_group + 4 * i;
        column = group;
    }
};

float bf16(uint32_t bits) { return __uint_as_float(bits << 16); }
float f16(uint32_t bits) { return f32_of_f16(uint16_t(bits)); }
float tf32(uint32_t bits) { return __uint_as_float(bits & 0xffffe000u); } // the rest is not looked at

template <class Layout, float (*value)(uint32_t)> float part(uint32_t bits, int i) {
    return Layout::k == 16 ? value(bits >> 16 * (i % 2) & 0xffff) : value(bits);
}

template <class Layout, float (*value)(uint32_t)> void multiply(void *const *arguments, uint32_t mask) {
    constexpr int K = Layout::k, PER_REGISTER = K / 8;
    if (mask != 0xffffffffu)
        fault("an mma without the whole warp");
    static float a[16][K], b[K][8];
    int row, column;
    for (int lane = 0; lane < 32; lane++) {
        const Product *product = static_cast<Product *>(arguments[lane]);
        for (int i = 0; i < 4 * PER_REGISTER; i++) {
            Layout::a_at(lane / 4, lane % 4, i, row, column);
            a[row][column] = part<Layout, value>(product->a[i / PER_REGISTER], i);
        }
        for (int i = 0; i < 2 * PER_REGISTER; i++) {
            Layout::b_at(lane / 4, lane % 4, i, row, column);
            b[row][column] = part<Layout, value>(i / PER_REGISTER ? product->b1 : product->b0, i);
        }
    }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            float &d = static_cast<Product *>(arguments[lane])->d[i];
            row = lane / 4 + (i < 2 ? 0 : 8);
            column = lane % 4 * 2 + i % 2;
            double sum = d;
            for (int k = 0; k < K; k++)
                sum += double(a[row][k]) * b[k][column];
            d = float(sum);
        }
}

struct Matrices {
    const uint8_t *row;
    uint32_t *registers;
};

// Lane 8 m + r points to row r of matrix m; lane l gets elements 2 (l % 4) and the next of row l / 4 of each.
void load_matrices(void *const *arguments, uint32_t mask) {
    if (mask != 0xffffffffu)
        fault("an ldmatrix without the whole warp");
    for (int matrix = 0; matrix < 4; matrix++)
        for (int lane = 0; lane < 32; lane++) {
            const uint8_t *row = static_cast<Matrices *>(arguments[8 * matrix + lane / 4])->row;
            memcpy(&static_cast<Matrices *>(arguments[lane])->registers[matrix], row + lane % 4 * 4, 4);
        }
}

} // namespace

uint64_t shuffle(uint32_t mask, uint64_t value, int source) {
    Shuffle argument = {value, 0, source};
    collective(mask, shuffle_lanes, &argument);
    return argument.result;
}

uint32_t __ballot_sync(uint32_t mask, bool predicate) {
    Vote argument = {predicate, 0};
    collective(mask, vote_lanes, &argument);
    return argument.result;
}

void __syncwarp(uint32_t mask) { collective(mask, order_lanes, nullptr); }

int atomicAdd(int *address, int value) {
    check(address, sizeof *address, true, true);
    const int old = *address;
    *address = old + value;
    return old;
}

void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    Product argument = {d, a, b0, b1};
    collective(0xffffffffu, multiply<Halves, bf16>, &argument);
}

void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    Product argument = {d, a, b0, b1};
    collective(0xffffffffu, multiply<Halves, f16>, &argument);
}

void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    Product argument = {d, a, b0, b1};
    collective(0xffffffffu, multiply<Tf32s, tf32>, &argument);
}

void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
    if (!is_shared(row, 16))
        fault("an ldmatrix from what is not shared memory");
    check(row, 16, false);
    Matrices argument = {static_cast<const uint8_t *>(row), r};
    collective(0xffffffffu, load_matrices, &argument);
}

void cp_async_16(void *shared, const void *global, int bytes) {
    Thread &thread = *block.current;
    const Copy copy = {static_cast<uint8_t *>(shared), static_cast<const uint8_t *>(global), bytes, thread.groups};
    begin_copy(copy);
    thread.copies.push_back(copy);
}

void cp_async_commit() { block.current->groups++; }

void cp_async_wait_all_but(int groups) {
    Thread &thread = *block.current;
    std::vector<Copy> left;
    for (const Copy &copy : thread.copies) {
        if (copy.group < thread.groups - groups)
            deliver(copy);
        else
            left.push_back(copy);
    }
    thread.copies = left;
}

void grid_dependency_wait() { block.current->waited = true; }

float f32_of_f16(uint16_t bits) { return float(same_bits<_Float16>(bits)); }

uint16_t f16_of_f32(float value) { return same_bits<uint16_t>(_Float16(value)); }

uint16_t bf16_of_f32(float value) {
    const uint32_t bits = __float_as_uint(value);
    if (value != value)
        return 0x7fff;
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint32_t tf32_of_f32(float value) {
    const uint32_t bits = __float_as_uint(value);
    return (bits & 0x7f800000u) == 0x7f800000u ? bits & 0xffffe000u : (bits + 0x1000) & 0xffffe000u;
}
