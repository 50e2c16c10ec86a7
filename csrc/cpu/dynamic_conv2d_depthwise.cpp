// Depthwise convolutions on the CPU: each group has one input and one output channel, so no sum runs over channels and
// every lane is a channel of its own. Forward and input gradient are sums over taps of W_b times shifted pixels, lane
// by lane; the gradient of W_b is, for each tap, the sum over pixels of dy times shifted pixels.
//
// A task owns a block of channels (`lanes`) of one sample. Some rows of it at a time are laid out channels last, zeros
// around them, so that every tap of every pixel is a vector at a fixed distance, whatever the memory format, stride,
// padding and dilation. All arithmetic is in the cache: what is left is reading x and writing y once.
#include "dynamic_conv2d.h"

namespace dynconv::cpu {
namespace {

// The rows laid out at a time, and those produced from them, stay in a second-level cache of 1.25 MB, unless one row's
// taps reach over more.
constexpr int64_t kWindowBytes = 512 << 10;
// Gradients of the samples' kernels, all held before they are used up.
constexpr int64_t kGradientBytes = 4 << 20;

// How rows of a product read their source: rows of `pitch` pixels of `lanes` floats, from source column `left` on.
class Window {
 public:
  Window(const Kernels& kernels, const Product& product) : k_(kernels), p_(product) {
    lowest_ = left_ = INT64_MAX;
    int64_t highest = INT64_MIN, right = INT64_MIN;
    for (const Tap& tap : p_.taps) {
      lowest_ = std::min(lowest_, tap.row);
      highest = std::max(highest, tap.row);
      left_ = std::min(left_, tap.column);
      right = std::max(right, tap.column);
    }
    reach_ = highest - lowest_ + 1;
    pitch_ = (p_.columns - 1) * p_.step_w + right - left_ + 1;
    for (const Tap& tap : p_.taps) {
      offsets_.push_back(static_cast<int32_t>(((tap.row - lowest_) * pitch_ + tap.column - left_) * k_.lanes));
    }
    const int64_t row = (p_.step_h * pitch_ + p_.columns) * k_.lanes * 4;
    // At least as many as are laid out for the taps' reach alone.
    most_rows_ = std::max(kWindowBytes / row - reach_ * pitch_ * k_.lanes * 4 / row, blocks_of(reach_, p_.step_h));
  }

  // Enough for the cache, and for `parts` threads.
  int64_t row_blocks(int64_t parts) const { return std::min(p_.rows, std::max(blocks_of(p_.rows, most_rows_), parts)); }
  int64_t floats(int64_t rows) const { return source_rows(rows) * pitch_ * k_.lanes; }
  int64_t dense_floats(int64_t rows) const { return std::min(source_rows(rows), p_.height) * p_.width * k_.lanes; }
  int64_t row_step() const { return p_.step_h * pitch_ * k_.lanes; }
  int64_t pixel_step() const { return p_.step_w * k_.lanes; }
  const int32_t* offsets() const { return offsets_.data(); }

  // What the produced rows read of `channels` channels. dense: room for their pixels without the zeros.
  void fill(int64_t sample, int64_t channel, int64_t channels, Range rows, float* dense, float* out) const {
    const int64_t begin = rows.begin * p_.step_h + lowest_, end = begin + source_rows(rows.size());
    const int64_t top = std::clamp<int64_t>(begin, 0, p_.height), bottom = std::clamp(end, top, p_.height);
    const int64_t first = std::clamp<int64_t>(left_, 0, p_.width);
    const int64_t right = left_ + pitch_, last = std::clamp(right, first, p_.width), width = last - first;
    const Image image = p_.source.at(sample, channel, top);
    // Short rows transpose in full blocks as one run of pixels: rows of seven would not.
    const bool by_plane = image.column == 1 && image.row == p_.width && p_.width < k_.lanes;
    if (by_plane) k_.pack_pixels(image, bottom - top, p_.width, channels, k_.lanes, k_.lanes, dense);
    // Under a large stride and padding all that is read may lie on one side of the image.
    out = zeros(out, std::min(top, end) - begin, pitch_);
    for (int64_t row = top; row < bottom; ++row) {
      out = zeros(out, 1, std::min(first, right) - left_);
      if (by_plane) {
        std::copy_n(dense + ((row - top) * p_.width + first) * k_.lanes, width * k_.lanes, out);
      } else {
        const Images columns = p_.source.every(1, row, 1, first);
        k_.pack_pixels(columns.at(sample, channel), 1, width, channels, k_.lanes, k_.lanes, out);
      }
      out = zeros(out + width * k_.lanes, 1, right - std::max(last, left_));
    }
    zeros(out, end - std::max(bottom, begin), pitch_);
  }

