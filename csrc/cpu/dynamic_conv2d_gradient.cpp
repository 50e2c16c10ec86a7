// Gradients of W0, s, Phi and pi. With G_b = dy_b x_b^T, the gradient of sample b's kernel:
//
//   dW0 = sum_b s_b G_b   ds_b = <W0, G_b> per output channel   dPhi_i = sum_b pi_bi G_b   dpi_bi = <Phi_i, G_b>
//
// A task owns a block of input channels (`lanes`), some tiles of output channels and some taps; Phi, W0 and their
// gradients for these stay in the second-level cache while the samples pass by, a block of rows at a time. G_b of a
// block exists one tile at one tap at a time, for a few samples, in the first-level cache, and is used up there: all
// that becomes of it is linear in it.
#include "dynamic_conv2d.h"

#include <array>
#include <map>
#include <numeric>

namespace dynconv::cpu {
namespace {

// Packed kernels and their gradients of one task.
constexpr int64_t kTaskBytes = 768 << 10;
// The pixels taken together, read once for each tap and tile, stay in the second-level cache: of a few samples, or some
// rows of one.
constexpr int64_t kPixelBytes = 256 << 10;

// Where the pixels lie that one tap multiplies: those of the output that it reaches, and of the input that it reads
// there. Padding is never visited.
struct Steps {
  std::vector<int32_t> source, target;
};

// Some rows of the output, the rows of the input that they read, and the steps of each tap.
struct Rows {
  Range target, source;
  std::vector<const Steps*> steps;
};

class Runner {
 public:
  Runner(const Kernels& kernels, const Problem& problem, const Product& forward, const Images& grad,
      const KernelGradients& wanted)
      : k_(kernels),
        n_(problem),
        p_(forward),
        grad_(grad),
        wanted_(wanted),
        taps_(static_cast<int64_t>(forward.taps.size())),
        tiles_(blocks_of(problem.outputs, kernels.tile)),
        blocks_(blocks_of(problem.inputs, kernels.lanes)) {
    const int64_t parts = (n_.fixed.data ? 1 : 0) + n_.num_bases;
    const int64_t tile_bytes = 2 * parts * taps_ * k_.tile * k_.lanes * 4;
    const int64_t threads = torch::stable::get_num_threads(), units = n_.groups * blocks_;
    // Enough ranges of tiles for every thread, then of taps, and no range larger than the cache or than 32-bit offsets
    // reach within a row.
    ranges_ = std::max({blocks_of(tiles_ * tile_bytes, kTaskBytes), blocks_of(threads, units),
        blocks_of(p_.columns * tiles_ * k_.tile, 1 << 29)});
    ranges_ = std::clamp<int64_t>(ranges_, 1, tiles_);
    tap_ranges_ = std::clamp<int64_t>(blocks_of(threads, units * ranges_), 1, taps_);
    // So many tasks that follow each other have the same outputs and neighbouring inputs, whose kernels lie on the same
    // pages, as far as that leaves each thread its share.
    neighbours_ = std::gcd(units, std::max<int64_t>(1, units / threads));
    stride_ = blocks_of(tiles_, ranges_) * k_.tile;
    const int64_t sample_bytes = (p_.height * p_.width * k_.lanes + p_.rows * p_.columns * stride_) * 4;
    together_ = std::clamp<int64_t>(kPixelBytes / sample_bytes, 1, std::min(kMostTogether, n_.batch));
    const int64_t count = std::clamp<int64_t>(blocks_of(sample_bytes, kPixelBytes), 1, p_.rows);
    for (int64_t i = 0; i < count; ++i) add_rows(part_of(p_.rows, count, i));
  }

  void run() const {
    const int64_t tasks = n_.groups * blocks_ * ranges_ * tap_ranges_;
    const bool wants_scale = wanted_.scale && n_.fixed.data;
    // Partial sums of each task, added up afterwards.
    const Buffer mixing(wanted_.mixing ? tasks * n_.batch * n_.num_bases : 0);
    const int64_t rows = n_.batch * n_.groups * n_.outputs, slices = blocks_ * tap_ranges_;
    const Buffer scale(wants_scale ? slices * rows : 0);
    for_each_task(tasks, [&](int64_t task) {
      const Range taps = part_of(taps_, tap_ranges_, task % tap_ranges_);
      const int64_t round = task / tap_ranges_ / neighbours_, range = round % ranges_;
      const int64_t unit = round / ranges_ * neighbours_ + task / tap_ranges_ % neighbours_, block = unit % blocks_;
      run_task(unit / blocks_, block * k_.lanes, part_of(tiles_, ranges_, range), taps,
          wanted_.mixing ? mixing.get() + task * n_.batch * n_.num_bases : nullptr,
          wants_scale ? scale.get() + (block * tap_ranges_ + task % tap_ranges_) * rows : nullptr);
    });
    if (wanted_.mixing) add_up(mixing.get(), tasks, n_.batch * n_.num_bases, wanted_.mixing);
    if (wants_scale) add_up(scale.get(), slices, rows, wanted_.scale);
  }

