// Any processor: the instruction set that the compiler assumes anyway (SSE2 on x86-64, NEON on Arm).
#include "dynamic_conv2d_kernels.h"

#include <cstddef>
#include <cstdint>
#include <utility>

namespace {
constexpr int kVector = 4, kVectors = 2;
#if defined(__aarch64__)
constexpr int kTile = 14;  // 32 vector registers: 28 sums, 2 lanes, 1 broadcast
#else
constexpr int kTile = 6;  // 16 vector registers: 12 sums, 2 lanes, 1 broadcast
#endif
}  // namespace

#include "dynamic_conv2d_kernels.inc"

namespace dynconv::cpu {

const Kernels& baseline_kernels() {
  static constexpr Kernels kernels = kernel_table("baseline");
  return kernels;
}

}  // namespace dynconv::cpu
