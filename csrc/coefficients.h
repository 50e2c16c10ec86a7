// What the CPU and the CUDA implementation of `coefficients` share: the arguments, checked, and the layout of the
// input. The schemas are defined in dynconv/ops/coefficients.py.
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

namespace dynconv {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

enum class ScaleKind : int64_t { sigmoid = 0, hard = 1 };

inline ScaleKind scale_kind_of(int64_t value) {
  STD_TORCH_CHECK(
      value == 0 || value == 1, "coefficients: scale_kind is ", value, "; expected 0 (sigmoid) or 1 (hard)");
  return static_cast<ScaleKind>(value);
}

// Sums run in float32, and in float64 for float64 inputs.
inline ScalarType accumulation_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// A contiguous copy in `type`, or the tensor itself where it already is one.
inline Tensor contiguous_as(const Tensor& tensor, ScalarType type) {
  return torch::stable::contiguous(tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type));
}

struct Sizes {
  int64_t batch, channels, height, width, hidden, bases, scales;
  C10_HOST_DEVICE int64_t outputs() const { return bases + scales; }
  C10_HOST_DEVICE int64_t pixels() const { return height * width; }
};

inline void check_weights(const Tensor& w1, const Tensor& w2, int64_t channels, int64_t num_bases) {
  STD_TORCH_CHECK(w1.dim() == 2 && w1.size(1) == channels, "coefficients: w1 must have shape (hidden, ", channels, ")");
  STD_TORCH_CHECK(w2.dim() == 2 && w2.size(1) == w1.size(0),
      "coefficients: w2 must have shape (num_bases + num_scales, ", w1.size(0), ")");
  STD_TORCH_CHECK(num_bases >= 0 && num_bases <= w2.size(0), "coefficients: num_bases is ", num_bases, " and w2 has ",
      w2.size(0), " rows");
}

inline Sizes forward_sizes(const Tensor& x, const Tensor& w1, const Tensor& w2, int64_t num_bases) {
  STD_TORCH_CHECK(x.dim() == 4, "coefficients: x must have shape (B, C, H, W), got ", x.dim(), " dimensions");
  STD_TORCH_CHECK(x.size(1) > 0, "coefficients: x has no channels");
  check_weights(w1, w2, x.size(1), num_bases);
  return {x.size(0), x.size(1), x.size(2), x.size(3), w1.size(0), num_bases, w2.size(0) - num_bases};
}

struct Saved {
  Tensor pi, s, pooled, hidden, w1, w2;
};

// The saved tensors and the gradients, contiguous and in the accumulation type, with every shape checked.
inline Sizes backward_sizes(const Tensor& grad_pi, const Tensor& grad_s, const Saved& saved, int64_t num_bases) {
  STD_TORCH_CHECK(saved.pooled.dim() == 2, "coefficients: pooled must have shape (B, C)");
  const int64_t batch = saved.pooled.size(0);
  check_weights(saved.w1, saved.w2, saved.pooled.size(1), num_bases);
  const Sizes sizes{batch, saved.pooled.size(1), 0, 0, saved.w1.size(0), num_bases, saved.w2.size(0) - num_bases};
  const auto check = [batch](const Tensor& tensor, int64_t columns, const char* name) {
    STD_TORCH_CHECK(tensor.dim() == 2 && tensor.size(0) == batch && tensor.size(1) == columns, "coefficients: ", name,
        " must have shape (", batch, ", ", columns, ")");
  };
  check(grad_pi, sizes.bases, "grad_pi");
  check(saved.pi, sizes.bases, "pi");
  check(grad_s, sizes.scales, "grad_s");
  check(saved.s, sizes.scales, "s");
  check(saved.hidden, sizes.hidden, "hidden");
  return sizes;
}

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

}  // namespace dynconv