 private:
  void add_rows(Range target) {
    const auto [lowest, highest] =
        std::minmax_element(p_.taps.begin(), p_.taps.end(), [](const Tap& a, const Tap& b) { return a.row < b.row; });
    const int64_t begin = std::clamp<int64_t>(target.begin * p_.step_h + lowest->row, 0, p_.height);
    const int64_t end = std::clamp<int64_t>((target.end - 1) * p_.step_h + highest->row + 1, begin, p_.height);
    Rows rows{target, {begin, end}, {}};
    for (int64_t t = 0; t < taps_; ++t) {
      // Where the tap reads at the first of these rows. Blocks in the middle of an image share their steps.
      const int64_t first = target.begin * p_.step_h + p_.taps[static_cast<size_t>(t)].row - begin;
      const auto [found, is_new] = steps_.try_emplace({t, first, target.size(), end - begin});
      if (is_new) list_steps(p_.taps[static_cast<size_t>(t)], first, target.size(), end - begin, found->second);
      rows.steps.push_back(&found->second);
    }
    most_source_ = std::max(most_source_, rows.source.size() * p_.width);
    most_target_ = std::max(most_target_, target.size() * p_.columns);
    rows_.push_back(std::move(rows));
  }

  void list_steps(const Tap& tap, int64_t first, int64_t rows, int64_t source_rows, Steps& steps) const {
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t h = first + row * p_.step_h;
      if (h < 0 || h >= source_rows) continue;
      for (int64_t column = 0; column < p_.columns; ++column) {
        const int64_t w = column * p_.step_w + tap.column;
        if (w < 0 || w >= p_.width) continue;
        steps.source.push_back(static_cast<int32_t>((h * p_.width + w) * k_.lanes));
        steps.target.push_back(static_cast<int32_t>((row * p_.columns + column) * stride_));
      }
    }
  }

  // A tile's place among the packed kernels: (tap, tile) blocks of (parts, tile, lanes).
  struct Packed {
    int64_t parts;
    Buffer values, gradients;
    float* at(const Buffer& buffer, int64_t index, int64_t block) const { return buffer.get() + index * parts * block; }
  };

  // What a task works on, and its working memory.
  struct Task {
    int64_t group, lane;
    Range tiles, taps;
    bool with_fixed, with_bases;
    Packed fixed, bases;
    Buffer source, target, products, factors, mixing_dots, scale_dots;
    float *mixing, *scale;  // its slots of the partial sums, or null
  };

  int64_t block_floats() const { return k_.tile * k_.lanes; }

