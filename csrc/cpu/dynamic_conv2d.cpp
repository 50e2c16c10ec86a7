// dynamic_conv2d on the CPU: y_b = s_b conv(x_b, W0) + conv(x_b, sum_i pi_bi Phi_i) + bias (DRT eq. 2 to 5), and its
// gradients. The operators are defined in dynconv/ops/native.py, whose tensors are checked; here only what a wrong call
// of torch.ops could otherwise break in memory.
#include "dynamic_conv2d.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

namespace dynconv::cpu {

const Kernels& chosen_kernels() {
  static const Kernels& chosen = []() -> const Kernels& {
    std::vector<const Kernels*> found{&baseline_kernels()};
#if DYNCONV_X86
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&avx2_kernels());
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq")) {
      found.push_back(&avx512_kernels());
    }
#endif
    const char* wanted = std::getenv("DYNCONV_CPU_ISA");
    if (wanted == nullptr || *wanted == '\0') return *found.back();
    std::string names;
    for (const Kernels* kernels : found) {
      if (std::string(kernels->name) == wanted) return *kernels;
      names += (names.empty() ? "" : ", ") + std::string(kernels->name);
    }
    STD_TORCH_CHECK(false, "DYNCONV_CPU_ISA is ", wanted, "; this processor runs ", names);
  }();
  return chosen;
}

namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Optional = std::optional<Tensor>;

struct Geometry {
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups;
};

Element element_of(const Tensor& tensor, const char* name) {
  if (tensor.scalar_type() == ScalarType::Float) return Element::float32;
  STD_TORCH_CHECK(
      tensor.scalar_type() == ScalarType::BFloat16, "dynamic_conv2d: ", name, " must be float32 or bfloat16");
  return Element::bfloat16;
}

void* data_of(const Tensor& tensor) { return const_cast<void*>(tensor.const_data_ptr()); }

Images images_of(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 4, "dynamic_conv2d: ", name, " must have 4 dimensions, got ", tensor.dim());
  return {data_of(tensor), element_of(tensor, name), tensor.stride(0), tensor.stride(1), tensor.stride(2),
      tensor.stride(3)};
}

// Kernels whose taps cannot be walked with one stride are copied by the caller.
KernelTensor kernel_of(const Tensor& tensor, int64_t parts, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 4, "dynamic_conv2d: ", name, " must have 4 dimensions, got ", tensor.dim());
  const bool one_stride =
      tensor.size(2) == 1 || tensor.size(3) == 1 || tensor.stride(2) == tensor.size(3) * tensor.stride(3);
  STD_TORCH_CHECK(one_stride, "dynamic_conv2d: the taps of ", name, " must lie at one stride");
  const int64_t tap = tensor.size(3) == 1 ? tensor.stride(2) : tensor.stride(3);
  return {data_of(tensor), element_of(tensor, name), tensor.size(2) * tensor.size(3),
      tensor.size(0) / parts * tensor.stride(0), tensor.stride(0), tensor.stride(1), tap};
}

float* floats_of(const Optional& tensor, int64_t rows, int64_t columns, const char* name) {
  if (!tensor) return nullptr;
  STD_TORCH_CHECK(
      tensor->scalar_type() == ScalarType::Float && tensor->is_contiguous() && tensor->numel() == rows * columns,
      "dynamic_conv2d: ", name, " must be contiguous, float32, of ", rows * columns, " elements");
  return static_cast<float*>(data_of(*tensor));
}

// The arguments that forward and backward share.
struct Call {
  Problem problem;
  Product forward;
  int64_t kernel[2];
};

