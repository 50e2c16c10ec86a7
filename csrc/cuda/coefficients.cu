// coefficients on CUDA: the formula stands in csrc/cpu/coefficients.cpp. Two launches forward, two backward.
// Forward: the pooling (pool.cuh), then one block per sample adds the partial sums in order and runs both layers.
// No atomics: a result is the same on every run.
// A comparison is written so that a NaN falls through it: NaN in gives NaN out.
#include "../coefficients.h"
#include "pool.cuh"

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <tuple>
#include <type_traits>

namespace dynconv {
namespace {

constexpr int kSampleThreads = 512;

// As std::max and yet NaN if either is: fmaxf would drop it.
template <typename Acc>
__device__ Acc warp_max(Acc value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const Acc other = __shfl_xor_sync(kAllLanes, value, offset);
    value = value >= other || value != value ? value : other;
  }
  return value;
}

template <typename Acc>
__device__ Acc gate(Acc z, ScaleKind kind) {
  if (kind == ScaleKind::sigmoid) return 1 + 1 / (1 + exp(-z));
  const Acc shifted = z + 3;
  return (shifted < 0 ? 0 : shifted > 6 ? 6 : shifted) / 3;
}

template <typename Acc>
__device__ Acc gate_slope(Acc s, ScaleKind kind) {
  if (kind == ScaleKind::sigmoid) return (s - 1) * (2 - s);
  return s <= 0 || s >= 2 ? Acc(0) : Acc(1) / 3;
}

// A temperature on the device is read there: the host never waits for it.
template <typename Acc>
struct Temperature {
  const Acc* on_device;
  Acc value;
  __device__ Acc get() const { return on_device ? *on_device : value; }
};

// pooled, hidden, pi and s are written and read again by the same block: none of them may be __restrict__, for the
// compiler would read them through the cache that does not see the block's own writes.
template <typename Acc, typename W>
struct ForwardData {
  const Acc* sums;
  const W *w1, *w2;
  Acc *pooled, *hidden, *pi, *s;
  Temperature<Acc> temperature;
  Sizes n;
  int64_t chunks;
  ScaleKind kind;
};

template <typename Acc, typename W>
__device__ Acc warp_dot(const Acc* a, const W* w, int64_t count, int lane) {
  Acc total = 0;
  for (int64_t i = lane; i < count; i += kWarp) total += a[i] * widen<Acc>(w[i]);
  return warp_sum(total);
}

template <typename Acc>
__device__ void warp_softmax(Acc* values, int64_t count, Acc temperature, int lane) {
  Acc largest = -INFINITY, total = 0;
  for (int64_t k = lane; k < count; k += kWarp) {
    const Acc value = values[k] / temperature;
    values[k] = value;
    largest = value >= largest || value != value ? value : largest;
  }
  largest = warp_max(largest);
  for (int64_t k = lane; k < count; k += kWarp) {
    const Acc value = exp(values[k] - largest);
    values[k] = value;
    total += value;
  }
  total = warp_sum(total);
  for (int64_t k = lane; k < count; k += kWarp) values[k] /= total;
}

template <typename Acc, typename W>
__global__ void __launch_bounds__(kSampleThreads) transform(ForwardData<Acc, W> d) {
  const Sizes n = d.n;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = kSampleThreads / kWarp;
  for (int64_t b = blockIdx.x; b < n.batch; b += gridDim.x) {
    Acc *pooled = d.pooled + b * n.channels, *hidden = d.hidden + b * n.hidden;
    Acc *pi = d.pi + b * n.bases, *s = d.s + b * n.scales;
    for (int64_t c = threadIdx.x; c < n.channels; c += kSampleThreads) {
      Acc total = 0;
      for (int64_t chunk = 0; chunk < d.chunks; ++chunk) total += d.sums[(b * d.chunks + chunk) * n.channels + c];
      pooled[c] = total / static_cast<Acc>(n.pixels());
    }
    __syncthreads();
    for (int64_t h = warp; h < n.hidden; h += warps) {
      const Acc value = warp_dot(pooled, d.w1 + h * n.channels, n.channels, lane);
      if (lane == 0) hidden[h] = value < 0 ? Acc(0) : value;
    }
    __syncthreads();
    for (int64_t o = warp; o < n.outputs(); o += warps) {
      const Acc z = warp_dot(hidden, d.w2 + o * n.hidden, n.hidden, lane);
      if (lane == 0) {
        if (o < n.bases) {
          pi[o] = z;
        } else {
          s[o - n.bases] = gate(z, d.kind);
        }
      }
    }
    __syncthreads();
    if (warp == 0) warp_softmax(pi, n.bases, d.temperature.get(), lane);
  }
}

template <typename Acc, typename W>
struct BackwardData {
  const Acc *grad_pi, *grad_s, *pi, *s, *pooled, *hidden;
  const W *w1, *w2;
  Acc *grad_outputs, *grad_hiddens, *grad_pooled, *grad_w1, *grad_w2;
  Temperature<Acc> temperature;
  Sizes n;
  ScaleKind kind;
};

template <typename Acc, typename W>
__global__ void __launch_bounds__(kSampleThreads) differentiate_sample(BackwardData<Acc, W> d) {
  const Sizes n = d.n;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = kSampleThreads / kWarp;
  for (int64_t b = blockIdx.x; b < n.batch; b += gridDim.x) {
    Acc *dz = d.grad_outputs + b * n.outputs(), *dh = d.grad_hiddens + b * n.hidden;
    const Acc *pi = d.pi + b * n.bases, *grad_pi = d.grad_pi + b * n.bases;
    if (warp == 0) {
      const Acc mean = warp_dot(pi, grad_pi, n.bases, lane);
      const Acc temperature = d.temperature.get();
      for (int64_t k = lane; k < n.bases; k += kWarp) dz[k] = pi[k] * (grad_pi[k] - mean) / temperature;
    }
    for (int64_t o = threadIdx.x; o < n.scales; o += kSampleThreads) {
      dz[n.bases + o] = d.grad_s[b * n.scales + o] * gate_slope(d.s[b * n.scales + o], d.kind);
    }
    __syncthreads();
    for (int64_t h = warp; h < n.hidden; h += warps) {
      Acc total = 0;
      for (int64_t o = lane; o < n.outputs(); o += kWarp) total += dz[o] * widen<Acc>(d.w2[o * n.hidden + h]);
      total = warp_sum(total);
      if (lane == 0) dh[h] = d.hidden[b * n.hidden + h] <= 0 ? Acc(0) : total;
    }
    __syncthreads();
    for (int64_t c = threadIdx.x; c < n.channels; c += kSampleThreads) {
      Acc total = 0;
      for (int64_t h = 0; h < n.hidden; ++h) total += dh[h] * widen<Acc>(d.w1[h * n.channels + c]);
      d.grad_pooled[b * n.channels + c] = total;
    }
  }
}

// One thread per entry of grad_w1 and grad_w2; it adds the samples in order.
template <typename Acc, typename W>
__global__ void __launch_bounds__(kPoolThreads) differentiate_weights(BackwardData<Acc, W> d) {
  const Sizes n = d.n;
  const int64_t of_w1 = n.hidden * n.channels, entries = of_w1 + n.outputs() * n.hidden;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kPoolThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kPoolThreads + threadIdx.x; i < entries; i += step) {
    const bool first = i < of_w1;
    const int64_t entry = first ? i : i - of_w1, columns = first ? n.channels : n.hidden;
    const int64_t row = entry / columns, column = entry % columns, rows = first ? n.hidden : n.outputs();
    const Acc *left = first ? d.grad_hiddens : d.grad_outputs, *right = first ? d.pooled : d.hidden;
    Acc total = 0;
    for (int64_t b = 0; b < n.batch; ++b) total += left[b * rows + row] * right[b * columns + column];
    (first ? d.grad_w1 : d.grad_w2)[entry] = total;
  }
}

