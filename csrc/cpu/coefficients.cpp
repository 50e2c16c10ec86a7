// coefficients on the CPU: z = W2 relu(W1 mean_hw(x)); pi = softmax(z[:K] / temperature), s = 1 + sigmoid(z[K:]) or
// relu6(z[K:] + 3) / 3 (DRT, section 3.3). Only the pooling touches data of any size, and it reads x once.
// Comparisons are written so that a NaN falls through them: NaN in gives NaN out.
#include "../coefficients.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

namespace dynconv {
namespace {

// The loops over data and weights exist once per instruction set; the loader picks by the processor it runs on. Clones
// of these few functions, and no translation unit of its own for each set: inline functions of the headers cannot leak
// from a unit compiled for AVX2 into code that runs without it.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define DYNCONV_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
// What a clone calls must become part of it: a function left by itself is compiled for the oldest processor.
#define DYNCONV_INLINE inline __attribute__((always_inline))
#else
#define DYNCONV_CLONES
#define DYNCONV_INLINE inline
#endif

// Work per task, in multiply-adds or elements: about 10 us, so that starting a thread never costs more than it brings.
constexpr int64_t kGrain = 32768;
// Independent partial sums: they hide the latency of an addition and let the compiler vectorise without reassociating.
constexpr int kLanes = 32;
// Float sums this long, then a double takes over: the mean of 10^6 pixels keeps 7 digits.
constexpr int64_t kRun = 64;
// Channels-last rows are widened to at least this many elements, so that three channels vectorise as well as 300.
constexpr int64_t kRowWidth = 256;

int64_t grain(int64_t work_per_item) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, work_per_item)); }

DYNCONV_INLINE float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

DYNCONV_INLINE uint32_t bits_from_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

DYNCONV_INLINE float widen(float value) { return value; }
DYNCONV_INLINE double widen(double value) { return value; }
DYNCONV_INLINE float widen(BFloat16 value) { return float_from_bits(static_cast<uint32_t>(value.x) << 16); }
// Branch-free in 32-bit integers, so that it vectorises without F16C: the exponent is rebiased by a multiplication,
// which also normalises subnormals; infinities and NaNs come out at 2^16 or above and get their exponent back.
DYNCONV_INLINE float widen(Half value) {
  const uint32_t magnitude = (value.x & 0x7fffu) << 13;
  const float rebiased = float_from_bits(magnitude) * 0x1p112f;
  const uint32_t special = rebiased >= 65536.0f ? 0x7f800000u : 0u;
  return float_from_bits(bits_from_float(rebiased) | special | (value.x & 0x8000u) << 16);
}

