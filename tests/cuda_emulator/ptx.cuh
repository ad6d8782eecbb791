// What cuda/ptx.cuh declares, for the emulator; fragments as the PTX ISA lays them out (collectives.cpp).

#pragma once

#include "abi.h"

#define DYNAMIC_SHARED(name) uint4 *const name = dynamic_shared()

uint4 *dynamic_shared();

float f32_of_f16(uint16_t bits);
uint16_t f16_of_f32(float value);
uint16_t bf16_of_f32(float value);
uint32_t tf32_of_f32(float value);

void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void ldmatrix_x4(uint32_t (&r)[4], const void *row);

void cp_async_16(void *shared, const void *global, int bytes);
void cp_async_commit();
void cp_async_wait_all_but(int groups);
template <int N> void cp_async_wait() { cp_async_wait_all_but(N); }

void grid_dependency_wait();
inline void grid_dependency_launch() {}
