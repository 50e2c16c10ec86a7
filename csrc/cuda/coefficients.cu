// coefficients on CUDA: the formula stands in csrc/cpu/coefficients.cpp. One cooperative launch forward and one
// backward, whatever the dtypes: weights are widened as they are read, and gradients rounded as they are written.
// No atomics: a result is the same on every run. A comparison is written so that a NaN falls through it: NaN in gives
// NaN out. What one block writes and another reads after a barrier is never __restrict__, for the compiler would read
// it through the cache that does not see the write.
#include "../coefficients.h"
#include "launch.cuh"
#include "pool.cuh"

#include <torch/csrc/stable/accelerator.h>

#include <cmath>

namespace dynconv {
namespace {

// Registers for kInFlight loads of 16 bytes beside the sums: 128 for each thread, at no spill.
constexpr int kBlocksPerProcessor = 2;
// A first layer of at most this many weights is left to one block per sample. In a larger one the warps of the whole
// grid share out the hidden units, which costs one or two barriers more, of about a microsecond each (computed from
// latencies, not measured: 64 rows of 256 weights are 8 dependent steps for each of 8 warps).
constexpr int64_t kBlockWeights = 16384;
// Samples that share one read of a weight, where the whole grid works on the first layer.
constexpr int kSamples = 4;
// Rows of a gradient that share one read of the right-hand factor.
constexpr int kRows = 4;

// A tensor whose element type is known when the kernel runs, so that one kernel serves every combination of types.
struct Typed {
  void* data;
  ScalarType type;
};

// f(pointer to the elements)
template <typename F>
__device__ void visit(const Typed& tensor, const F& f) {
  switch (tensor.type) {
    case ScalarType::Double:
      return f(static_cast<double*>(tensor.data));
    case ScalarType::BFloat16:
      return f(static_cast<BFloat16*>(tensor.data));
    case ScalarType::Half:
      return f(static_cast<Half*>(tensor.data));
    default:
      return f(static_cast<float*>(tensor.data));
  }
}

template <typename Acc>
__device__ void store(const Typed& out, int64_t i, Acc value) {
  visit(out, [&](auto* data) { data[i] = static_cast<std::remove_pointer_t<decltype(data)>>(value); });
}

// A temperature on the device is read there: the host never waits for it.
template <typename Acc>
struct Temperature {
  const void* on_device;
  bool is_double;
  Acc value;
  __device__ Acc get() const {
    if (on_device == nullptr) return value;
    return static_cast<Acc>(is_double ? *static_cast<const double*>(on_device) : *static_cast<const float*>(on_device));
  }
};

template <typename Acc>
__device__ Acc gate(Acc z, ScaleKind kind) {
  if (kind == ScaleKind::sigmoid) return 1 + 1 / (1 + exp(-z));
  const Acc shifted = z + 3;
  return (shifted < 0 ? 0 : shifted > 6 ? 6 : shifted) / 3;
}

// From z, not from s, as csrc/cpu/coefficients.cpp explains.
template <typename Acc>
__device__ Acc sigmoid_slope(Acc z) {
  const Acc decay = exp(-fabs(z));
  return decay / ((1 + decay) * (1 + decay));
}

template <typename Acc>
__device__ Acc hard_slope(Acc s) {
  return s <= 0 || s >= 2 ? Acc(0) : Acc(1) / 3;
}

// As std::max and yet NaN if either is: fmaxf would drop it.
template <typename Acc>
__device__ Acc warp_max(Acc value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const Acc other = __shfl_xor_sync(kAllLanes, value, offset);
    value = value >= other || value != value ? value : other;
  }
  return value;
}

template <typename Acc>
struct ForwardData {
  Typed w1, w2;
  // (B, chunks, C) where there is more than one chunk; one chunk writes its mean to `pooled`.
  Acc *partial, *pooled, *hidden, *pi, *s;
  Temperature<Acc> temperature;
  Sizes n;
  int64_t chunks;
  ScaleKind kind;
  // Lanes that share one scale, a power of two.
  int scale_lanes;
};

// The chunks' sums are added in double: their number grows with the image, and float would lose what they kept.
template <typename Acc>
__device__ void finish_mean(const ForwardData<Acc>& d, int64_t i) {
  const int64_t b = i / d.n.channels, c = i - b * d.n.channels;
  const Acc* sums = d.partial + b * d.chunks * d.n.channels + c;
  double total = 0;
#pragma unroll 8
  for (int64_t chunk = 0; chunk < d.chunks; ++chunk) total += sums[chunk * d.n.channels];
  d.pooled[i] = static_cast<Acc>(total) / static_cast<Acc>(d.n.pixels);
}

// Hidden unit h of kCount samples from b on, by one warp.
template <int kCount, typename Acc>
__device__ void hidden_unit(const ForwardData<Acc>& d, int64_t b, int64_t h, int lane) {
  const Sizes& n = d.n;
  const Acc* pooled[kCount];
  Acc total[kCount] = {};
#pragma unroll
  for (int u = 0; u < kCount; ++u) pooled[u] = d.pooled + (b + u < n.batch ? b + u : b) * n.channels;
  visit(d.w1, [&](const auto* w1) {
    const auto* row = w1 + h * n.channels;
#pragma unroll 4
    for (int64_t c = lane; c < n.channels; c += kWarp) {
      const Acc weight = widen<Acc>(row[c]);
#pragma unroll
      for (int u = 0; u < kCount; ++u) total[u] += weight * pooled[u][c];
    }
  });
#pragma unroll
  for (int u = 0; u < kCount; ++u) {
    const Acc value = group_sum(total[u], kWarp);
    if (lane == 0 && b + u < n.batch) d.hidden[(b + u) * n.hidden + h] = value < 0 ? Acc(0) : value;
  }
}

// Row o of w2 times the hidden units of sample b, in each of the neighbouring `lanes` that share it; 0 beyond the last
// row. `d` is the data of either direction.
template <typename Data>
__device__ auto output_of(const Data& d, int64_t b, int64_t o, int lane, int lanes) {
  const auto* hidden = d.hidden + b * d.n.hidden;
  std::remove_const_t<std::remove_reference_t<decltype(*hidden)>> total = 0;
  using Acc = decltype(total);
  if (o < d.n.outputs()) {
    visit(d.w2, [&](const auto* w2) {
      const auto* row = w2 + o * d.n.hidden;
#pragma unroll 4
      for (int64_t h = lane % lanes; h < d.n.hidden; h += lanes) total += hidden[h] * widen<Acc>(row[h]);
    });
  }
  return group_sum(total, lanes);
}

// pi of sample b, by one warp.
template <typename Acc>
__device__ void softmax(const ForwardData<Acc>& d, int64_t b, int lane) {
  Acc* pi = d.pi + b * d.n.bases;
  for (int64_t k = 0; k < d.n.bases; ++k) {
    const Acc logit = output_of(d, b, k, lane, kWarp);
    if (k % kWarp == lane) pi[k] = logit;
  }
  // From here on a lane touches its own entries alone.
  const Acc temperature = d.temperature.get();
  Acc largest = -INFINITY, total = 0;
  for (int64_t k = lane; k < d.n.bases; k += kWarp) {
    const Acc value = pi[k] / temperature;
    pi[k] = value;
    largest = value >= largest || value != value ? value : largest;
  }
  largest = warp_max(largest);
  for (int64_t k = lane; k < d.n.bases; k += kWarp) {
    const Acc value = exp(pi[k] - largest);
    pi[k] = value;
    total += value;
  }
  total = group_sum(total, kWarp);
  for (int64_t k = lane; k < d.n.bases; k += kWarp) pi[k] /= total;
}

// As many scales of sample b as a warp has groups of lanes, from `first` on.
template <typename Acc>
__device__ void scales(const ForwardData<Acc>& d, int64_t b, int64_t first, int lane) {
  const int64_t o = first + lane / d.scale_lanes;
  const Acc z = output_of(d, b, d.n.bases + o, lane, d.scale_lanes);
  if (o < d.n.scales && lane % d.scale_lanes == 0) d.s[b * d.n.scales + o] = gate(z, d.kind);
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    forward_kernel(const T* x, ForwardData<Accumulator<T>> d, PoolPlan plan, bool grid_wide) {
  const auto grid = cooperative_groups::this_grid();
  const Sizes& n = d.n;
  const bool cut = d.chunks > 1;
  pool(x, cut ? d.partial : d.pooled, n, plan, cut ? 1 : n.pixels);
  grid.sync();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, scales_of_warp = kWarp / d.scale_lanes;
  if (!grid_wide) {
    for (int64_t b = blockIdx.x; b < n.batch; b += gridDim.x) {
      for (int64_t c = threadIdx.x; cut && c < n.channels; c += kThreads) finish_mean(d, b * n.channels + c);
      __syncthreads();
      for (int64_t h = warp; h < n.hidden; h += kWarps) hidden_unit<1>(d, b, h, lane);
      __syncthreads();
      if (warp == 0) softmax(d, b, lane);
      for (int64_t o = warp * scales_of_warp; o < n.scales; o += kWarps * scales_of_warp) scales(d, b, o, lane);
    }
    return;
  }
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  if (cut) {
    for (int64_t i = first * kWarp + lane; i < n.batch * n.channels; i += step * kWarp) finish_mean(d, i);
    grid.sync();
  }
  const int64_t units = (n.batch + kSamples - 1) / kSamples * n.hidden;
  for (int64_t i = first; i < units; i += step) hidden_unit<kSamples>(d, i / n.hidden * kSamples, i % n.hidden, lane);
  grid.sync();
  const int64_t parts = 1 + (n.scales + scales_of_warp - 1) / scales_of_warp;
  for (int64_t i = first; i < n.batch * parts; i += step) {
    const int64_t b = i / parts, part = i - b * parts;
    if (part == 0) {
      softmax(d, b, lane);
    } else {
      scales(d, b, (part - 1) * scales_of_warp, lane);
    }
  }
}

template <typename Acc>
struct BackwardData {
  // The gradients of pi and s are null where nothing depends on them.
  const Acc *grad_pi, *grad_s, *pi, *s, *pooled, *hidden;
  Typed w1, w2, grad_pixel, grad_w1, grad_w2;
  Acc *grad_outputs, *grad_hiddens;
  Temperature<Acc> temperature;
  Sizes n;
  ScaleKind kind;
  int scale_lanes;
};

// The gradient of the second layer's outputs, of one sample by one block.
template <typename Acc>
__device__ void differentiate_outputs(const BackwardData<Acc>& d, int64_t b) {
  const Sizes& n = d.n;
  Acc* out = d.grad_outputs + b * n.outputs();
  if (threadIdx.x < kWarp && n.bases > 0) {
    const Acc* pi = d.pi + b * n.bases;
    const auto grad = [&](int64_t k) { return d.grad_pi == nullptr ? Acc(0) : d.grad_pi[b * n.bases + k]; };
    Acc mean = 0;
    for (int64_t k = threadIdx.x; k < n.bases; k += kWarp) mean += pi[k] * grad(k);
    mean = group_sum(mean, kWarp);
    const Acc temperature = d.temperature.get();
    for (int64_t k = threadIdx.x; k < n.bases; k += kWarp) out[k] = pi[k] * (grad(k) - mean) / temperature;
  }
  if (d.grad_s == nullptr || d.kind == ScaleKind::hard) {
    for (int64_t o = threadIdx.x; o < n.scales; o += kThreads) {
      const int64_t i = b * n.scales + o;
      out[n.bases + o] = d.grad_s == nullptr ? Acc(0) : d.grad_s[i] * hard_slope(d.s[i]);
    }
    return;
  }
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, scales_of_warp = kWarp / d.scale_lanes;
  for (int64_t first = warp * scales_of_warp; first < n.scales; first += kWarps * scales_of_warp) {
    const int64_t o = first + lane / d.scale_lanes;
    const Acc z = output_of(d, b, n.bases + o, lane, d.scale_lanes);
    if (o < n.scales && lane % d.scale_lanes == 0) {
      out[n.bases + o] = d.grad_s[b * n.scales + o] * sigmoid_slope(z);
    }
  }
}

// The gradient of the hidden units, of one sample by one block: neighbouring threads take neighbouring units, and where
// units are few, several threads share the outputs of one.
template <typename Acc>
__device__ void differentiate_hidden(const BackwardData<Acc>& d, int64_t b, Acc* parts) {
  const Sizes& n = d.n;
  const Acc* grad_outputs = d.grad_outputs + b * n.outputs();
  for (int64_t first = 0; first < n.hidden; first += kThreads) {
    const int width = static_cast<int>(n.hidden - first < kThreads ? n.hidden - first : kThreads);
    const int sharing = kThreads / width, part = threadIdx.x / width;
    const int64_t h = first + threadIdx.x % width;
    Acc total = 0;
    if (part < sharing) {
      visit(d.w2, [&](const auto* w2) {
#pragma unroll 4
        for (int64_t o = part; o < n.outputs(); o += sharing)
          total += grad_outputs[o] * widen<Acc>(w2[o * n.hidden + h]);
      });
    }
    parts[threadIdx.x] = total;
    __syncthreads();
    if (part == 0) {
      for (int other = 1; other < sharing; ++other) total += parts[other * width + threadIdx.x];
      d.grad_hiddens[b * n.hidden + h] = d.hidden[b * n.hidden + h] <= 0 ? Acc(0) : total;
    }
    __syncthreads();
  }
}

// out (rows, columns) = sum over k of left[k, row] * right[k, column] / divisor. Item i is a column of kRows rows.
template <typename Acc>
struct Product {
  Typed out;
  int64_t rows, columns, depth;
  const Acc* left;
  int64_t left_row, left_step;
  Typed right;
  int64_t divisor;

  __device__ int64_t items() const { return (rows + kRows - 1) / kRows * columns; }

  __device__ void operator()(int64_t i) const {
    const int64_t tile = i / columns, row = tile * kRows, column = i - tile * columns;
    Acc total[kRows] = {};
    visit(right, [&](const auto* factors) {
#pragma unroll 4
      for (int64_t k = 0; k < depth; ++k) {
        const Acc factor = widen<Acc>(factors[k * columns + column]);
#pragma unroll
        for (int u = 0; u < kRows; ++u) {
          const int64_t r = row + u < rows ? row + u : row;
          total[u] += left[r * left_row + k * left_step] * factor;
        }
      }
    });
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      if (row + u < rows) store(out, (row + u) * columns + column, total[u] / static_cast<Acc>(divisor));
    }
  }
};

template <typename Acc>
constexpr ScalarType type_of = std::is_same_v<Acc, double> ? ScalarType::Double : ScalarType::Float;

template <typename Acc>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor) backward_kernel(BackwardData<Acc> d) {
  __shared__ Acc parts[kThreads];
  const Sizes& n = d.n;
  for (int64_t b = blockIdx.x; b < n.batch; b += gridDim.x) {
    differentiate_outputs(d, b);
    __syncthreads();
    differentiate_hidden(d, b, parts);
  }
  cooperative_groups::this_grid().sync();
  const auto typed = [](const Acc* data) { return Typed{const_cast<Acc*>(data), type_of<Acc>}; };
  const Product<Acc> of_x{d.grad_pixel, n.batch, n.channels, n.hidden, d.grad_hiddens, n.hidden, 1, d.w1, n.pixels};
  const Product<Acc> of_w1{d.grad_w1, n.hidden, n.channels, n.batch, d.grad_hiddens, 1, n.hidden, typed(d.pooled), 1};
  const Product<Acc> of_w2{
      d.grad_w2, n.outputs(), n.hidden, n.batch, d.grad_outputs, 1, n.outputs(), typed(d.hidden), 1};
  const int64_t end_x = of_x.items(), end_w1 = end_x + of_w1.items(), end_w2 = end_w1 + of_w2.items();
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < end_w2; i += step) {
    if (i < end_x) {
      of_x(i);
    } else if (i < end_w1) {
      of_w1(i - end_x);
    } else {
      of_w2(i - end_w1);
    }
  }
}