  void run_task(int64_t group, int64_t lane, Range tiles, Range taps, float* mixing, float* scale) const {
    const bool with_fixed = n_.fixed.data && (wanted_.fixed.data || wanted_.scale);
    const bool with_bases = n_.num_bases > 0 && (wanted_.bases.data || wanted_.mixing);
    const int64_t floats = tiles.size() * taps.size() * block_floats();
    const int64_t fixed = with_fixed ? floats : 0, bases = with_bases ? floats * n_.num_bases : 0;
    const Task task{group, lane, tiles, taps, with_fixed, with_bases, {1, Buffer(fixed), Buffer(fixed)},
        {n_.num_bases, Buffer(bases), Buffer(bases)}, Buffer(together_ * most_source_ * k_.lanes),
        Buffer(together_ * most_target_ * stride_), Buffer(together_ * block_floats()),
        Buffer(together_ * std::max(n_.num_bases, k_.tile)), Buffer(n_.num_bases * together_ * k_.lanes),
        Buffer(together_ * block_floats()), mixing, scale};
    std::fill_n(task.fixed.gradients.get(), fixed, 0.0f);
    std::fill_n(task.bases.gradients.get(), bases, 0.0f);
    for_each_tile(task, [&](int64_t index, Range outputs) {
      if (with_fixed)
        pack(n_.fixed, task, outputs, &Tap::fixed, task.fixed.at(task.fixed.values, index, block_floats()), 1);
      if (with_bases) {
        float* out = task.bases.at(task.bases.values, index, block_floats());
        pack(n_.bases, task, outputs, &Tap::basis, out, n_.num_bases);
      }
    });
    for (int64_t b = 0; b < n_.batch; b += together_) {
      const Range samples{b, std::min(b + together_, n_.batch)};
      std::fill_n(task.mixing_dots.get(), n_.num_bases * samples.size() * k_.lanes, 0.0f);
      for (const Rows& rows : rows_) run_rows(task, samples, rows);
      for (int64_t i = 0; mixing && i < n_.num_bases; ++i) {
        for (int64_t s = 0; s < samples.size(); ++s) {
          mixing[(b + s) * n_.num_bases + i] =
              sum_of(task.mixing_dots.get() + (i * samples.size() + s) * k_.lanes, k_.lanes);
        }
      }
    }
    for_each_tile(task, [&](int64_t index, Range outputs) {
      if (wanted_.fixed.data) {
        unpack(
            task.fixed.at(task.fixed.gradients, index, block_floats()), wanted_.fixed, task, outputs, &Tap::fixed, 1);
      }
      if (wanted_.bases.data) {
        const float* in = task.bases.at(task.bases.gradients, index, block_floats());
        unpack(in, wanted_.bases, task, outputs, &Tap::basis, n_.num_bases);
      }
    });
  }

  // Forms G_b of some rows for every tile and tap of the task, and uses it.
  void run_rows(const Task& task, Range samples, const Rows& rows) const {
    const int64_t first_output = part_of(n_.outputs, tiles_, task.tiles.begin).begin;
    const int64_t outputs_used = part_of(n_.outputs, tiles_, task.tiles.end - 1).end - first_output;
    const int64_t source_floats = most_source_ * k_.lanes, target_floats = most_target_ * stride_;
    for (int64_t s = 0; s < samples.size(); ++s) {
      k_.pack_pixels(p_.source.at(samples.begin + s, task.group * n_.inputs + task.lane, rows.source.begin),
          rows.source.size(), p_.width, std::min(k_.lanes, n_.inputs - task.lane), k_.lanes, k_.lanes,
          task.source.get() + s * source_floats);
      k_.pack_pixels(grad_.at(samples.begin + s, task.group * n_.outputs + first_output, rows.target.begin),
          rows.target.size(), p_.columns, outputs_used, outputs_used, stride_, task.target.get() + s * target_floats);
    }
    for_each_tile(task, [&](int64_t first_index, Range outputs) {
      const int64_t size = outputs.size();
      if (task.scale) std::fill_n(task.scale_dots.get(), samples.size() * size * k_.lanes, 0.0f);
      for (int64_t t = task.taps.begin; t < task.taps.end; ++t) {
        const bool on_basis = task.with_bases && p_.taps[static_cast<size_t>(t)].basis >= 0;
        if (!task.with_fixed && !on_basis) continue;
        const Steps& steps = *rows.steps[static_cast<size_t>(t)];
        for (int64_t s = 0; s < samples.size(); ++s) {
          k_.multiply(task.source.get() + s * source_floats, steps.source.data(),
              task.target.get() + s * target_floats + outputs.begin - first_output, steps.target.data(),
              static_cast<int64_t>(steps.source.size()), size, task.products.get() + s * size * k_.lanes, false);
        }
        const int64_t index = first_index + t - task.taps.begin;
        if (on_basis) use_in_bases(task, samples, size, index);
        if (task.with_fixed) use_in_fixed(task, samples, outputs, index);
      }
      for (int64_t s = 0; task.scale && s < samples.size(); ++s) {
        float* sums = task.scale + ((samples.begin + s) * n_.groups + task.group) * n_.outputs + outputs.begin;
        for (int64_t i = 0; i < size; ++i) {
          const float sum = sum_of(task.scale_dots.get() + (s * size + i) * k_.lanes, k_.lanes);
          sums[i] = rows.target.begin == 0 ? sum : sums[i] + sum;
        }
      }
    });
  }

