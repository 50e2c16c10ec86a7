// Sums over the pixels of (B, C, H, W), the only part of `coefficients` that is bound by the bandwidth to DRAM.
// The pixels of a sample are cut into chunks so that a small batch still fills the device; each chunk writes its own
// partial sum. No atomics, and a cut that depends on the shape alone: the same bits on every run and on every device.
#pragma once

#include "../coefficients.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>

namespace dynconv {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
// 16-byte loads that a thread has in the air. 2 blocks of 256 threads on each processor then ask for 64 KiB at a time;
// an H200 (4.3 TB/s, 132 processors, 0.7 us to DRAM) needs 23 KiB.
constexpr int kInFlight = 8;
// Blocks that fill the largest device (132 to 148 processors, two on each), the measure of the cut into chunks.
constexpr int64_t kFillingBlocks = 264;
// A chunk pays for its partial sum and for one step of the sum over chunks: no fewer pixels than this, and no more
// chunks of a sample than that.
constexpr int64_t kChunkPixels = 64, kMaxChunks = 64;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The smallest power of two that is at least `value`, within 1 and a warp.
inline int lanes_for(int64_t value) {
  int lanes = 1;
  while (lanes < value && lanes < kWarp) lanes *= 2;
  return lanes;
}

template <typename Acc, typename T>
__device__ Acc widen(T value) {
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
    return static_cast<Acc>(value);
  } else {
    return static_cast<Acc>(static_cast<float>(value));
  }
}

// The sum over each aligned group of `lanes` lanes, a power of two. Every lane of the warp must come here.
template <typename Acc>
__device__ Acc group_sum(Acc value, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

// Several elements read by one load; as zeros they add nothing.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
};

template <typename P, typename T>
__device__ P load_if(bool inside, const T* data) {
  P pack;
  if (inside) {
    pack = *reinterpret_cast<const P*>(data);
  } else {
    memset(&pack, 0, sizeof pack);
  }
  return pack;
}

template <typename Acc, typename T, int kCount>
__device__ Acc pairwise_sum(const Pack<T, kCount>& pack) {
  Acc sums[kCount];
#pragma unroll
  for (int e = 0; e < kCount; ++e) sums[e] = widen<Acc>(pack.values[e]);
#pragma unroll
  for (int width = kCount / 2; width > 0; width /= 2) {
#pragma unroll
    for (int e = 0; e < width; ++e) sums[e] += sums[e + width];
  }
  return sums[0];
}

// How the work of pooling is cut. `lanes`: that many neighbours of a warp share a plane (planes) or the channels of a
// pixel (pixels), `vector` of them in one load.
struct PoolPlan {
  Layout layout;
  int64_t batch_stride, inner_stride, chunks, chunk_pixels, channel_tiles;
  int lanes, vector;
  // Blocks that find something to do.
  int64_t blocks;
};

// One member's part of the sum over `count` neighbouring elements: single ones up to a 16-byte boundary and after the
// last, packs between.
template <typename T>
__device__ Accumulator<T> sum_run(const T* data, int64_t count, int member, int lanes) {
  using Acc = Accumulator<T>;
  constexpr int size = 16 / sizeof(T);
  const int64_t beyond = static_cast<int64_t>(reinterpret_cast<uintptr_t>(data) / sizeof(T)) % size;
  const int64_t missing = beyond == 0 ? 0 : size - beyond, head = missing < count ? missing : count;
  const int64_t packs = (count - head) / size;
  Acc total = 0;
  for (int64_t j = member; j < head; j += lanes) total += widen<Acc>(data[j]);
  for (int64_t j = head + packs * size + member; j < count; j += lanes) total += widen<Acc>(data[j]);
  for (int64_t j = member; j < packs; j += kInFlight * lanes) {
    Pack<T, size> held[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const int64_t at = j + u * lanes;
      held[u] = load_if<Pack<T, size>>(at < packs, data + head + at * size);
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) total += pairwise_sum<Acc>(held[u]);
  }
  return total;
}

// Item i is the run (b, chunk, c) of out[i], summed by a group of lanes.
template <typename T>
__device__ void pool_planes(const T* x, Accumulator<T>* out, const Sizes& n, const PoolPlan& plan, int64_t divisor) {
  using Acc = Accumulator<T>;
  const int lane = threadIdx.x % kWarp, member = lane % plan.lanes, groups = kWarp / plan.lanes;
  const int64_t items = n.batch * plan.chunks * n.channels, step = static_cast<int64_t>(gridDim.x) * kWarps * groups;
  // The bound of the loop is the same for a whole warp, whose lanes meet in the sum.
  for (int64_t first = (static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp) * groups; first < items;
      first += step) {
    const int64_t i = first + lane / plan.lanes;
    Acc total = 0;
    if (i < items) {
      const int64_t row = i / n.channels, c = i - row * n.channels, b = row / plan.chunks;
      const int64_t begin = (row - b * plan.chunks) * plan.chunk_pixels, rest = n.pixels - begin;
      const int64_t count = rest < plan.chunk_pixels ? rest : plan.chunk_pixels;
      total = sum_run(x + b * plan.batch_stride + c * plan.inner_stride + begin, count, member, plan.lanes);
    }
    total = group_sum(total, plan.lanes);
    if (member == 0 && i < items) out[i] = total / static_cast<Acc>(divisor);
  }
}