Call call_of(const Tensor& x, const Tensor& y, const Optional& weight, const Optional& bias, const Optional& scale,
    const Optional& basis, const Optional& coefficients, const Geometry& g) {
  STD_TORCH_CHECK(
      x.dim() == 4 && y.dim() == 4 && x.size(0) == y.size(0), "dynamic_conv2d: x and y must be (B, C, H, W)");
  STD_TORCH_CHECK(weight || basis, "dynamic_conv2d: neither weight nor basis");
  STD_TORCH_CHECK(basis.has_value() == coefficients.has_value(), "dynamic_conv2d: basis goes with coefficients");
  STD_TORCH_CHECK(g.stride.size() == 2 && g.padding.size() == 2 && g.dilation.size() == 2 && g.groups > 0,
      "dynamic_conv2d: stride, padding and dilation are pairs");
  STD_TORCH_CHECK(!coefficients || (coefficients->dim() == 2 && coefficients->size(1) > 0),
      "dynamic_conv2d: coefficients must be (B, K)");
  const int64_t num_bases = coefficients ? coefficients->size(1) : 0, outputs = y.size(1);
  const Tensor& fixed = weight ? *weight : *basis;
  STD_TORCH_CHECK(fixed.dim() == 4 && fixed.size(2) > 0 && fixed.size(3) > 0, "dynamic_conv2d: a kernel has taps");
  Call call;
  Problem& n = call.problem;
  n.batch = x.size(0);
  n.groups = g.groups;
  n.inputs = x.size(1) / g.groups;
  n.outputs = outputs / g.groups;
  n.num_bases = num_bases;
  STD_TORCH_CHECK(n.inputs * g.groups == x.size(1) && n.outputs * g.groups == outputs && n.inputs > 0 && n.outputs > 0,
      "dynamic_conv2d: groups do not divide the channels");
  if (weight) {
    STD_TORCH_CHECK(weight->size(0) == outputs && weight->size(1) == n.inputs, "dynamic_conv2d: weight does not fit");
    n.fixed = kernel_of(*weight, 1, "weight");
  }
  if (basis) {
    STD_TORCH_CHECK(
        basis->size(0) == num_bases * outputs && basis->size(1) == n.inputs, "dynamic_conv2d: basis does not fit");
    n.bases = kernel_of(*basis, num_bases, "basis");
  }
  n.scale = weight ? floats_of(scale, n.batch, outputs, "scale") : nullptr;
  n.mixing = floats_of(coefficients, n.batch, num_bases, "coefficients");
  n.bias = floats_of(bias, 1, outputs, "bias");
  const bool whole = !basis || (basis->size(2) == fixed.size(2) && basis->size(3) == fixed.size(3));
  STD_TORCH_CHECK(whole || (basis->size(2) == 1 && basis->size(3) == 1), "dynamic_conv2d: the basis fits no tap");
  Product& p = call.forward;
  p = {false, images_of(x, "x"), images_of(y, "y"), y.size(2), y.size(3), x.size(2), x.size(3), g.stride[0],
      g.stride[1], {}};
  call.kernel[0] = fixed.size(2);
  call.kernel[1] = fixed.size(3);
  for (int axis = 0; axis < 2; ++axis) {
    // Products of these, and a kernel's or an image's size, then stay within 64 bits.
    STD_TORCH_CHECK(std::min(g.stride[axis], g.dilation[axis]) > 0 && g.padding[axis] >= 0 &&
                        std::max({g.stride[axis], g.dilation[axis], g.padding[axis]}) <= INT32_MAX,
        "dynamic_conv2d: stride, padding or dilation is out of range");
    const int64_t reach = g.dilation[axis] * (call.kernel[axis] - 1), size = x.size(2 + axis) + 2 * g.padding[axis];
    STD_TORCH_CHECK(size > reach && y.size(2 + axis) == (size - reach - 1) / g.stride[axis] + 1,
        "dynamic_conv2d: y has not the size of the convolution");
  }
  // Offsets within a sample's block are 32-bit; dynconv/ops/native.py refuses the same in its words.
  const int64_t reach = g.dilation[0] * (call.kernel[0] - 1) + 1;
  STD_TORCH_CHECK(p.height * p.width < (1 << 25) && p.rows * p.columns < (1 << 25) &&
                      reach * std::max(p.width + 2 * g.padding[1], p.columns) < (1 << 20),
      "dynamic_conv2d: the image is too large for the native operator");
  for (int64_t h = 0; h < call.kernel[0]; ++h) {
    for (int64_t w = 0; w < call.kernel[1]; ++w) {
      const int64_t tap = h * call.kernel[1] + w;
      const bool centre = h == (call.kernel[0] - 1) / 2 && w == (call.kernel[1] - 1) / 2;
      const int64_t in_basis = !basis ? -1 : whole ? tap : centre ? 0 : -1;
      p.taps.push_back({h * g.dilation[0] - g.padding[0], w * g.dilation[1] - g.padding[1], tap, in_basis});
    }
  }
  return call;
}

void run(const Problem& problem, const Product& product) {
  (problem.is_depthwise() ? run_depthwise_product : run_product)(chosen_kernels(), problem, product);
}

void forward(const Tensor& y, const Tensor& x, const Optional& weight, const Optional& bias, const Optional& scale,
    const Optional& basis, const Optional& coefficients, const std::vector<int64_t>& stride,
    const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups) {
  const Call call = call_of(x, y, weight, bias, scale, basis, coefficients, {stride, padding, dilation, groups});
  if (y.numel() > 0) run(call.problem, call.forward);
}