template <int lanes, typename T>
DYNCONV_INLINE double sum_run(const T* data, int64_t count) {
  using Acc = Accumulator<T>;
  double total = 0;
  while (count >= lanes) {
    const int64_t rows = std::min(count / lanes, kRun);
    Acc sums[lanes] = {};
    for (int64_t row = 0; row < rows; ++row, data += lanes) {
      for (int lane = 0; lane < lanes; ++lane) sums[lane] += widen(data[lane]);
    }
    for (int width = lanes / 2; width > 0; width /= 2) {
      for (int lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
    }
    total += sums[0];
    count -= rows * lanes;
  }
  for (int64_t i = 0; i < count; ++i) total += widen(data[i]);
  return total;
}

struct PlaneShape {
  int64_t channels, pixels, batch_stride, channel_stride;
};

template <typename T>
DYNCONV_CLONES void mean_planes(
    const T* data, const PlaneShape& n, Accumulator<T>* pooled, int64_t begin, int64_t end) {
  int64_t b = begin / n.channels, c = begin % n.channels;
  for (int64_t i = begin; i < end; ++i) {
    const T* plane = data + b * n.batch_stride + c * n.channel_stride;
    // Few lanes for a small plane: adding up 32 of them would take longer than its pixels.
    const double sum = n.pixels < 8 * kLanes ? sum_run<8>(plane, n.pixels) : sum_run<kLanes>(plane, n.pixels);
    pooled[i] = static_cast<Accumulator<T>>(sum / static_cast<double>(n.pixels));
    if (++c == n.channels) c = 0, ++b;
  }
}

template <typename T>
void pool_planes(const Tensor& x, const Sizes& n, Accumulator<T>* pooled) {
  const T* data = x.const_data_ptr<T>();
  const PlaneShape shape{n.channels, n.pixels, x.stride(0), x.stride(1)};
  torch::stable::parallel_for(0, n.batch * n.channels, grain(n.pixels),
      [&](int64_t begin, int64_t end) { mean_planes(data, shape, pooled, begin, end); });
}

// sums[j] += over rows of data[row * stride + j], j < width.
template <typename T>
DYNCONV_CLONES void add_rows(
    const T* data, int64_t rows, int64_t stride, int64_t width, Accumulator<T>* run, double* sums) {
  while (rows > 0) {
    const int64_t length = std::min(rows, kRun);
    std::fill_n(run, width, Accumulator<T>(0));
    int64_t row = 0;
    // Four rows for each load and store of the running sum, which would otherwise bound the loop.
    for (; row + 4 <= length; row += 4, data += 4 * stride) {
      const T *a = data, *b = data + stride, *c = data + 2 * stride, *d = data + 3 * stride;
      for (int64_t j = 0; j < width; ++j) run[j] += (widen(a[j]) + widen(b[j])) + (widen(c[j]) + widen(d[j]));
    }
    for (; row < length; ++row, data += stride) {
      for (int64_t j = 0; j < width; ++j) run[j] += widen(data[j]);
    }
    for (int64_t j = 0; j < width; ++j) sums[j] += run[j];
    rows -= length;
  }
}

template <typename T>
void pool_pixels(const Tensor& x, const Sizes& n, Accumulator<T>* pooled) {
  const T* data = x.const_data_ptr<T>();
  const int64_t batch_stride = x.stride(0), pixel_stride = pixel_stride_of(x), pixels = n.pixels, channels = n.channels;
  // Dense pixels are read as rows of several, so that few channels still fill the vectors.
  const int64_t group = pixel_stride == channels ? std::max<int64_t>(1, kRowWidth / channels) : 1;
  const int64_t width = group * channels, stride = group * pixel_stride, rows = pixels / group;
  // The cut depends on the shape alone: the result is the same for any number of threads.
  const int64_t chunk_rows = std::max<int64_t>(1, kGrain / width), chunks = (rows + chunk_rows - 1) / chunk_rows;
  std::vector<double> partial(static_cast<size_t>(n.batch * chunks * width));
  double* const sums = partial.data();
  torch::stable::parallel_for(0, n.batch * chunks, 1, [=](int64_t begin, int64_t end) {
    std::vector<Accumulator<T>> run(static_cast<size_t>(width));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = (i % chunks) * chunk_rows;
      const T* start = data + (i / chunks) * batch_stride + first * stride;
      add_rows(start, std::min(chunk_rows, rows - first), stride, width, run.data(), sums + i * width);
    }
  });
  torch::stable::parallel_for(0, n.batch, grain(chunks * width), [=](int64_t begin, int64_t end) {
    std::vector<double> total(static_cast<size_t>(channels));
    for (int64_t b = begin; b < end; ++b) {
      std::fill(total.begin(), total.end(), 0.0);
      for (int64_t start = b * chunks * width; start < (b + 1) * chunks * width; start += channels) {
        for (int64_t c = 0; c < channels; ++c) total[c] += sums[start + c];
      }
      for (int64_t pixel = rows * group; pixel < pixels; ++pixel) {
        const T* last = data + b * batch_stride + pixel * pixel_stride;
        for (int64_t c = 0; c < channels; ++c) total[c] += widen(last[c]);
      }
      for (int64_t c = 0; c < channels; ++c) {
        pooled[b * channels + c] = static_cast<Accumulator<T>>(total[c] / static_cast<double>(pixels));
      }
    }
  });
}

template <typename T>
void pool(const Tensor& x, const Sizes& n, Accumulator<T>* pooled) {
  if (layout_of(x) == Layout::pixels) {
    pool_pixels<T>(x, n, pooled);
  } else {
    pool_planes<T>(x, n, pooled);
  }
}