// A block adds one chunk of one tile of channels: neighbouring lanes read neighbouring channels of a pixel, and the
// groups of lanes share out the pixels.
template <typename T, int kVector>
__device__ void pool_pixels(const T* x, Accumulator<T>* out, const Sizes& n, const PoolPlan& plan, int64_t divisor) {
  using Acc = Accumulator<T>;
  __shared__ Acc of_warp[kWarps][kWarp * kVector];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, column = lane % plan.lanes;
  const int width = plan.lanes * kVector, groups = kThreads / plan.lanes;
  const int64_t tiles = plan.channel_tiles, items = n.batch * plan.chunks * tiles;
  for (int64_t i = blockIdx.x; i < items; i += gridDim.x) {
    const int64_t row = i / tiles, first_channel = (i - row * tiles) * width, b = row / plan.chunks;
    const int64_t begin = (row - b * plan.chunks) * plan.chunk_pixels, channel = first_channel + column * kVector;
    const int64_t end = begin + plan.chunk_pixels < n.pixels ? begin + plan.chunk_pixels : n.pixels;
    const T* base = x + b * plan.batch_stride + channel;
    Acc total[kVector] = {};
    if (channel < n.channels) {
      for (int64_t pixel = begin + threadIdx.x / plan.lanes; pixel < end; pixel += kInFlight * groups) {
        Pack<T, kVector> held[kInFlight];
#pragma unroll
        for (int u = 0; u < kInFlight; ++u) {
          const int64_t at = pixel + u * groups;
          held[u] = load_if<Pack<T, kVector>>(at < end, base + at * plan.inner_stride);
        }
#pragma unroll
        for (int u = 0; u < kInFlight; ++u) {
#pragma unroll
          for (int e = 0; e < kVector; ++e) total[e] += widen<Acc>(held[u].values[e]);
        }
      }
    }
    for (int offset = plan.lanes; offset < kWarp; offset *= 2) {
#pragma unroll
      for (int e = 0; e < kVector; ++e) total[e] += __shfl_xor_sync(kAllLanes, total[e], offset);
    }
    if (lane < plan.lanes) {
#pragma unroll
      for (int e = 0; e < kVector; ++e) of_warp[warp][column * kVector + e] = total[e];
    }
    __syncthreads();
    for (int j = threadIdx.x; j < width && first_channel + j < n.channels; j += kThreads) {
      Acc sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += of_warp[w][j];
      out[row * n.channels + first_channel + j] = sum / static_cast<Acc>(divisor);
    }
    __syncthreads();
  }
}

// out[(b * chunks + chunk) * C + c] = the sum over a chunk, divided by `divisor`.
template <typename T>
__device__ void pool(const T* x, Accumulator<T>* out, const Sizes& n, const PoolPlan& plan, int64_t divisor) {
  if (plan.layout == Layout::planes) {
    pool_planes(x, out, n, plan, divisor);
  } else if (plan.vector == 1) {
    pool_pixels<T, 1>(x, out, n, plan, divisor);
  } else {
    pool_pixels<T, 16 / sizeof(T)>(x, out, n, plan, divisor);
  }
}

template <typename T>
PoolPlan pool_plan(const Tensor& x, const Sizes& n) {
  constexpr int size = 16 / sizeof(T);
  PoolPlan plan{};
  plan.layout = layout_of(x);
  plan.batch_stride = x.stride(0);
  plan.vector = 1;
  plan.channel_tiles = 1;
  double blocks_per_chunk;
  if (plan.layout == Layout::planes) {
    plan.inner_stride = x.stride(1);
    // Four loads for each lane: a 7x7 plane is left to 8 lanes, so that a warp has four planes in the air.
    plan.lanes = std::max(8, lanes_for(ceil_div(n.pixels, 4 * size)));
    blocks_per_chunk = static_cast<double>(n.batch) * n.channels * plan.lanes / kThreads;
  } else {
    plan.inner_stride = pixel_stride_of(x);
    const bool aligned = n.channels % size == 0 && plan.batch_stride % size == 0 && plan.inner_stride % size == 0 &&
                         reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
    if (aligned) plan.vector = size;
    plan.lanes = lanes_for(ceil_div(n.channels, plan.vector));
    plan.channel_tiles = ceil_div(n.channels, static_cast<int64_t>(plan.lanes) * plan.vector);
    blocks_per_chunk = static_cast<double>(n.batch) * plan.channel_tiles;
  }
  const int64_t wanted = static_cast<int64_t>(kFillingBlocks / std::max(blocks_per_chunk, 1.0 / kFillingBlocks));
  const int64_t most = std::min(kMaxChunks, std::max<int64_t>(1, n.pixels / kChunkPixels));
  plan.chunk_pixels = std::max<int64_t>(1, ceil_div(n.pixels, std::clamp<int64_t>(wanted, 1, most)));
  // One chunk even of no pixels: its sum is 0, and the mean then NaN, as torch has it.
  plan.chunks = std::max<int64_t>(1, ceil_div(n.pixels, plan.chunk_pixels));
  plan.blocks = static_cast<int64_t>(blocks_per_chunk * plan.chunks) + 1;
  return plan;
}

}  // namespace
}  // namespace dynconv
