// Sums over the pixels of (B, C, H, W), the only part of `coefficients` that is bound by the bandwidth to DRAM.
// Channels-last pixels are cut into chunks so that a small batch still fills the device; each chunk writes its own
// partial sum. No atomics: a result is the same on every run.
#pragma once

#include "../coefficients.h"

#include <cuda_runtime.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <type_traits>

namespace dynconv {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kPoolThreads = 256;
// Blocks of the pooling launch that fill the largest device (132 to 148 processors, 8 blocks of 256 threads on each).
constexpr int64_t kFillingBlocks = 1184;
// The grid's y and z extents end at 65,535; the kernels walk over what is beyond.
constexpr int64_t kMaxGrid = 65535;

template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename Acc, typename T>
__device__ Acc widen(T value) {
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
    return static_cast<Acc>(value);
  } else {
    return static_cast<Acc>(static_cast<float>(value));
  }
}

template <typename Acc>
__device__ Acc warp_sum(Acc value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

template <typename T>
struct alignas(16) Pack {
  static constexpr int size = 16 / sizeof(T);
  T values[size];
};

struct PlaneShape {
  int64_t planes, channels, pixels, batch_stride, channel_stride;
};

// kThreads threads (one warp, or the whole block) add one plane: warps for many small planes, blocks for few large
// ones.
template <typename T, int kThreads>
__global__ void __launch_bounds__(kPoolThreads)
    pool_planes(const T* __restrict__ x, Accumulator<T>* sums, PlaneShape n) {
  using Acc = Accumulator<T>;
  constexpr int groups = kPoolThreads / kThreads;
  const int member = threadIdx.x % kThreads;
  // The loop bound is uniform within a warp, and within the block where a block owns a plane: shuffles and barriers
  // meet.
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * groups + threadIdx.x / kThreads; i < n.planes;
      i += static_cast<int64_t>(gridDim.x) * groups) {
    const T* plane = x + (i / n.channels) * n.batch_stride + (i % n.channels) * n.channel_stride;
    Acc total = 0;
    int64_t done = 0;
    if (reinterpret_cast<uintptr_t>(plane) % sizeof(Pack<T>) == 0) {
      const auto* packs = reinterpret_cast<const Pack<T>*>(plane);
      const int64_t count = n.pixels / Pack<T>::size;
#pragma unroll 4
      for (int64_t j = member; j < count; j += kThreads) {
        const Pack<T> pack = packs[j];
#pragma unroll
        for (int e = 0; e < Pack<T>::size; ++e) total += widen<Acc>(pack.values[e]);
      }
      done = count * Pack<T>::size;
    }
    for (int64_t j = done + member; j < n.pixels; j += kThreads) total += widen<Acc>(plane[j]);
    total = warp_sum(total);
    if constexpr (kThreads > kWarp) {
      __shared__ Acc of_warp[kThreads / kWarp];
      if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = total;
      __syncthreads();
      if (threadIdx.x == 0) {
        for (int warp = 1; warp < kThreads / kWarp; ++warp) total += of_warp[warp];
      }
      __syncthreads();
    }
    if (member == 0) sums[i] = total;
  }
}

struct PixelShape {
  int64_t batch, channels, pixels, batch_stride, pixel_stride, chunks, chunk_pixels;
};

// Warps read kWarp * kVector neighbouring channels of a pixel, and the warps of a block share out the pixels of one
// chunk.
template <typename T, int kVector>
__global__ void __launch_bounds__(kPoolThreads)
    pool_pixels(const T* __restrict__ x, Accumulator<T>* sums, PixelShape n) {
  using Acc = Accumulator<T>;
  struct alignas(sizeof(T) * kVector) Piece {
    T values[kVector];
  };
  constexpr int warps = kPoolThreads / kWarp;
  __shared__ Acc of_warp[warps][kWarp * kVector];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t first_channel = static_cast<int64_t>(blockIdx.x) * kWarp * kVector;
  const int64_t channel = first_channel + lane * kVector;
  for (int64_t b = blockIdx.z; b < n.batch; b += gridDim.z) {
    for (int64_t chunk = blockIdx.y; chunk < n.chunks; chunk += gridDim.y) {
      Acc total[kVector] = {};
      const int64_t begin = chunk * n.chunk_pixels;
      const int64_t end = begin + n.chunk_pixels < n.pixels ? begin + n.chunk_pixels : n.pixels;
      if (channel < n.channels) {
        const T* base = x + b * n.batch_stride + channel;
#pragma unroll 4
        for (int64_t pixel = begin + warp; pixel < end; pixel += warps) {
          const Piece piece = *reinterpret_cast<const Piece*>(base + pixel * n.pixel_stride);
#pragma unroll
          for (int e = 0; e < kVector; ++e) total[e] += widen<Acc>(piece.values[e]);
        }
      }
#pragma unroll
      for (int e = 0; e < kVector; ++e) of_warp[warp][lane * kVector + e] = total[e];
      __syncthreads();
      for (int j = threadIdx.x; j < kWarp * kVector; j += kPoolThreads) {
        if (first_channel + j < n.channels) {
          Acc sum = 0;
          for (int w = 0; w < warps; ++w) sum += of_warp[w][j];
          sums[(b * n.chunks + chunk) * n.channels + first_channel + j] = sum;
        }
      }
      __syncthreads();
    }
  }
}

