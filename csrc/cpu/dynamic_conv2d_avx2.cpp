// Processors with AVX2 and FMA.
#include "dynamic_conv2d_kernels.h"

#include <cstddef>
#include <cstdint>
#include <utility>

#if DYNCONV_X86
// After the headers: what they define must run everywhere.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

namespace {
constexpr int kVector = 8, kVectors = 2;
constexpr int kTile = 6;  // 16 vector registers: 12 sums, 2 lanes, 1 broadcast
}  // namespace

#include "dynamic_conv2d_kernels.inc"

namespace dynconv::cpu {

const Kernels& avx2_kernels() {
  static constexpr Kernels kernels = kernel_table("avx2");
  return kernels;
}

}  // namespace dynconv::cpu

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
