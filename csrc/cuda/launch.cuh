// One cooperative launch: the whole grid is on the device at once, so that its blocks may wait for each other. The
// driver owns the barrier's memory, which makes it safe on side streams, several devices and inside CUDA graphs.
#pragma once

#include <cooperative_groups.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <atomic>

namespace dynconv {
namespace {

inline cudaStream_t current_stream(int device) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

// The blocks of `kernel` that the current device holds at once, asked for once per device: the question costs
// microseconds. Threads that ask together find the same answer.
template <auto kernel, int threads>
int resident_blocks(int device) {
  static std::array<std::atomic<int>, 64> known{};
  const bool remembered = device < static_cast<int>(known.size());
  if (remembered && known[device] > 0) return known[device];
  int processors = 0, blocks = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  STD_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, 0));
  if (remembered) known[device] = processors * blocks;
  return processors * blocks;
}

// At most `wanted` blocks, for a barrier costs the more the more blocks meet there. `device` must be the current one.
template <auto kernel, int threads, typename... Arguments>
void launch_cooperatively(int device, int64_t wanted, Arguments... arguments) {
  const int64_t resident = resident_blocks<kernel, threads>(device);
  const auto blocks = static_cast<unsigned>(std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, resident)));
  void* pointers[] = {&arguments...};
  STD_CUDA_CHECK(cudaLaunchCooperativeKernel(kernel, dim3(blocks), dim3(threads), pointers, 0, current_stream(device)));
}

}  // namespace
}  // namespace dynconv