 private:
  int64_t source_rows(int64_t rows) const { return (rows - 1) * p_.step_h + reach_; }
  // None where there are less than none.
  float* zeros(float* out, int64_t rows, int64_t pixels) const {
    return std::fill_n(out, rows * pixels * k_.lanes, 0.0f);
  }

  const Kernels& k_;
  const Product& p_;
  int64_t lowest_, left_, reach_, pitch_, most_rows_;
  std::vector<int32_t> offsets_;
};

// Pixels of a block of channels, a vector each: those of the image itself where it is float32 and channels_last and the
// block is full, else those of a buffer of so many columns.
struct Pixels {
  Pixels(const Kernels& kernels, const Image& image, int64_t used, int64_t columns, float* buffer)
      : is_copy(image.type != Element::float32 || image.channel != 1 || used < kernels.lanes),
        data(is_copy ? buffer : static_cast<float*>(const_cast<void*>(image.data))),
        row(is_copy ? columns * kernels.lanes : image.row),
        pixel(is_copy ? kernels.lanes : image.column) {}

  bool is_copy;
  float* data;
  int64_t row, pixel;
};

// How the channels are cut into blocks, and how W0, Phi and a value for each channel are packed for one of them.
class Channels {
 public:
  Channels(const Kernels& kernels, const Problem& problem, const Product& product)
      : k_(kernels), n_(problem), basis_(basis_taps(product)), taps_(static_cast<int64_t>(product.taps.size())) {
    for (const Tap& tap : product.taps) fixed_order_.push_back(tap.fixed);
  }

  int64_t blocks() const { return blocks_of(n_.groups, k_.lanes); }
  int64_t used(int64_t block) const { return std::min(k_.lanes, n_.groups - block * k_.lanes); }
  int64_t taps() const { return taps_; }
  const std::vector<int64_t>& basis_order() const { return basis_.order; }
  const std::vector<int32_t>& basis_place() const { return basis_.place; }
  int64_t fixed_floats() const { return taps_ * k_.lanes; }
  int64_t bases_floats() const { return static_cast<int64_t>(basis_.order.size()) * n_.num_bases * k_.lanes; }

  void pack_fixed(int64_t block, float* out) const { pack(n_.fixed, block, 1, fixed_order_, {0, 1, 0, k_.lanes}, out); }
  // (basis taps, K, lanes), or (K, basis taps, lanes).
  void pack_bases(int64_t block, bool taps_first, float* out) const {
    const int64_t part = taps_first ? k_.lanes : static_cast<int64_t>(basis_.order.size()) * k_.lanes;
    pack(n_.bases, block, n_.num_bases, basis_.order, {part, 1, 0, taps_first ? n_.num_bases * k_.lanes : k_.lanes},
        out);
  }

  // A block of `values`, one for each channel, zeros beyond the last.
  void copy_lanes(const float* values, int64_t block, float* out) const {
    std::fill(std::copy_n(values + block * k_.lanes, used(block), out), out + k_.lanes, 0.0f);
  }