template <typename Acc>
DYNCONV_INLINE Acc dot(const Acc* a, const Acc* b, int64_t count) {
  constexpr int lanes_of_dot = 16;
  Acc lanes[lanes_of_dot] = {};
  int64_t i = 0;
  for (; i + lanes_of_dot <= count; i += lanes_of_dot) {
    for (int lane = 0; lane < lanes_of_dot; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  }
  for (int lane = 0; i + lane < count; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  for (int width = lanes_of_dot / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

template <typename Acc>
DYNCONV_INLINE void add_scaled(Acc* out, Acc factor, const Acc* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] += factor * values[i];
}

template <typename Acc>
DYNCONV_INLINE void softmax(Acc* values, int64_t count, Acc temperature) {
  Acc largest = -INFINITY, total = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, values[i] /= temperature);
  for (int64_t i = 0; i < count; ++i) total += values[i] = std::exp(values[i] - largest);
  for (int64_t i = 0; i < count; ++i) values[i] /= total;
}

DYNCONV_INLINE double exp_of(double value) { return std::exp(value); }
// Branch-free, so that a loop over it vectorises (std::exp took a quarter of the time at 512 scales). Within 2 units in
// the last place: exp(x) = 2^n exp(r) with |r| <= ln(2) / 2, ln(2) in two parts, and a polynomial for exp(r).
DYNCONV_INLINE float exp_of(float value) {
  // Beyond these 2^n leaves the normal numbers; the gate is saturated long before.
  value = value < -87.0f ? -87.0f : value;
  value = value > 88.0f ? 88.0f : value;
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
  const float shifted = value * 1.44269504f + 0x1.8p23f;
  const float n = shifted - 0x1.8p23f;
  const float r = (value - n * 0.693359375f) + n * 2.12194440e-4f;
  float tail = 1.9875691500e-4f;
  tail = tail * r + 1.3981999507e-3f;
  tail = tail * r + 8.3334519073e-3f;
  tail = tail * r + 4.1665795894e-2f;
  tail = tail * r + 1.6666665459e-1f;
  tail = tail * r + 5.0000001201e-1f;
  return (tail * r * r + r + 1.0f) * float_from_bits((bits_from_float(shifted) - 0x4b400000u + 127u) << 23);
}

template <typename Acc>
DYNCONV_INLINE void activate(Acc* values, int64_t count, ScaleKind kind) {
  if (kind == ScaleKind::sigmoid) {
    for (int64_t i = 0; i < count; ++i) values[i] = 1 + 1 / (1 + exp_of(-values[i]));
  } else {
    for (int64_t i = 0; i < count; ++i) {
      const Acc shifted = values[i] + 3;
      values[i] = (shifted < 0 ? 0 : shifted > 6 ? 6 : shifted) / 3;
    }
  }
}

// From z, and not from s as (s - 1) (2 - s): of those differences nothing is left where the gate saturates.
template <typename Acc>
DYNCONV_INLINE Acc sigmoid_slope(Acc z) {
  const Acc decay = exp_of(-std::abs(z));
  return decay / ((1 + decay) * (1 + decay));
}

// No slope at the two corners, as torch's relu6 has it.
template <typename Acc>
DYNCONV_INLINE Acc hard_slope(Acc s) {
  return s <= 0 || s >= 2 ? Acc(0) : Acc(1) / 3;
}

// w2 comes transposed, (hidden, outputs): sums along a row need no horizontal addition, which took longer than the
// products.
template <typename Acc>
struct ForwardData {
  const Acc *pooled, *w1, *w2_transposed;
  Acc *hidden, *pi, *s;
};

template <typename Acc>
DYNCONV_CLONES void transform_samples(
    const ForwardData<Acc>& d, const Sizes& n, Acc temperature, ScaleKind kind, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b) {
    Acc *hidden = d.hidden + b * n.hidden, *pi = d.pi + b * n.bases, *s = d.s + b * n.scales;
    std::fill_n(pi, n.bases, Acc(0));
    std::fill_n(s, n.scales, Acc(0));
    for (int64_t h = 0; h < n.hidden; ++h) {
      const Acc value = dot(d.pooled + b * n.channels, d.w1 + h * n.channels, n.channels);
      hidden[h] = value < 0 ? Acc(0) : value;
      const Acc* row = d.w2_transposed + h * n.outputs();
      add_scaled(pi, hidden[h], row, n.bases);
      add_scaled(s, hidden[h], row + n.bases, n.scales);
    }
    softmax(pi, n.bases, temperature);
    activate(s, n.scales, kind);
  }
}

template <typename Acc>
void transform(const ForwardData<Acc>& d, const Sizes& n, Acc temperature, ScaleKind kind) {
  const int64_t work = n.hidden * (n.channels + n.outputs());
  torch::stable::parallel_for(0, n.batch, grain(work),
      [&](int64_t begin, int64_t end) { transform_samples(d, n, temperature, kind, begin, end); });
}

// `grad_pooled` becomes the gradient of each pixel of a plane. `w2_transposed`, as in the forward pass, is for the
// sigmoid alone.
template <typename Acc>
struct BackwardData {
  const Acc *grad_pi, *grad_s, *pi, *s, *pooled, *hidden, *w1, *w2, *w2_transposed;
  Acc *grad_outputs, *grad_hiddens, *grad_pooled, *grad_w1, *grad_w2;
};

template <typename Acc>
DYNCONV_CLONES void differentiate_samples(
    const BackwardData<Acc>& d, const Sizes& n, Acc temperature, ScaleKind kind, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b) {
    Acc *dz = d.grad_outputs + b * n.outputs(), *dh = d.grad_hiddens + b * n.hidden;
    // A part that nothing depends on has no gradient, and its rows of dz stay zero.
    if (d.grad_pi != nullptr) {
      const Acc *pi = d.pi + b * n.bases, *grad_pi = d.grad_pi + b * n.bases;
      const Acc mean = dot(pi, grad_pi, n.bases);
      for (int64_t k = 0; k < n.bases; ++k) dz[k] = pi[k] * (grad_pi[k] - mean) / temperature;
    }
    if (d.grad_s != nullptr) {
      const Acc *s = d.s + b * n.scales, *grad_s = d.grad_s + b * n.scales, *hidden = d.hidden + b * n.hidden;
      Acc* of_scales = dz + n.bases;
      if (kind == ScaleKind::sigmoid) {
        // First z itself, by the sums of the forward pass.
        for (int64_t h = 0; h < n.hidden; ++h) {
          add_scaled(of_scales, hidden[h], d.w2_transposed + h * n.outputs() + n.bases, n.scales);
        }
        for (int64_t o = 0; o < n.scales; ++o) of_scales[o] = grad_s[o] * sigmoid_slope(of_scales[o]);
      } else {
        for (int64_t o = 0; o < n.scales; ++o) of_scales[o] = grad_s[o] * hard_slope(s[o]);
      }
    }
    for (int64_t o = 0; o < n.outputs(); ++o) add_scaled(dh, dz[o], d.w2 + o * n.hidden, n.hidden);
    for (int64_t h = 0; h < n.hidden; ++h) dh[h] = d.hidden[b * n.hidden + h] <= 0 ? Acc(0) : dh[h];
    Acc* grad_pooled = d.grad_pooled + b * n.channels;
    for (int64_t h = 0; h < n.hidden; ++h) add_scaled(grad_pooled, dh[h], d.w1 + h * n.channels, n.channels);
    for (int64_t c = 0; c < n.channels; ++c) grad_pooled[c] /= static_cast<Acc>(n.pixels);
  }
}

