// Processors with AVX-512 (F, VL, BW, DQ).
#include "dynamic_conv2d_kernels.h"

#include <cstddef>
#include <cstdint>
#include <utility>

#if DYNCONV_X86
// After the headers: what they define must run everywhere.
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,prefer-vector-width=512")
#endif

namespace {
constexpr int kVector = 16, kVectors = 2;
constexpr int kTile = 14;  // 32 vector registers: 28 sums, 2 lanes, 1 broadcast
}  // namespace

#include "dynamic_conv2d_kernels.inc"

namespace dynconv::cpu {

const Kernels& avx512_kernels() {
  static constexpr Kernels kernels = kernel_table("avx512");
  return kernels;
}

}  // namespace dynconv::cpu

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