 private:
  void pack(const KernelTensor& tensor, int64_t block, int64_t parts, const std::vector<int64_t>& order,
      const KernelStrides& to, float* out) const {
    const KernelStrides from{tensor.part, tensor.output, tensor.input, tensor.tap};
    k_.pack_kernel(tensor.at(block * k_.lanes, 0), tensor.type, from, parts, used(block), 1,
        static_cast<int64_t>(order.size()), order.data(), tensor.taps, to, out);
  }

  const Kernels& k_;
  const Problem& n_;
  const BasisTaps basis_;
  const int64_t taps_;
  std::vector<int64_t> fixed_order_;
};

}  // namespace

void run_depthwise_product(const Kernels& k, const Problem& n, const Product& p) {
  const Window window(k, p);
  const Channels channels(k, n, p);
  const int64_t blocks = channels.blocks(), taps = channels.taps();
  const bool scaled = n.scale && n.fixed.data, biased = n.bias && !p.gradient;
  const Buffer fixed(n.fixed.data ? blocks * channels.fixed_floats() : 0), bases(blocks * channels.bases_floats());
  for (int64_t block = 0; block < blocks; ++block) {
    if (n.fixed.data) channels.pack_fixed(block, fixed.get() + block * channels.fixed_floats());
    if (channels.bases_floats()) channels.pack_bases(block, true, bases.get() + block * channels.bases_floats());
  }
  const int64_t row_blocks = window.row_blocks(blocks_of(torch::stable::get_num_threads(), n.batch * blocks));
  const int64_t most_rows = blocks_of(p.rows, row_blocks);
  torch::stable::parallel_for(0, n.batch * blocks * row_blocks, 1, [&](int64_t begin, int64_t end) {
    const Buffer dense(window.dense_floats(most_rows)), source(window.floats(most_rows));
    const Buffer out(most_rows * p.columns * k.lanes), kernel(taps * k.lanes), lane_scale(k.lanes), bias(k.lanes);
    std::fill_n(bias.get(), k.lanes, 0.0f);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t sample = task / row_blocks / blocks, block = task / row_blocks % blocks;
      const int64_t channel = block * k.lanes, used = channels.used(block);
      const Range rows = part_of(p.rows, row_blocks, task % row_blocks);
      const float* mixing = n.mixing ? n.mixing + sample * n.num_bases : nullptr;
      const float* scale = lane_scale.get();
      float* built = kernel.get();
      if (scaled) channels.copy_lanes(n.scale + sample * n.groups, block, lane_scale.get());
      k.build({n.fixed.data ? fixed.get() + block * channels.fixed_floats() : nullptr,
                  bases.get() + block * channels.bases_floats(), 1, taps, n.num_bases,
                  static_cast<int64_t>(channels.basis_order().size()), channels.basis_place().data(), &mixing,
                  scaled ? &scale : nullptr, nullptr, &built},
          1);
      window.fill(sample, channel, used, rows, dense.get(), source.get());
      if (biased) channels.copy_lanes(n.bias, block, bias.get());
      const Image target = p.target.at(sample, channel, rows.begin);
      const Pixels to(k, target, used, p.columns, out.get());
      for (int64_t row = 0; row < rows.size(); ++row) {
        k.multiply_lanes(kernel.get(), source.get() + row * window.row_step(), window.offsets(), taps,
            window.pixel_step(), bias.get(), p.columns, to.data + row * to.row, to.pixel);
      }
      if (to.is_copy) k.unpack(out.get(), rows.size(), p.columns, used, nullptr, target);
    }
  });
}

namespace {

// Kernel gradients: G_b of some samples, then what becomes of it, block by block.
class Gradients {
 public:
  Gradients(const Kernels& kernels, const Problem& problem, const Product& forward, const Images& grad,
      const KernelGradients& wanted)
      : k_(kernels),
        n_(problem),
        p_(forward),
        grad_(grad),
        wanted_(wanted),
        window_(kernels, forward),
        channels_(kernels, problem, forward),
        blocks_(channels_.blocks()),
        taps_(channels_.taps()),
        basis_taps_(static_cast<int64_t>(channels_.basis_order().size())) {}