unsigned grid_for(int64_t blocks) { return static_cast<unsigned>(std::clamp<int64_t>(blocks, 1, 1 << 30)); }

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename T>
void launch_pool_planes(const Tensor& x, const Sizes& n, Accumulator<T>* sums, cudaStream_t stream) {
  const PlaneShape shape{n.batch * n.channels, n.channels, n.pixels(), x.stride(0), x.stride(1)};
  const T* data = x.const_data_ptr<T>();
  constexpr int64_t planes_per_block = kPoolThreads / kWarp;
  if (n.pixels() >= 16 * kPoolThreads || ceil_div(shape.planes, planes_per_block) < kFillingBlocks / 4) {
    pool_planes<T, kPoolThreads><<<grid_for(shape.planes), kPoolThreads, 0, stream>>>(data, sums, shape);
  } else {
    const unsigned blocks = grid_for(ceil_div(shape.planes, planes_per_block));
    pool_planes<T, kWarp><<<blocks, kPoolThreads, 0, stream>>>(data, sums, shape);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, int kVector>
void launch_pool_pixels(const Tensor& x, const PixelShape& n, Accumulator<T>* sums, cudaStream_t stream) {
  const dim3 grid(grid_for(ceil_div(n.channels, kWarp * kVector)), static_cast<unsigned>(std::min(n.chunks, kMaxGrid)),
      static_cast<unsigned>(std::min(n.batch, kMaxGrid)));
  pool_pixels<T, kVector><<<grid, kPoolThreads, 0, stream>>>(x.const_data_ptr<T>(), sums, n);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// The pixels of a sample, cut so that the launch fills the device, and into no chunk of less than 64 pixels.
PixelShape pixel_shape(const Tensor& x, const Sizes& n, int64_t channels_per_block) {
  const int64_t blocks = std::max<int64_t>(1, n.batch * ceil_div(n.channels, channels_per_block));
  const int64_t wanted = std::max<int64_t>(1, ceil_div(kFillingBlocks, blocks));
  const int64_t chunks = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, n.pixels() / 64));
  const int64_t chunk_pixels = std::max<int64_t>(1, ceil_div(n.pixels(), chunks));
  // One chunk even of no pixels: its sum is 0, and the mean then NaN, as torch has it.
  const int64_t used = std::max<int64_t>(1, ceil_div(n.pixels(), chunk_pixels));
  return {n.batch, n.channels, n.pixels(), x.stride(0), pixel_stride_of(x), ceil_div(n.pixels(), chunk_pixels),
      chunk_pixels};
}

// Sums over the pixels, (B, chunks, C).
template <typename T>
Tensor pool(const Tensor& x, const Sizes& n, cudaStream_t stream) {
  using Acc = Accumulator<T>;
  const ScalarType type = accumulation_type(x.scalar_type());
  const Layout layout = layout_of(x);
  if (layout != Layout::pixels) {
    Tensor sums = torch::stable::new_empty(x, {n.batch, 1, n.channels}, type);
    launch_pool_planes<T>(
        layout == Layout::planes ? x : torch::stable::contiguous(x), n, sums.mutable_data_ptr<Acc>(), stream);
    return sums;
  }
  constexpr int vector = std::max<int>(1, 8 / sizeof(T));
  const bool aligned = n.channels % vector == 0 && x.stride(0) % vector == 0 && pixel_stride_of(x) % vector == 0 &&
                       reinterpret_cast<uintptr_t>(x.const_data_ptr()) % (sizeof(T) * vector) == 0;
  const PixelShape shape = pixel_shape(x, n, kWarp * (aligned ? vector : 1));
  Tensor sums = torch::stable::new_empty(x, {n.batch, shape.chunks, n.channels}, type);
  if (aligned) {
    launch_pool_pixels<T, vector>(x, shape, sums.mutable_data_ptr<Acc>(), stream);
  } else {
    launch_pool_pixels<T, 1>(x, shape, sums.mutable_data_ptr<Acc>(), stream);
  }
  return sums;
}

}  // namespace
}  // namespace dynconv
