// What the CPU and the CUDA implementation of `coefficients` share: the arguments, checked, the outputs, allocated, and
// the layout of the input. The schemas are defined in dynconv/ops/coefficients.py.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/macros/Macros.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <type_traits>

namespace dynconv {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Sums run in float32, and in float64 for float64 inputs.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline ScalarType accumulation_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_floating(ScalarType type, const char* name) {
  const bool known = type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::BFloat16 ||
                     type == ScalarType::Half;
  STD_TORCH_CHECK(known, "coefficients: ", name, " must be float32, float64, bfloat16 or float16");
}

// f<T>() for the element type T that `type`, a checked one, names.
template <typename F>
void with_type(ScalarType type, const F& f) {
  switch (type) {
    case ScalarType::Double:
      return f.template operator()<double>();
    case ScalarType::BFloat16:
      return f.template operator()<BFloat16>();
    case ScalarType::Half:
      return f.template operator()<Half>();
    default:
      return f.template operator()<float>();
  }
}

// A contiguous copy in `type`, or the tensor itself where it already is one.
inline Tensor contiguous_as(const Tensor& tensor, ScalarType type) {
  return torch::stable::contiguous(tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type));
}

template <typename T>
T read_scalar(const Tensor& value, ScalarType type) {
  return *contiguous_as(value, type).template const_data_ptr<T>();
}

enum class ScaleKind : int64_t { sigmoid = 0, hard = 1 };

struct Sizes {
  int64_t batch, channels, pixels, hidden, bases, scales;
  C10_HOST_DEVICE int64_t outputs() const { return bases + scales; }
};

// How x lies in memory. `planes`: each (b, c) plane is one run of H*W elements (NCHW and slices of it along B or C).
// `pixels`: each pixel is one run of C elements, pixels `pixel_stride` apart (channels_last and slices of it along B or
// C).
enum class Layout { planes, pixels, other };

inline Layout layout_of(const Tensor& x) {
  const int64_t channels = x.size(1), height = x.size(2), width = x.size(3);
  if ((width == 1 || x.stride(3) == 1) && (height == 1 || x.stride(2) == width)) return Layout::planes;
  const bool runs = channels == 1 || x.stride(1) == 1;
  const bool rows = height == 1 || width == 1 || x.stride(2) == width * x.stride(3);
  return runs && rows ? Layout::pixels : Layout::other;
}

inline int64_t pixel_stride_of(const Tensor& x) { return x.size(3) == 1 ? x.stride(2) : x.stride(3); }

// x is in one of the first two layouts. pi, s, pooled and hidden are in the accumulation type.
struct Forward {
  Tensor x, w1, w2, temperature, pi, s, pooled, hidden;
  Sizes n;
  ScaleKind kind;
};

// The gradients of pi and s, absent where nothing depends on them, and what the forward pass left. `grad_pixel` is the
// gradient of every pixel of a (b, c) plane, in x's type; those of the weights are in the weights' types.
struct Backward {
  std::optional<Tensor> grad_pi, grad_s;
  Tensor pi, s, pooled, hidden, w1, w2, temperature, grad_pixel, grad_w1, grad_w2;
  Sizes n;
  ScaleKind kind;
};

// The two operators of a device; `Device` has
//   static void check(const Tensor& tensor, const Tensor& x, const char* name);  where a tensor may lie
//   template <typename T> static void forward(const Forward&);                   T is x's element type
//   template <typename Acc> static void backward(const Backward&);               Acc is the accumulation type
template <typename Device>
struct Operators {
  static std::tuple<Tensor, Tensor, Tensor, Tensor> forward(
      Tensor x, Tensor w1, Tensor w2, Tensor temperature, int64_t num_bases, int64_t scale_kind) {
    STD_TORCH_CHECK(x.dim() == 4, "coefficients: x must have shape (B, C, H, W), got ", x.dim(), " dimensions");
    STD_TORCH_CHECK(x.size(1) > 0, "coefficients: x has no channels");
    check_floating(x.scalar_type(), "x");
    const int64_t batch = x.size(0), channels = x.size(1), pixels = x.size(2) * x.size(3);
    const Sizes n = check_branch(x, batch, channels, pixels, w1, w2, temperature, num_bases);
    const ScalarType type = accumulation_type(x.scalar_type());
    const auto empty = [&](int64_t columns) { return torch::stable::new_empty(x, {batch, columns}, type); };
    const Tensor runs = layout_of(x) == Layout::other ? torch::stable::contiguous(x) : x;
    const Forward arguments{runs, torch::stable::contiguous(w1), torch::stable::contiguous(w2), temperature,
        empty(n.bases), empty(n.scales), empty(channels), empty(n.hidden), n, kind_of(scale_kind)};
    with_type(x.scalar_type(), [&]<typename T>() { Device::template forward<T>(arguments); });
    return {arguments.pi, arguments.s, arguments.pooled, arguments.hidden};
  }