  void run() const {
    const bool with_fixed = n_.fixed.data && (wanted_.fixed.data || wanted_.scale);
    const bool with_bases = n_.num_bases > 0 && (wanted_.bases.data || wanted_.mixing);
    const int64_t sample_floats = blocks_ * taps_ * k_.lanes;
    const int64_t most = std::clamp<int64_t>(kGradientBytes / 4 / sample_floats, 1, n_.batch);
    const Buffer products(most * sample_floats);
    const Part fixed(with_fixed ? blocks_ * channels_.fixed_floats() : 0);
    const Part bases(with_bases ? blocks_ * channels_.bases_floats() : 0);
    const Buffer mixing(with_bases ? blocks_ * n_.batch * n_.num_bases : 0);
    for (int64_t first = 0; first < n_.batch; first += most) {
      const Range samples{first, std::min(first + most, n_.batch)};
      form(samples, products.get());
      for_each_task(blocks_, [&](int64_t block) {
        if (with_fixed) use_in_fixed(block, samples, products.get(), fixed);
        if (with_bases) {
          use_in_bases(block, samples, products.get(), bases, mixing.get() + block * n_.batch * n_.num_bases);
        }
      });
    }
    for (int64_t block = 0; block < blocks_; ++block) {
      if (wanted_.fixed.data) unpack(fixed, wanted_.fixed, block, 1, taps_, 0);
      if (wanted_.bases.data) {
        unpack(bases, wanted_.bases, block, n_.num_bases, basis_taps_, channels_.basis_order().front());
      }
    }
    if (wanted_.mixing) add_up(mixing.get(), blocks_, n_.batch * n_.num_bases, wanted_.mixing);
  }

 private:
  // A kernel tensor and its gradient, packed: for each block (parts, taps, lanes).
  struct Part {
    explicit Part(int64_t floats) : values(floats), gradients(floats) { std::fill_n(gradients.get(), floats, 0.0f); }
    Buffer values, gradients;
  };

  // G_b (samples, blocks, taps, lanes).
  void form(Range samples, float* products) const {
    const int64_t row_blocks = window_.row_blocks(1), most_rows = blocks_of(p_.rows, row_blocks);
    torch::stable::parallel_for(0, samples.size() * blocks_, 1, [&](int64_t begin, int64_t end) {
      const Buffer dense(window_.dense_floats(most_rows)), source(window_.floats(most_rows));
      const Buffer target(most_rows * p_.columns * k_.lanes), of_window(taps_ * k_.lanes);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t sample = samples.begin + task / blocks_, block = task % blocks_;
        const int64_t channel = block * k_.lanes, used = channels_.used(block);
        float* out = products + task * taps_ * k_.lanes;
        std::fill_n(out, taps_ * k_.lanes, 0.0f);
        for (int64_t i = 0; i < row_blocks; ++i) {
          const Range rows = part_of(p_.rows, row_blocks, i);
          window_.fill(sample, channel, used, rows, dense.get(), source.get());
          const Image image = grad_.at(sample, channel, rows.begin);
          const Pixels grad(k_, image, used, p_.columns, target.get());
          if (grad.is_copy) {
            k_.pack_pixels(image, rows.size(), p_.columns, used, k_.lanes, k_.lanes, target.get());
          }
          k_.correlate_lanes(grad.data, grad.row, grad.pixel, source.get(), window_.offsets(), taps_,
              window_.row_step(), window_.pixel_step(), rows.size(), p_.columns, of_window.get());
          // A sum of sums: one run of additions over a large image would lose digits.
          for (int64_t j = 0; j < taps_ * k_.lanes; ++j) out[j] += of_window.get()[j];
        }
      }
    });
  }