// Rows begin to end of gradient (rows, columns) = sum over b of left (B, rows) times right (B, columns). One task owns
// a row and adds the samples in order: no race, and the same sum on every run.
template <typename Acc>
DYNCONV_CLONES void add_outer_products(Acc* gradient, const Acc* left, const Acc* right, int64_t batch, int64_t rows,
    int64_t columns, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t b = 0; b < batch; ++b) {
      add_scaled(gradient + row * columns, left[b * rows + row], right + b * columns, columns);
    }
  }
}

template <typename Acc>
void differentiate(const BackwardData<Acc>& d, const Sizes& n, Acc temperature, ScaleKind kind) {
  const int64_t outputs = n.outputs();
  torch::stable::parallel_for(0, n.batch, grain(n.hidden * (n.channels + outputs)),
      [&](int64_t begin, int64_t end) { differentiate_samples(d, n, temperature, kind, begin, end); });
  torch::stable::parallel_for(0, n.hidden, grain(n.batch * n.channels), [&](int64_t begin, int64_t end) {
    add_outer_products(d.grad_w1, d.grad_hiddens, d.pooled, n.batch, n.hidden, n.channels, begin, end);
  });
  torch::stable::parallel_for(0, outputs, grain(n.batch * n.hidden), [&](int64_t begin, int64_t end) {
    add_outer_products(d.grad_w2, d.grad_outputs, d.hidden, n.batch, outputs, n.hidden, begin, end);
  });
}