  static std::tuple<Tensor, Tensor, Tensor> backward(std::optional<Tensor> grad_pi, std::optional<Tensor> grad_s,
      Tensor pi, Tensor s, Tensor pooled, Tensor hidden, Tensor w1, Tensor w2, Tensor temperature, int64_t num_bases,
      int64_t scale_kind, int64_t pixels, ScalarType x_type) {
    STD_TORCH_CHECK(pooled.dim() == 2, "coefficients: pooled must have shape (B, C)");
    check_floating(x_type, "x");
    const ScalarType type = accumulation_type(x_type);
    const int64_t batch = pooled.size(0), channels = pooled.size(1);
    const Sizes n = check_branch(pooled, batch, channels, pixels, w1, w2, temperature, num_bases);
    const auto checked = [&](const Tensor& tensor, int64_t columns, const char* name) {
      STD_TORCH_CHECK(tensor.dim() == 2 && tensor.size(0) == batch && tensor.size(1) == columns, "coefficients: ", name,
          " must have shape (", batch, ", ", columns, ")");
      Device::check(tensor, pooled, name);
      return contiguous_as(tensor, type);
    };
    if (grad_pi) grad_pi = checked(*grad_pi, n.bases, "grad_pi");
    if (grad_s) grad_s = checked(*grad_s, n.scales, "grad_s");
    const auto empty = [&](int64_t rows, int64_t columns, ScalarType of) {
      return torch::stable::new_empty(pooled, {rows, columns}, of);
    };
    const Backward arguments{grad_pi, grad_s, checked(pi, n.bases, "pi"), checked(s, n.scales, "s"),
        checked(pooled, channels, "pooled"), checked(hidden, n.hidden, "hidden"), torch::stable::contiguous(w1),
        torch::stable::contiguous(w2), temperature, empty(batch, channels, x_type),
        empty(n.hidden, channels, w1.scalar_type()), empty(n.outputs(), n.hidden, w2.scalar_type()), n,
        kind_of(scale_kind)};
    if (type == ScalarType::Double) {
      Device::template backward<double>(arguments);
    } else {
      Device::template backward<float>(arguments);
    }
    return {arguments.grad_pixel, arguments.grad_w1, arguments.grad_w2};
  }

 private:
  static ScaleKind kind_of(int64_t value) {
    STD_TORCH_CHECK(
        value == 0 || value == 1, "coefficients: scale_kind is ", value, "; expected 0 (sigmoid) or 1 (hard)");
    return static_cast<ScaleKind>(value);
  }

  static Sizes check_branch(const Tensor& x, int64_t batch, int64_t channels, int64_t pixels, const Tensor& w1,
      const Tensor& w2, const Tensor& temperature, int64_t num_bases) {
    STD_TORCH_CHECK(
        w1.dim() == 2 && w1.size(1) == channels, "coefficients: w1 must have shape (hidden, ", channels, ")");
    STD_TORCH_CHECK(w2.dim() == 2 && w2.size(1) == w1.size(0),
        "coefficients: w2 must have shape (num_bases + num_scales, ", w1.size(0), ")");
    STD_TORCH_CHECK(num_bases >= 0 && num_bases <= w2.size(0), "coefficients: num_bases is ", num_bases, " and w2 has ",
        w2.size(0), " rows");
    STD_TORCH_CHECK(
        temperature.numel() == 1, "coefficients: temperature must hold one number, got ", temperature.numel());
    check_floating(w1.scalar_type(), "w1");
    check_floating(w2.scalar_type(), "w2");
    Device::check(w1, x, "w1");
    Device::check(w2, x, "w2");
    return {batch, channels, pixels, w1.size(0), num_bases, w2.size(0) - num_bases};
  }
};

}  // namespace dynconv