// A temperature on the host is a kernel's argument; one on the GPU is read there.
template <typename Acc>
Temperature<Acc> temperature_of(const Tensor& value, const Tensor& x) {
  if (value.is_cpu()) return {nullptr, false, read_scalar<Acc>(value, type_of<Acc>)};
  STD_TORCH_CHECK(
      value.get_device_index() == x.get_device_index(), "coefficients: temperature is on another GPU than x");
  const bool is_double = value.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(is_double || value.scalar_type() == ScalarType::Float,
      "coefficients: a temperature on the GPU must be float32 or float64");
  return {value.const_data_ptr(), is_double, Acc(0)};
}

// A group of lanes no longer than a row of w2, where `threads` work on a sample.
int scale_lanes_for(int64_t threads, const Sizes& n) {
  return lanes_for(std::min(threads / std::max<int64_t>(1, n.scales), n.hidden));
}

Typed typed(const Tensor& tensor) { return {const_cast<void*>(tensor.const_data_ptr()), tensor.scalar_type()}; }

struct Cuda {
  static void check(const Tensor& tensor, const Tensor& x, const char* name) {
    STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == x.get_device_index(), "coefficients: ", name,
        " must be on x's device");
  }

  template <typename T>
  static void forward(const Forward& a) {
    using Acc = Accumulator<T>;
    const Sizes& n = a.n;
    if (n.batch == 0) return;
    const int device = a.x.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    const PoolPlan plan = pool_plan<T>(a.x, n);
    const bool grid_wide = n.hidden * n.channels > kBlockWeights;
    Tensor partial =
        torch::stable::new_empty(a.x, {plan.chunks > 1 ? n.batch * plan.chunks * n.channels : 0}, type_of<Acc>);
    // For each sample.
    const int64_t threads = grid_wide ? std::max<int64_t>(kThreads, kFillingBlocks * kThreads / n.batch) : kThreads;
    const int scale_lanes = scale_lanes_for(threads, n);
    const ForwardData<Acc> data{typed(a.w1), typed(a.w2), partial.mutable_data_ptr<Acc>(),
        a.pooled.mutable_data_ptr<Acc>(), a.hidden.mutable_data_ptr<Acc>(), a.pi.mutable_data_ptr<Acc>(),
        a.s.mutable_data_ptr<Acc>(), temperature_of<Acc>(a.temperature, a.x), n, plan.chunks, a.kind, scale_lanes};
    const int64_t for_branch = grid_wide ? ceil_div(ceil_div(n.batch, kSamples) * n.hidden, kWarps) : n.batch;
    launch_cooperatively<forward_kernel<T>, kThreads>(
        device, std::max(plan.blocks, for_branch), a.x.const_data_ptr<T>(), data, plan, grid_wide);
  }

  template <typename Acc>
  static void backward(const Backward& a) {
    const Sizes& n = a.n;
    const int device = a.pooled.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    Tensor grad_outputs = torch::stable::new_empty(a.pooled, {n.batch, n.outputs()}, type_of<Acc>);
    Tensor grad_hiddens = torch::stable::new_empty(a.pooled, {n.batch, n.hidden}, type_of<Acc>);
    const auto data_of = [](const Tensor& tensor) { return tensor.const_data_ptr<Acc>(); };
    const BackwardData<Acc> data{a.grad_pi ? data_of(*a.grad_pi) : nullptr, a.grad_s ? data_of(*a.grad_s) : nullptr,
        data_of(a.pi), data_of(a.s), data_of(a.pooled), data_of(a.hidden), typed(a.w1), typed(a.w2),
        typed(a.grad_pixel), typed(a.grad_w1), typed(a.grad_w2), grad_outputs.mutable_data_ptr<Acc>(),
        grad_hiddens.mutable_data_ptr<Acc>(), temperature_of<Acc>(a.temperature, a.pooled), n, a.kind,
        scale_lanes_for(kThreads, n)};
    // Also for an empty batch, whose weight gradients are zero.
    const auto items = [](int64_t rows, int64_t columns) { return ceil_div(rows, kRows) * columns; };
    const int64_t entries = items(n.batch, n.channels) + items(n.hidden, n.channels) + items(n.outputs(), n.hidden);
    launch_cooperatively<backward_kernel<Acc>, kThreads>(device, std::max(n.batch, ceil_div(entries, kThreads)), data);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynconv, CUDA, m) {
  m.impl("coefficients_native_forward", TORCH_BOX(&Operators<Cuda>::forward));
  m.impl("coefficients_native_backward", TORCH_BOX(&Operators<Cuda>::backward));
}

}  // namespace dynconv