struct Cpu {
  static void check(const Tensor& tensor, const Tensor&, const char* name) {
    STD_TORCH_CHECK(tensor.is_cpu(), "coefficients: ", name, " must be on the CPU, as x is");
  }

  template <typename T>
  static void forward(const Forward& a) {
    using Acc = Accumulator<T>;
    const ScalarType type = accumulation_type(a.x.scalar_type());
    const Tensor first = contiguous_as(a.w1, type);
    const Tensor second = contiguous_as(torch::stable::transpose(a.w2, 0, 1), type);
    pool<T>(a.x, a.n, a.pooled.mutable_data_ptr<Acc>());
    const ForwardData<Acc> data{a.pooled.const_data_ptr<Acc>(), first.const_data_ptr<Acc>(),
        second.const_data_ptr<Acc>(), a.hidden.mutable_data_ptr<Acc>(), a.pi.mutable_data_ptr<Acc>(),
        a.s.mutable_data_ptr<Acc>()};
    transform(data, a.n, read_scalar<Acc>(a.temperature, type), a.kind);
  }

  template <typename Acc>
  static void backward(const Backward& a) {
    const ScalarType type = a.pooled.scalar_type();
    const Sizes& n = a.n;
    // Sums in the accumulation type, rounded once they are complete.
    const auto zeros = [&](int64_t rows, int64_t columns) {
      return torch::stable::new_zeros(a.pooled, {rows, columns}, type);
    };
    Tensor grad_pixel = zeros(n.batch, n.channels), grad_w1 = zeros(n.hidden, n.channels),
           grad_w2 = zeros(n.outputs(), n.hidden);
    const Tensor w1 = contiguous_as(a.w1, type), w2 = contiguous_as(a.w2, type);
    std::optional<Tensor> w2_transposed;
    if (a.grad_s && a.kind == ScaleKind::sigmoid) {
      w2_transposed = torch::stable::contiguous(torch::stable::transpose(w2, 0, 1));
    }
    std::vector<Acc> grad_outputs(static_cast<size_t>(n.batch * n.outputs()));
    std::vector<Acc> grad_hiddens(static_cast<size_t>(n.batch * n.hidden));
    const auto data_of = [](const Tensor& tensor) { return tensor.const_data_ptr<Acc>(); };
    const BackwardData<Acc> data{a.grad_pi ? data_of(*a.grad_pi) : nullptr, a.grad_s ? data_of(*a.grad_s) : nullptr,
        data_of(a.pi), data_of(a.s), data_of(a.pooled), data_of(a.hidden), data_of(w1), data_of(w2),
        w2_transposed ? data_of(*w2_transposed) : nullptr, grad_outputs.data(), grad_hiddens.data(),
        grad_pixel.mutable_data_ptr<Acc>(), grad_w1.mutable_data_ptr<Acc>(), grad_w2.mutable_data_ptr<Acc>()};
    differentiate(data, n, read_scalar<Acc>(a.temperature, type), a.kind);
    for (auto [to, from] : {std::pair{a.grad_pixel, grad_pixel}, {a.grad_w1, grad_w1}, {a.grad_w2, grad_w2}}) {
      torch::stable::copy_(to, from);
    }
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynconv, CPU, m) {
  m.impl("coefficients_native_forward", TORCH_BOX(&Operators<Cpu>::forward));
  m.impl("coefficients_native_backward", TORCH_BOX(&Operators<Cpu>::backward));
}

}  // namespace dynconv