cudaStream_t current_stream(const Tensor& x) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// `value` is in the accumulation type; one on x's GPU is read there by the kernel.
template <typename Acc>
Temperature<Acc> temperature_of(const Tensor& value, const Tensor& x) {
  STD_TORCH_CHECK(value.numel() == 1, "coefficients: temperature must hold one number, got ", value.numel());
  if (value.is_cpu()) return {nullptr, *value.template const_data_ptr<Acc>()};
  STD_TORCH_CHECK(
      value.get_device_index() == x.get_device_index(), "coefficients: temperature is on another GPU than x");
  return {value.template const_data_ptr<Acc>(), Acc(0)};
}

void check_device(const Tensor& tensor, const Tensor& x, const char* name) {
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == x.get_device_index(), "coefficients: ", name,
      " must be on x's device");
}

// Calls f with the weights as they are; weights in float64, of two types, or beside float64 sums are converted first.
template <typename Acc, typename F>
void with_weights(const Tensor& w1, const Tensor& w2, ScalarType accumulation, const F& f) {
  const bool as_they_are = w1.scalar_type() == w2.scalar_type() && w1.scalar_type() != ScalarType::Double;
  const ScalarType type = std::is_same_v<Acc, float> && as_they_are ? w1.scalar_type() : accumulation;
  const Tensor first = contiguous_as(w1, type), second = contiguous_as(w2, type);
  if constexpr (std::is_same_v<Acc, double>) {
    f(first.const_data_ptr<double>(), second.const_data_ptr<double>());
  } else if (type == ScalarType::Float) {
    f(first.const_data_ptr<float>(), second.const_data_ptr<float>());
  } else if (type == ScalarType::BFloat16) {
    f(first.const_data_ptr<BFloat16>(), second.const_data_ptr<BFloat16>());
  } else if (type == ScalarType::Half) {
    f(first.const_data_ptr<Half>(), second.const_data_ptr<Half>());
  } else {
    STD_TORCH_CHECK(false, "coefficients: w1 and w2 must be float32, float64, bfloat16 or float16");
  }
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor, Tensor> forward_as(
    const Tensor& x, const Tensor& w1, const Tensor& w2, const Tensor& temperature, const Sizes& n, ScaleKind kind) {
  using Acc = Accumulator<T>;
  const ScalarType type = accumulation_type(x.scalar_type());
  Tensor pi = torch::stable::new_empty(x, {n.batch, n.bases}, type);
  Tensor s = torch::stable::new_empty(x, {n.batch, n.scales}, type);
  Tensor pooled = torch::stable::new_empty(x, {n.batch, n.channels}, type);
  Tensor hidden = torch::stable::new_empty(x, {n.batch, n.hidden}, type);
  if (n.batch == 0) return {pi, s, pooled, hidden};
  const cudaStream_t stream = current_stream(x);
  const Tensor sums = pool<T>(x, n, stream), tau = contiguous_as(temperature, type);
  with_weights<Acc>(w1, w2, type, [&](const auto* first, const auto* second) {
    using W = std::remove_const_t<std::remove_pointer_t<decltype(first)>>;
    const ForwardData<Acc, W> data{sums.const_data_ptr<Acc>(), first, second, pooled.mutable_data_ptr<Acc>(),
        hidden.mutable_data_ptr<Acc>(), pi.mutable_data_ptr<Acc>(), s.mutable_data_ptr<Acc>(),
        temperature_of<Acc>(tau, x), n, sums.size(1), kind};
    transform<Acc, W><<<grid_for(n.batch), kSampleThreads, 0, stream>>>(data);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {pi, s, pooled, hidden};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& x, const Tensor& w1, const Tensor& w2,
    const Tensor& temperature, int64_t num_bases, int64_t scale_kind) {
  const Sizes sizes = forward_sizes(x, w1, w2, num_bases);
  const ScaleKind kind = scale_kind_of(scale_kind);
  check_device(w1, x, "w1");
  check_device(w2, x, "w2");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return forward_as<float>(x, w1, w2, temperature, sizes, kind);
    case ScalarType::Double:
      return forward_as<double>(x, w1, w2, temperature, sizes, kind);
    case ScalarType::BFloat16:
      return forward_as<BFloat16>(x, w1, w2, temperature, sizes, kind);
    case ScalarType::Half:
      return forward_as<Half>(x, w1, w2, temperature, sizes, kind);
    default:
      STD_TORCH_CHECK(false, "coefficients: x must be float32, float64, bfloat16 or float16");
  }
}

template <typename Acc>
std::tuple<Tensor, Tensor, Tensor> backward_as(const Tensor& grad_pi, const Tensor& grad_s, const Saved& saved,
    const Tensor& temperature, const Sizes& n, ScaleKind kind) {
  const ScalarType type = saved.pooled.scalar_type();
  const auto empty = [&](int64_t rows, int64_t columns) {
    return torch::stable::new_empty(saved.pooled, {rows, columns}, type);
  };
  Tensor grad_pooled = empty(n.batch, n.channels), grad_w1 = empty(n.hidden, n.channels),
         grad_w2 = empty(n.outputs(), n.hidden);
  Tensor grad_outputs = empty(n.batch, n.outputs()), grad_hiddens = empty(n.batch, n.hidden);
  const Tensor inputs[] = {contiguous_as(grad_pi, type), contiguous_as(grad_s, type), contiguous_as(saved.pi, type),
      contiguous_as(saved.s, type), contiguous_as(saved.pooled, type), contiguous_as(saved.hidden, type)};
  const auto at = [&inputs](int i) { return inputs[i].const_data_ptr<Acc>(); };
  const Tensor tau = contiguous_as(temperature, type);
  const cudaStream_t stream = current_stream(saved.pooled);
  with_weights<Acc>(saved.w1, saved.w2, type, [&](const auto* first, const auto* second) {
    using W = std::remove_const_t<std::remove_pointer_t<decltype(first)>>;
    const BackwardData<Acc, W> data{at(0), at(1), at(2), at(3), at(4), at(5), first, second,
        grad_outputs.mutable_data_ptr<Acc>(), grad_hiddens.mutable_data_ptr<Acc>(), grad_pooled.mutable_data_ptr<Acc>(),
        grad_w1.mutable_data_ptr<Acc>(), grad_w2.mutable_data_ptr<Acc>(), temperature_of<Acc>(tau, saved.pooled), n,
        kind};
    if (n.batch > 0) {
      differentiate_sample<Acc, W><<<grid_for(n.batch), kSampleThreads, 0, stream>>>(data);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    // Also for an empty batch, whose weight gradients are zero.
    const int64_t entries = n.hidden * (n.channels + n.outputs());
    differentiate_weights<Acc, W><<<grid_for(ceil_div(entries, kPoolThreads)), kPoolThreads, 0, stream>>>(data);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {grad_pooled, grad_w1, grad_w2};
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_pi, const Tensor& grad_s, const Tensor& pi,
    const Tensor& s, const Tensor& pooled, const Tensor& hidden, const Tensor& w1, const Tensor& w2,
    const Tensor& temperature, int64_t num_bases, int64_t scale_kind) {
  const Saved saved{pi, s, pooled, hidden, w1, w2};
  const Sizes sizes = backward_sizes(grad_pi, grad_s, saved, num_bases);
  const ScaleKind kind = scale_kind_of(scale_kind);
  const std::tuple<const Tensor&, const char*> tensors[] = {
      {grad_pi, "grad_pi"}, {grad_s, "grad_s"}, {pi, "pi"}, {s, "s"}, {hidden, "hidden"}, {w1, "w1"}, {w2, "w2"}};
  for (const auto& [tensor, name] : tensors) check_device(tensor, pooled, name);
  const torch::stable::accelerator::DeviceGuard guard(pooled.get_device_index());
  return pooled.scalar_type() == ScalarType::Double
             ? backward_as<double>(grad_pi, grad_s, saved, temperature, sizes, kind)
             : backward_as<float>(grad_pi, grad_s, saved, temperature, sizes, kind);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynconv, CUDA, m) {
  m.impl("coefficients_native_forward", TORCH_BOX(&forward));
  m.impl("coefficients_native_backward", TORCH_BOX(&backward));
}

}  // namespace dynconv