// dx at input pixel (i * step + phase) meets the taps with (phase - offset) divisible by the step, and there output
// pixel i + (phase - offset) / step: each phase is a product of its own, and no multiplication with an inserted zero.
void input_gradient(const Call& call, const Tensor& dx, const Images& grad) {
  const Product& f = call.forward;
  const Images target = images_of(dx, "dx");
  for (int64_t phase_h = 0; phase_h < std::min(f.step_h, f.height); ++phase_h) {
    for (int64_t phase_w = 0; phase_w < std::min(f.step_w, f.width); ++phase_w) {
      Product p{true, grad, target.every(f.step_h, phase_h, f.step_w, phase_w), (f.height - phase_h - 1) / f.step_h + 1,
          (f.width - phase_w - 1) / f.step_w + 1, f.rows, f.columns, 1, 1, {}};
      for (const Tap& tap : f.taps) {
        const int64_t row = phase_h - tap.row, column = phase_w - tap.column;
        if (row % f.step_h == 0 && column % f.step_w == 0) {
          p.taps.push_back({row / f.step_h, column / f.step_w, tap.fixed, tap.basis});
        }
      }
      if (!p.taps.empty()) run(call.problem, p);
    }
  }
}

void backward(const Optional& dx, const Optional& dweight, const Optional& dscale, const Optional& dbasis,
    const Optional& dcoefficients, const Tensor& grad, const Tensor& x, const Optional& weight, const Optional& scale,
    const Optional& basis, const Optional& coefficients, const std::vector<int64_t>& stride,
    const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups) {
  const Call call =
      call_of(x, grad, weight, std::nullopt, scale, basis, coefficients, {stride, padding, dilation, groups});
  const Problem& n = call.problem;
  if (dx) {
    STD_TORCH_CHECK(dx->dim() == 4 && dx->size(0) == x.size(0) && dx->size(1) == x.size(1) &&
                        dx->size(2) == x.size(2) && dx->size(3) == x.size(3),
        "dynamic_conv2d: dx has not x's shape");
    Tensor zeroed = *dx;
    // Under a stride larger than the kernel some pixels meet no tap.
    if (stride[0] > call.kernel[0] || stride[1] > call.kernel[1] || dilation[0] > 1 || dilation[1] > 1) {
      torch::stable::zero_(zeroed);
    }
    if (grad.numel() > 0) input_gradient(call, *dx, call.forward.target);
  }
  const auto gradient_of = [](const Optional& gradient, const Optional& tensor, int64_t parts, const char* name) {
    if (!gradient) return KernelTensor{};
    STD_TORCH_CHECK(tensor && gradient->scalar_type() == ScalarType::Float && gradient->dim() == 4 &&
                        gradient->size(0) == tensor->size(0) && gradient->size(1) == tensor->size(1) &&
                        gradient->size(2) == tensor->size(2) && gradient->size(3) == tensor->size(3),
        "dynamic_conv2d: ", name, " must be float32 and of its tensor's shape");
    return kernel_of(*gradient, parts, name);
  };
  const KernelGradients wanted{gradient_of(dweight, weight, 1, "dweight"),
      gradient_of(dbasis, basis, n.num_bases, "dbasis"), floats_of(dscale, n.batch, n.groups * n.outputs, "dscale"),
      floats_of(dcoefficients, n.batch, n.num_bases, "dcoefficients")};
  STD_TORCH_CHECK(!dscale || (weight && scale), "dynamic_conv2d: dscale goes with weight and scale");
  STD_TORCH_CHECK(!dcoefficients || coefficients, "dynamic_conv2d: dcoefficients goes with coefficients");
  if (!dweight && !dscale && !dbasis && !dcoefficients) return;
  if (grad.numel() > 0) {
    return (n.is_depthwise() ? run_depthwise_gradient : run_kernel_gradient)(
        chosen_kernels(), n, call.forward, call.forward.target, wanted);
  }
  for (const Optional* gradient : {&dweight, &dscale, &dbasis, &dcoefficients}) {
    if (!*gradient) continue;
    Tensor zeroed = **gradient;
    torch::stable::zero_(zeroed);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynconv, CPU, m) {
  m.impl("dynamic_conv2d_native_forward", TORCH_BOX(&forward));
  m.impl("dynamic_conv2d_native_backward", TORCH_BOX(&backward));
}

}  // namespace dynconv::cpu
