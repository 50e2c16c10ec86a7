// coefficients on the CPU: z = W2 relu(W1 mean_hw(x)); pi = softmax(z[:K] / temperature), s = 1 + sigmoid(z[K:]) or
// relu6(z[K:] + 3) / 3 (DRT, section 3.3). Only the pooling touches data of any size, and it reads x once.
// Comparisons are written so that a NaN falls through them: NaN in gives NaN out.
#include "../coefficients.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>
#include <type_traits>
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

template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

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
  const PlaneShape shape{n.channels, n.pixels(), x.stride(0), x.stride(1)};
  torch::stable::parallel_for(0, n.batch * n.channels, grain(n.pixels()),
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
  const int64_t batch_stride = x.stride(0), pixel_stride = pixel_stride_of(x), pixels = n.pixels(),
                channels = n.channels;
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
void pool(const Tensor& x, const Sizes& n, Tensor& pooled) {
  const Layout layout = layout_of(x);
  auto* out = pooled.mutable_data_ptr<Accumulator<T>>();
  if (layout == Layout::pixels) {
    pool_pixels<T>(x, n, out);
  } else {
    pool_planes<T>(layout == Layout::planes ? x : torch::stable::contiguous(x), n, out);
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

// The derivative of the gate, from its value. The hard gate has slope 0 at its two corners, as torch's relu6 has.
template <typename Acc>
DYNCONV_INLINE Acc gate_slope(Acc s, ScaleKind kind) {
  if (kind == ScaleKind::sigmoid) return (s - 1) * (2 - s);
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

template <typename Acc>
struct BackwardData {
  const Acc *grad_pi, *grad_s, *pi, *s, *pooled, *hidden, *w1, *w2;
  Acc *grad_outputs, *grad_hiddens, *grad_pooled, *grad_w1, *grad_w2;
};

template <typename Acc>
DYNCONV_CLONES void differentiate_samples(
    const BackwardData<Acc>& d, const Sizes& n, Acc temperature, ScaleKind kind, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b) {
    Acc *dz = d.grad_outputs + b * n.outputs(), *dh = d.grad_hiddens + b * n.hidden;
    const Acc *pi = d.pi + b * n.bases, *grad_pi = d.grad_pi + b * n.bases;
    const Acc mean = dot(pi, grad_pi, n.bases);
    for (int64_t k = 0; k < n.bases; ++k) dz[k] = pi[k] * (grad_pi[k] - mean) / temperature;
    for (int64_t o = 0; o < n.scales; ++o) {
      dz[n.bases + o] = d.grad_s[b * n.scales + o] * gate_slope(d.s[b * n.scales + o], kind);
    }
    for (int64_t o = 0; o < n.outputs(); ++o) add_scaled(dh, dz[o], d.w2 + o * n.hidden, n.hidden);
    for (int64_t h = 0; h < n.hidden; ++h) dh[h] = d.hidden[b * n.hidden + h] <= 0 ? Acc(0) : dh[h];
    Acc* grad_pooled = d.grad_pooled + b * n.channels;
    for (int64_t h = 0; h < n.hidden; ++h) add_scaled(grad_pooled, dh[h], d.w1 + h * n.channels, n.channels);
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

template <typename Acc>
Acc read_scalar(const Tensor& value, ScalarType type) {
  STD_TORCH_CHECK(value.numel() == 1, "coefficients: temperature must hold one number, got ", value.numel());
  return *contiguous_as(value, type).template const_data_ptr<Acc>();
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
  const Tensor first = contiguous_as(w1, type);
  const Tensor second = contiguous_as(torch::stable::transpose(w2, 0, 1), type);
  pool<T>(x, n, pooled);
  const ForwardData<Acc> data{pooled.const_data_ptr<Acc>(), first.const_data_ptr<Acc>(), second.const_data_ptr<Acc>(),
      hidden.mutable_data_ptr<Acc>(), pi.mutable_data_ptr<Acc>(), s.mutable_data_ptr<Acc>()};
  transform(data, n, read_scalar<Acc>(temperature, type), kind);
  return {pi, s, pooled, hidden};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& x, const Tensor& w1, const Tensor& w2,
    const Tensor& temperature, int64_t num_bases, int64_t scale_kind) {
  const Sizes sizes = forward_sizes(x, w1, w2, num_bases);
  const ScaleKind kind = scale_kind_of(scale_kind);
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
  Tensor grad_pooled = torch::stable::new_zeros(saved.pooled, {n.batch, n.channels}, type);
  Tensor grad_w1 = torch::stable::new_zeros(saved.pooled, {n.hidden, n.channels}, type);
  Tensor grad_w2 = torch::stable::new_zeros(saved.pooled, {n.outputs(), n.hidden}, type);
  const Tensor inputs[] = {contiguous_as(grad_pi, type), contiguous_as(grad_s, type), contiguous_as(saved.pi, type),
      contiguous_as(saved.s, type), contiguous_as(saved.pooled, type), contiguous_as(saved.hidden, type),
      contiguous_as(saved.w1, type), contiguous_as(saved.w2, type)};
  const auto at = [&inputs](int i) { return inputs[i].const_data_ptr<Acc>(); };
  std::vector<Acc> grad_outputs(static_cast<size_t>(n.batch * n.outputs()));
  std::vector<Acc> grad_hiddens(static_cast<size_t>(n.batch * n.hidden));
  const BackwardData<Acc> data{at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), grad_outputs.data(),
      grad_hiddens.data(), grad_pooled.mutable_data_ptr<Acc>(), grad_w1.mutable_data_ptr<Acc>(),
      grad_w2.mutable_data_ptr<Acc>()};
  differentiate(data, n, read_scalar<Acc>(temperature, type), kind);
  return {grad_pooled, grad_w1, grad_w2};
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_pi, const Tensor& grad_s, const Tensor& pi,
    const Tensor& s, const Tensor& pooled, const Tensor& hidden, const Tensor& w1, const Tensor& w2,
    const Tensor& temperature, int64_t num_bases, int64_t scale_kind) {
  const Saved saved{pi, s, pooled, hidden, w1, w2};
  const Sizes sizes = backward_sizes(grad_pi, grad_s, saved, num_bases);
  const ScaleKind kind = scale_kind_of(scale_kind);
  return pooled.scalar_type() == ScalarType::Double
             ? backward_as<double>(grad_pi, grad_s, saved, temperature, sizes, kind)
             : backward_as<float>(grad_pi, grad_s, saved, temperature, sizes, kind);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dynconv, CPU, m) {
  m.impl("coefficients_native_forward", TORCH_BOX(&forward));
  m.impl("coefficients_native_backward", TORCH_BOX(&backward));
}

}  // namespace dynconv
