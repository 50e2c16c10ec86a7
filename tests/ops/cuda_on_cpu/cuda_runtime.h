// A GPU that is a program: enough of the CUDA runtime to compile csrc/cuda/coefficients.cu as C++ and run its
// cooperative kernels on a CPU. A block is a thread of the operating system, its threads are coroutines that change
// over where they meet: in a shuffle of the warp, at the block's barrier, at the grid's. Between two such places they
// run one after the other, in an order that differs from time to time, so that a missing barrier shows as a wrong
// result; a barrier that some threads never reach ends the program with a message. Threads of a warp do not run in
// step, and memory is coherent: what a GPU's caches could hide does not show here.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <ucontext.h>

#include <barrier>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#define __host__
#define __device__
#define __global__ static
#define __shared__ static thread_local
#define __launch_bounds__(...)
#define __restrict__

#undef STD_CUDA_CHECK
#define STD_CUDA_CHECK(call) ((call) == cudaSuccess ? void() : throw std::runtime_error(#call " failed"))
#define aoti_torch_get_current_cuda_stream(device, stream) (static_cast<void>(device), *(stream) = nullptr, 0)

using cudaError_t = int;
using cudaStream_t = void*;
constexpr cudaError_t cudaSuccess = 0;
constexpr int cudaDevAttrMultiProcessorCount = 16;

struct dim3 {
  unsigned x, y = 1, z = 1;
  explicit dim3(unsigned x) : x(x) {}
};

inline thread_local struct {
  unsigned x;
} threadIdx, blockIdx, gridDim;

namespace emulated {

constexpr int kProcessors = 2, kBlocksPerProcessor = 2, kLanes = 32;
constexpr size_t kStack = 128 << 10;

enum class State { ready, in_shuffle, at_block, at_grid, done };

struct Block;
inline thread_local Block* block = nullptr;

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state = State::ready;
  // Two places in turn: a lane may be at the next shuffle before its neighbour has read this one.
  unsigned shuffles = 0;
  char exchanged[2][8];
};

struct Block {
  std::vector<Thread> threads;
  ucontext_t scheduler;
  void (*body)(void*);
  void* argument;
  unsigned current = 0;

  static void enter() {
    block->body(block->argument);
    block->threads[block->current].state = State::done;
    swapcontext(&block->threads[block->current].context, &block->scheduler);
  }

  void wait(State state) {
    const unsigned self = current;
    threads[self].state = state;
    swapcontext(&threads[self].context, &scheduler);
  }

  bool all(State state, size_t begin, size_t end) const {
    for (size_t i = begin; i < end; ++i) {
      if (threads[i].state != state) return false;
    }
    return true;
  }

  void release(size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) threads[i].state = State::ready;
  }

  void run(unsigned index, unsigned blocks, unsigned count, std::barrier<>& grid) {
    block = this;
    blockIdx.x = index, gridDim.x = blocks;
    threads = std::vector<Thread>(count);
    for (Thread& thread : threads) {
      thread.stack.reset(new char[kStack]);
      getcontext(&thread.context);
      thread.context.uc_stack.ss_sp = thread.stack.get();
      thread.context.uc_stack.ss_size = kStack;
      thread.context.uc_link = nullptr;
      makecontext(&thread.context, &Block::enter, 0);
    }
    unsigned random = 1 + index;
    while (!all(State::done, 0, count)) {
      bool moved = false;
      random = random * 1664525u + 1013904223u;
      const unsigned first = random >> 8, step = random >> 31 ? 1 : count - 1;
      for (unsigned i = 0; i < count; ++i) {
        current = (first + i * step) % count;
        if (threads[current].state != State::ready) continue;
        moved = true;
        threadIdx.x = current;
        swapcontext(&scheduler, &threads[current].context);
      }
      for (size_t warp = 0; warp < count; warp += kLanes) {
        if (all(State::in_shuffle, warp, warp + kLanes)) release(warp, warp + kLanes), moved = true;
      }
      if (all(State::at_block, 0, count)) release(0, count), moved = true;
      if (all(State::at_grid, 0, count)) grid.arrive_and_wait(), release(0, count), moved = true;
      if (!moved) {
        std::fprintf(stderr, "a barrier or a shuffle that not every thread of block %u reaches\n", index);
        std::abort();
      }
    }
  }
};

template <typename... Parameters, size_t... I>
void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<Parameters*>(arguments[I])...);
}

}  // namespace emulated

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  emulated::Block& block = *emulated::block;
  const unsigned self = block.current, place = block.threads[self].shuffles++ % 2;
  std::memcpy(block.threads[self].exchanged[place], &value, sizeof value);
  block.wait(emulated::State::in_shuffle);
  std::memcpy(&value, block.threads[self ^ static_cast<unsigned>(mask)].exchanged[place], sizeof value);
  return value;
}

inline void __syncthreads() { emulated::block->wait(emulated::State::at_block); }

inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) { return *value = emulated::kProcessors, cudaSuccess; }

template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, size_t) {
  return *blocks = emulated::kBlocksPerProcessor, cudaSuccess;
}

template <typename... Parameters>
cudaError_t cudaLaunchCooperativeKernel(
    void (*kernel)(Parameters...), dim3 grid, dim3 threads, void** arguments, size_t, cudaStream_t) {
  auto body = [&] { emulated::call(kernel, arguments, std::index_sequence_for<Parameters...>()); };
  std::barrier<> meeting(grid.x);
  std::vector<std::thread> blocks;
  for (unsigned index = 0; index < grid.x; ++index) {
    blocks.emplace_back([&, index] {
      emulated::Block block;
      block.body = [](void* argument) { (*static_cast<decltype(body)*>(argument))(); };
      block.argument = &body;
      block.run(index, grid.x, threads.x, meeting);
    });
  }
  for (std::thread& block : blocks) block.join();
  return cudaSuccess;
}
