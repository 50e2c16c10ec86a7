// dynamic_conv2d on the CPU: what its parts share. dynamic_conv2d.cpp checks the arguments and describes the passes,
// dynamic_conv2d_product.cpp runs forward and input gradient, dynamic_conv2d_gradient.cpp the gradients of W0, s, Phi,
// pi, and dynamic_conv2d_depthwise.cpp all of them where a group has one channel.
#pragma once

#include "dynamic_conv2d_kernels.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace dynconv::cpu {

// A batch of images, strides in elements.
struct Images {
  void* data;
  Element type;
  int64_t batch, channel, row, column;

  // Sample b from channel c and row h on.
  Image at(int64_t b, int64_t c, int64_t h = 0) const {
    const int64_t bytes = (b * batch + c * channel + h * row) * (type == Element::float32 ? 4 : 2);
    return {static_cast<char*>(data) + bytes, type, channel, row, column};
  }
  // Every step_h-th row from h on, and every step_w-th column from w on.
  Images every(int64_t step_h, int64_t h, int64_t step_w, int64_t w) const {
    const int64_t bytes = (h * row + w * column) * (type == Element::float32 ? 4 : 2);
    return {static_cast<char*>(data) + bytes, type, batch, channel, row * step_h, column * step_w};
  }
};

// W0, or Phi, of (parts, Cout, Cin/groups, taps) with strides in elements. data is null where there is none.
struct KernelTensor {
  void* data = nullptr;
  Element type = Element::float32;
  int64_t taps = 0, part = 0, output = 0, input = 0, tap = 0;

  const void* at(int64_t index_output, int64_t index_input) const {
    const int64_t bytes = (index_output * output + index_input * input) * (type == Element::float32 ? 4 : 2);
    return static_cast<const char*>(data) + bytes;
  }
};

// Source position of output o at tap t along one axis: o * step + offset(t).
struct Tap {
  int64_t row, column;   // offsets
  int64_t fixed, basis;  // its place in W0's kernel and in the basis', -1 where it has none
};

struct Problem {
  int64_t batch, groups, inputs, outputs;  // channels of one group
  int64_t num_bases;
  KernelTensor fixed, bases;
  const float *scale, *mixing, *bias;  // (B, Cout), (B, K), (Cout); null where there is none

  bool is_depthwise() const { return inputs == 1 && outputs == 1; }
};

// One product over a grid of produced pixels: the forward, or a residue class of the input gradient under a stride.
struct Product {
  bool gradient;  // lanes are input channels, the reduction runs over output channels
  Images source, target;
  int64_t rows, columns, height, width, step_h, step_w;
  std::vector<Tap> taps;
};

// The taps that a basis has: all, or the centre's alone.
struct BasisTaps {
  std::vector<int32_t> place;  // for each tap of the product its place among them, or -1
  std::vector<int64_t> order;  // for each of them its tap in the basis
};
BasisTaps basis_taps(const Product& product);

void run_product(const Kernels& kernels, const Problem& problem, const Product& product);
void run_depthwise_product(const Kernels& kernels, const Problem& problem, const Product& product);

// Where the gradients go, float32; data null where one is not wanted. scale (B, Cout), mixing (B, K), contiguous.
struct KernelGradients {
  KernelTensor fixed, bases;
  float *scale, *mixing;
};

void run_kernel_gradient(const Kernels& kernels, const Problem& problem, const Product& forward, const Images& grad,
    const KernelGradients& wanted);
void run_depthwise_gradient(const Kernels& kernels, const Problem& problem, const Product& forward, const Images& grad,
    const KernelGradients& wanted);

// The widest instruction set that this processor has, or the one that DYNCONV_CPU_ISA names.
const Kernels& chosen_kernels();

// Floats on a cache line's boundary, so that no vector of a packed block straddles two lines.
class Buffer {
 public:
  explicit Buffer(int64_t floats)
      : data_(new (std::align_val_t{64}) float[static_cast<size_t>(floats > 0 ? floats : 1)]) {}
  float* get() const { return data_.get(); }

 private:
  struct Delete {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  std::unique_ptr<float[], Delete> data_;
};

inline int64_t blocks_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Neighbours [begin, end) of part `index` when `count` things are cut into `parts` even parts.
struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};
inline Range part_of(int64_t count, int64_t parts, int64_t index) {
  return {count * index / parts, count * (index + 1) / parts};
}

inline float sum_of(const float* values, int64_t count) {
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += static_cast<double>(values[i]);
  return static_cast<float>(total);
}

// Partial sums (count, size) in their order: no result depends on which task ended first.
inline void add_up(const float* partial, int64_t count, int64_t size, float* out) {
  for (int64_t i = 0; i < size; ++i) {
    double total = 0;
    for (int64_t j = 0; j < count; ++j) total += static_cast<double>(partial[j * size + i]);
    out[i] = static_cast<float>(total);
  }
}

template <typename F>
void for_each_task(int64_t tasks, const F& f) {
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) f(task);
  });
}

}  // namespace dynconv::cpu