  // dW0 += s_b G_b, ds_b = <W0, G_b> per channel.
  void use_in_fixed(int64_t block, Range samples, const float* products, const Part& fixed) const {
    float* values = fixed.values.get() + block * channels_.fixed_floats();
    float* gradients = fixed.gradients.get() + block * channels_.fixed_floats();
    if (samples.begin == 0) channels_.pack_fixed(block, values);
    const Buffer scale(k_.lanes), dots(k_.lanes);
    for (int64_t b = samples.begin; b < samples.end; ++b) {
      if (n_.scale) channels_.copy_lanes(n_.scale + b * n_.groups, block, scale.get());
      k_.contract_lanes(products + ((b - samples.begin) * blocks_ + block) * taps_ * k_.lanes, taps_,
          n_.scale ? scale.get() : nullptr, values, gradients, dots.get());
      if (wanted_.scale) {
        std::copy_n(dots.get(), channels_.used(block), wanted_.scale + b * n_.groups + block * k_.lanes);
      }
    }
  }

  // dPhi_i += pi_bi G_b, dpi_bi = <Phi_i, G_b>, here of one block.
  void use_in_bases(int64_t block, Range samples, const float* products, const Part& bases, float* mixing) const {
    float* values = bases.values.get() + block * channels_.bases_floats();
    float* gradients = bases.gradients.get() + block * channels_.bases_floats();
    if (samples.begin == 0) channels_.pack_bases(block, false, values);
    const int64_t product_floats = basis_taps_ * k_.lanes;
    const Buffer some(kMostTogether * product_floats), factors(n_.num_bases * kMostTogether);
    const Buffer dots(n_.num_bases * kMostTogether * k_.lanes);
    for (int64_t b = samples.begin; b < samples.end; b += kMostTogether) {
      const int64_t count = std::min(kMostTogether, samples.end - b);
      std::fill_n(dots.get(), n_.num_bases * count * k_.lanes, 0.0f);
      for (int64_t s = 0; s < count; ++s) {
        const float* from = products + ((b + s - samples.begin) * blocks_ + block) * taps_ * k_.lanes;
        for (int64_t t = 0; t < taps_; ++t) {
          const int64_t place = channels_.basis_place()[static_cast<size_t>(t)];
          if (place >= 0)
            std::copy_n(from + t * k_.lanes, k_.lanes, some.get() + s * product_floats + place * k_.lanes);
        }
        for (int64_t i = 0; i < n_.num_bases; ++i) {
          factors.get()[i * count + s] = n_.mixing[(b + s) * n_.num_bases + i];
        }
      }
      k_.contract_bases(some.get(), count, basis_taps_, n_.num_bases, factors.get(), values, gradients, dots.get());
      for (int64_t i = 0; i < n_.num_bases; ++i) {
        for (int64_t s = 0; s < count; ++s) {
          mixing[(b + s) * n_.num_bases + i] = sum_of(dots.get() + (i * count + s) * k_.lanes, k_.lanes);
        }
      }
    }
  }

  void unpack(const Part& part, const KernelTensor& tensor, int64_t block, int64_t parts, int64_t taps,
      int64_t first_tap) const {
    const int64_t floats = parts * taps * k_.lanes;
    const void* out = tensor.at(block * k_.lanes, 0);
    k_.unpack_kernel(part.gradients.get() + block * floats, {taps * k_.lanes, 1, 0, k_.lanes}, parts,
        channels_.used(block), 1, first_tap, taps, tensor.taps, {tensor.part, tensor.output, tensor.input, tensor.tap},
        const_cast<float*>(static_cast<const float*>(out)));
  }

  const Kernels& k_;
  const Problem& n_;
  const Product& p_;
  const Images& grad_;
  const KernelGradients& wanted_;
  const Window window_;
  const Channels channels_;
  const int64_t blocks_, taps_, basis_taps_;
};

}  // namespace

void run_depthwise_gradient(const Kernels& kernels, const Problem& problem, const Product& forward, const Images& grad,
    const KernelGradients& wanted) {
  Gradients(kernels, problem, forward, grad, wanted).run();
}

}  // namespace dynconv::cpu