  void use_in_bases(const Task& task, Range samples, int64_t size, int64_t index) const {
    for (int64_t i = 0; i < n_.num_bases; ++i) {
      for (int64_t s = 0; s < samples.size(); ++s) {
        task.factors.get()[i * samples.size() + s] = n_.mixing[(samples.begin + s) * n_.num_bases + i];
      }
    }
    k_.contract_bases(task.products.get(), samples.size(), size, n_.num_bases, task.factors.get(),
        task.bases.at(task.bases.values, index, block_floats()),
        task.bases.at(task.bases.gradients, index, block_floats()), task.mixing_dots.get());
  }

  void use_in_fixed(const Task& task, Range samples, Range outputs, int64_t index) const {
    for (int64_t s = 0; n_.scale && s < samples.size(); ++s) {
      const float* scale = n_.scale + ((samples.begin + s) * n_.groups + task.group) * n_.outputs;
      std::copy_n(scale + outputs.begin, outputs.size(), task.factors.get() + s * outputs.size());
    }
    k_.contract_fixed(task.products.get(), samples.size(), outputs.size(), n_.scale ? task.factors.get() : nullptr,
        task.fixed.at(task.fixed.values, index, block_floats()),
        task.fixed.at(task.fixed.gradients, index, block_floats()), task.scale ? task.scale_dots.get() : nullptr);
  }

  // f(index of its first block, output channels) for each tile; a tile has a block for each of the task's taps.
  template <typename F>
  void for_each_tile(const Task& task, const F& f) const {
    for (int64_t tile = task.tiles.begin; tile < task.tiles.end; ++tile) {
      f((tile - task.tiles.begin) * task.taps.size(), part_of(n_.outputs, tiles_, tile));
    }
  }

  // The taps of a range that a kernel tensor has: their places in it, and the first of them in the range.
  struct Chosen {
    std::vector<int64_t> places;
    int64_t first = 0;
  };
  Chosen chosen(Range taps, int64_t Tap::* place) const {
    Chosen found;
    for (int64_t t = taps.begin; t < taps.end; ++t) {
      const int64_t at = p_.taps[static_cast<size_t>(t)].*place;
      if (at < 0) continue;
      if (found.places.empty()) found.first = t - taps.begin;
      found.places.push_back(at);
    }
    return found;
  }

  // One tile of a task: for each tap a block of (parts, outputs, lanes), in room for a full tile.
  KernelStrides packed(int64_t parts, Range outputs) const {
    return {outputs.size() * k_.lanes, 1, k_.lanes, parts * k_.tile * k_.lanes};
  }

  void pack(const KernelTensor& tensor, const Task& task, Range outputs, int64_t Tap::* place, float* out,
      int64_t parts) const {
    const Chosen some = chosen(task.taps, place);
    const KernelStrides to = packed(parts, outputs);
    k_.pack_kernel(tensor.at(task.group * n_.outputs + outputs.begin, task.lane), tensor.type,
        {tensor.part, tensor.input, tensor.output, tensor.tap}, parts, std::min(k_.lanes, n_.inputs - task.lane),
        outputs.size(), static_cast<int64_t>(some.places.size()), some.places.data(), tensor.taps, to,
        out + some.first * to.tap);
  }

  void unpack(const float* in, const KernelTensor& tensor, const Task& task, Range outputs, int64_t Tap::* place,
      int64_t parts) const {
    const Chosen some = chosen(task.taps, place);
    if (some.places.empty()) return;
    const KernelStrides from = packed(parts, outputs);
    const void* out = tensor.at(task.group * n_.outputs + outputs.begin, task.lane);
    k_.unpack_kernel(in + some.first * from.tap, from, parts, std::min(k_.lanes, n_.inputs - task.lane), outputs.size(),
        some.places.front(), static_cast<int64_t>(some.places.size()), tensor.taps,
        {tensor.part, tensor.input, tensor.output, tensor.tap}, const_cast<float*>(static_cast<const float*>(out)));
  }

  const Kernels& k_;
  const Problem& n_;
  const Product& p_;
  const Images& grad_;
  const KernelGradients& wanted_;
  const int64_t taps_, tiles_, blocks_;
  int64_t ranges_ = 1, tap_ranges_ = 1, neighbours_ = 1, together_ = 1, stride_ = 0, most_source_ = 0, most_target_ = 0;
  // By tap, its first source row, rows and source rows.
  std::map<std::array<int64_t, 4>, Steps> steps_;
  std::vector<Rows> rows_;
};

}  // namespace

void run_kernel_gradient(const Kernels& kernels, const Problem& problem, const Product& forward, const Images& grad,
    const KernelGradients& wanted) {
  Runner(kernels, problem, forward, grad, wanted).run();
}

}  // namespace dynconv::cpu
