// Forward and input gradient: per sample an implicit GEMM with a kernel W_b = s_b W0 + sum_i pi_bi Phi_i that is built
// just before its use and never leaves the cache.
//
// A task owns a block of produced channels (`lanes`) and a range of samples. The slices of W0 and Phi that belong to
// the block are packed once, a panel of reduction channels at a time, into the second-level cache. Then, for a few
// samples at once, a chunk of W_b is built from the panel and multiplied with that chunk's pixels; the sums of a block
// of pixels wait in the cache until all chunks are through.
#include "dynamic_conv2d.h"

#include <numeric>

namespace dynconv::cpu {

BasisTaps basis_taps(const Product& product) {
  BasisTaps found;
  for (const Tap& tap : product.taps) {
    found.place.push_back(tap.basis < 0 ? -1 : static_cast<int32_t>(found.order.size()));
    if (tap.basis >= 0) found.order.push_back(tap.basis);
  }
  return found;
}

namespace {

// What stays in a second-level cache of 1.25 MB: a packed panel; the sums that wait of one sample (beyond which its
// rows are cut) or of the samples whose kernels are built together; and a chunk's pixels. At 64 channels and 56x56
// pixels, uncut rows cost 1.1 times as much.
constexpr int64_t kPanelBytes = 640 << 10;
constexpr int64_t kSumsBytes = 160 << 10;
constexpr int64_t kPixelBytes = 640 << 10;
// A chunk of W_b, beside its pixels in a first-level cache of 32 or 48 KB.
constexpr int64_t kChunkBytes = 20 << 10;
// A task of the input gradient takes neighbouring blocks of channels in turn, panel by panel, for their slices lie on
// the same pages: 570 of them for 113 channels of W0 and four full bases with 512 inputs each, where one sample's input
// gradient takes 3.7 ms instead of 5.7. At most so many bytes of sums wait meanwhile.
constexpr int64_t kNeighbourBytes = 1 << 20;
constexpr int64_t kMostNeighbours = 8;
// The sums of all samples that wait for the next panel; beyond it the panels are packed again for the next samples.
constexpr int64_t kWaitingBytes = 8 << 20;
// Pixels of the whole batch are laid out once for all tasks up to this size, and beyond it by each task for itself.
constexpr int64_t kSharedBytes = 8 << 20;

// A tile of pixels: where it reads in a plane, and where its sums are.
struct Tile {
  int64_t plane, sums, count;
};

// The layout of the source for a number of produced rows: what View points to, and where each tap and each tile reads.
class Layout {
 public:
  Layout(const Product& p, int64_t rows, int64_t tile, int64_t vector) : pixels_(rows * p.columns) {
    for (const Tap& tap : p.taps) shifts_.push_back(tap.column);
    std::sort(shifts_.begin(), shifts_.end());
    shifts_.erase(std::unique(shifts_.begin(), shifts_.end()), shifts_.end());
    const auto [lowest, highest] =
        std::minmax_element(p.taps.begin(), p.taps.end(), [](const Tap& a, const Tap& b) { return a.row < b.row; });
    const int64_t used_rows = (rows - 1) * p.step_h + highest->row - lowest->row + 1;
    const int64_t left = std::max<int64_t>(0, -shifts_.front());
    const int64_t reach = std::max(p.width, (p.columns - 1) * p.step_w + shifts_.back() + 1);
    // Rows of full tiles need no copy for each shift, which would be 3 of the 4 passes of a 3x3 kernel's layout.
    const bool packed = p.step_w > 1 || p.columns < 7;
    view_ = {packed, p.columns, p.height, p.width, p.step_h, p.step_w, static_cast<int64_t>(shifts_.size()),
        shifts_.data(), 0, nullptr, 0, lowest->row, used_rows, left, left + reach + (packed ? vector : 0)};
    if (packed) {
      lay_out_bands(p, rows);
      const int64_t count = blocks_of(pixels_, tile);
      for (int64_t i = 0; i < count; ++i) {
        const Range part = part_of(pixels_, count, i);
        tiles_.push_back({part.begin, part.begin, part.size()});
      }
    } else {
      for (const Tap& tap : p.taps) tap_offsets_.push_back((tap.row - lowest->row) * view_.pitch + left + tap.column);
      view_.plane = used_rows * view_.pitch;
      const int64_t count = blocks_of(p.columns, tile);
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t i = 0; i < count; ++i) {
          const Range part = part_of(p.columns, count, i);
          tiles_.push_back({row * p.step_h * view_.pitch + part.begin, row * p.columns + part.begin, part.size()});
        }
      }
    }
    view_.plane += vector;
  }
  Layout(const Layout&) = delete;

  // For rows from `first` on.
  View view(int64_t first, const Product& p) const {
    View moved = view_;
    moved.first_row += first * p.step_h;
    return moved;
  }
  int64_t plane() const { return view_.plane; }
  int64_t pixels() const { return pixels_; }
  const std::vector<Tile>& tiles() const { return tiles_; }
  const std::vector<int64_t>& tap_offsets() const { return tap_offsets_; }
  int64_t padded_floats(int64_t vector) const { return view_.packed ? vector * view_.used_rows * view_.pitch : 0; }

 private:
  // Rows of one residue modulo the step are neighbours; a band spans the offsets of its taps.
  void lay_out_bands(const Product& p, int64_t rows) {
    const auto steps = static_cast<size_t>(p.step_h);
    const auto residue = [&](int64_t row) { return static_cast<size_t>(((row % p.step_h) + p.step_h) % p.step_h); };
    std::vector<int64_t> first(steps, INT64_MAX), last(steps, INT64_MIN), start(steps, 0);
    for (const Tap& tap : p.taps) {
      const size_t r = residue(tap.row);
      first[r] = std::min(first[r], tap.row);
      last[r] = std::max(last[r], tap.row);
    }
    int64_t total = 0;
    for (size_t r = 0; r < steps; ++r) {
      if (first[r] > last[r]) continue;
      start[r] = total;
      bands_.push_back({first[r] - view_.first_row, rows + (last[r] - first[r]) / p.step_h});
      total += bands_.back().count;
    }
    for (const Tap& tap : p.taps) {
      const int64_t shift = std::lower_bound(shifts_.begin(), shifts_.end(), tap.column) - shifts_.begin();
      const size_t r = residue(tap.row);
      tap_offsets_.push_back((shift * total + start[r] + (tap.row - first[r]) / p.step_h) * p.columns);
    }
    view_.num_bands = static_cast<int64_t>(bands_.size());
    view_.bands = bands_.data();
    view_.plane = view_.num_shifts * total * p.columns;
  }

  int64_t pixels_;
  std::vector<int64_t> shifts_;
  std::vector<Band> bands_;
  std::vector<int64_t> tap_offsets_;
  std::vector<Tile> tiles_;
  View view_;
};

class Runner {
 public:
  Runner(const Kernels& kernels, const Problem& problem, const Product& product)
      : k_(kernels),
        n_(problem),
        p_(product),
        basis_(basis_taps(product)),
        lanes_total_(product.gradient ? problem.inputs : problem.outputs),
        reduction_(product.gradient ? problem.outputs : problem.inputs),
        taps_(static_cast<int64_t>(product.taps.size())),
        chunk_(std::clamp<int64_t>(kChunkBytes / (taps_ * row_bytes()), 1, reduction_)),
        blocks_(blocks_of(lanes_total_, kernels.lanes)) {
    for (const Tap& tap : p_.taps) fixed_order_.push_back(tap.fixed);
    const int64_t per_channel = (fixed_floats(1) + bases_floats(1)) * 4;
    panel_ = std::clamp<int64_t>(kPanelBytes / per_channel / chunk_ * chunk_, chunk_, reduction_);
    const int64_t threads = torch::stable::get_num_threads();
    if (p_.gradient && panel_ < reduction_) {
      const int64_t even = std::gcd(blocks_, std::max<int64_t>(1, blocks_ / threads));
      neighbours_ = std::clamp<int64_t>(kNeighbourBytes / (n_.batch * pixels() * row_bytes()), 1, kMostNeighbours);
      while (even % neighbours_ != 0) --neighbours_;
    }
    const int64_t units = n_.groups * blocks_ / neighbours_;
    // As many tasks as divide evenly among the threads; a batch too small for that is cut into rows.
    ranges_ = std::min<int64_t>(n_.batch, threads / std::gcd(units, threads));
    row_parts_ = std::min(p_.rows, blocks_of(threads, units * ranges_));
    row_blocks_ = std::clamp(blocks_of(p_.rows, most_rows()), row_parts_, p_.rows);
    // Blocks have at most two sizes.
    const int64_t least = p_.rows / row_blocks_;
    for (int64_t rows = least; rows <= blocks_of(p_.rows, row_blocks_); ++rows) {
      layouts_.push_back(std::make_unique<Layout>(p_, rows, k_.tile, k_.vector));
      auto& offsets = pixel_offsets_.emplace_back();
      for (int64_t r = 0; r < chunk_; ++r) {
        for (const int64_t tap : layouts_.back()->tap_offsets()) {
          offsets.push_back(static_cast<int32_t>(r * layouts_.back()->plane() + tap));
        }
      }
    }
    const int64_t sums = largest().pixels() * row_bytes();
    together_ = std::clamp<int64_t>(kSumsBytes / std::max<int64_t>(1, sums), 1, std::min(kMostTogether, n_.batch));
    for (int64_t j = 0; j < chunk_ * taps_; ++j) kernel_offsets_.push_back(static_cast<int32_t>(j * k_.lanes));
  }

  void run() const {
    const int64_t channels = n_.groups * reduction_, plane = largest().plane();
    const bool share = row_blocks_ == 1 && blocks_ > 1 && n_.batch * channels * plane * 4 <= kSharedBytes;
    const Buffer shared(share ? n_.batch * channels * plane : 0);
    if (share) {
      const int64_t pieces = blocks_of(channels, chunk_);
      for_each_task(n_.batch * pieces, [&](int64_t task) {
        const int64_t b = task / pieces, first = task % pieces * chunk_;
        const Buffer scratch(largest().padded_floats(k_.vector));
        k_.pack_planes(largest().view(0, p_), p_.source.at(b, first), std::min(chunk_, channels - first), scratch.get(),
            shared.get() + (b * channels + first) * plane);
      });
    }
    for_each_task(n_.groups * blocks_ / neighbours_ * ranges_ * row_parts_, [&](int64_t task) {
      const int64_t block = task / row_parts_ / ranges_ * neighbours_;
      run_task(block / blocks_, block % blocks_ * k_.lanes, part_of(n_.batch, ranges_, task / row_parts_ % ranges_),
          part_of(row_blocks_, row_parts_, task % row_parts_), share ? shared.get() : nullptr);
    });
  }

 private:
  struct Panel {
    Range reduction;
    bool is_first, is_last;
  };
  // Working memory of one task.
  struct Scratch {
    Buffer fixed, bases, kernels, padded, planes, sums, lane_scale;
  };

  int64_t pixels() const { return p_.rows * p_.columns; }
  int64_t row_bytes() const { return k_.lanes * 4; }
  int64_t fixed_floats(int64_t channels) const { return n_.fixed.data ? channels * taps_ * k_.lanes : 0; }
  const Layout& largest() const { return *layouts_.back(); }
  // The rows of a block: their sums, and a chunk's pixels under the taps, stay in the second-level cache.
  int64_t most_rows() const {
    const auto [lowest, highest] =
        std::minmax_element(p_.taps.begin(), p_.taps.end(), [](const Tap& a, const Tap& b) { return a.row < b.row; });
    const int64_t reach = highest->row - lowest->row + 1, source_row = chunk_ * std::max(p_.width, p_.columns) * 4;
    const int64_t by_source = (kPixelBytes / source_row - reach) / p_.step_h + 1;
    return std::max<int64_t>(1, std::min(kSumsBytes / (p_.columns * row_bytes()), by_source));
  }
  int64_t bases_floats(int64_t channels) const {
    return channels * static_cast<int64_t>(basis_.order.size()) * n_.num_bases * k_.lanes;
  }

  void run_task(int64_t group, int64_t lane, Range samples, Range row_blocks, const float* shared) const {
    const int64_t sums = largest().pixels() * k_.lanes;
    const bool several_panels = panel_ < reduction_;
    const int64_t most_waiting = std::max<int64_t>(1, kWaitingBytes / (neighbours_ * together_ * sums * 4)) * together_;
    const int64_t waiting = several_panels ? std::min(most_waiting, samples.size()) : together_;
    const Scratch scratch{Buffer(fixed_floats(panel_)), Buffer(bases_floats(panel_)),
        Buffer(together_ * chunk_ * taps_ * k_.lanes), Buffer(shared ? 0 : largest().padded_floats(k_.vector)),
        Buffer(shared ? 0 : chunk_ * largest().plane()), Buffer(neighbours_ * waiting * sums),
        Buffer(together_ * k_.lanes)};
    const auto run_panel = [&](int64_t block, Range some, int64_t begin, int64_t neighbour) {
      const int64_t first_lane = lane + neighbour * k_.lanes;
      const Panel panel{{begin, std::min(begin + panel_, reduction_)}, begin == 0, begin + panel_ >= reduction_};
      if (several_panels || (block == row_blocks.begin && some.begin == samples.begin))
        pack(group, first_lane, panel.reduction, scratch);
      for (int64_t b = some.begin; b < some.end; b += together_) {
        float* out = scratch.sums.get() + (neighbour * waiting + b - some.begin) * sums;
        run_samples(
            group, first_lane, block, panel, {b, std::min(b + together_, some.end)}, shared, scratch, out, sums);
      }
    };
    for (int64_t block = row_blocks.begin; block < row_blocks.end; ++block) {
      for (int64_t first = samples.begin; first < samples.end; first += waiting) {
        const Range some{first, std::min(first + waiting, samples.end)};
        for (int64_t begin = 0; begin < reduction_; begin += panel_) {
          for (int64_t i = 0; i < neighbours_; ++i) run_panel(block, some, begin, i);
        }
      }
    }
  }

  void pack(int64_t group, int64_t lane, Range reduction, const Scratch& scratch) const {
    const int64_t used = std::min(k_.lanes, lanes_total_ - lane);
    const auto pack_one = [&](const KernelTensor& tensor, int64_t parts, const std::vector<int64_t>& order,
                              float* out) {
      const int64_t output = group * n_.outputs + (p_.gradient ? reduction.begin : lane);
      const int64_t input = p_.gradient ? lane : reduction.begin;
      const KernelStrides strides{tensor.part, p_.gradient ? tensor.input : tensor.output,
          p_.gradient ? tensor.output : tensor.input, tensor.tap};
      const auto taps = static_cast<int64_t>(order.size());
      const KernelStrides packed{k_.lanes, 1, taps * parts * k_.lanes, parts * k_.lanes};
      k_.pack_kernel(tensor.at(output, input), tensor.type, strides, parts, used, reduction.size(), taps, order.data(),
          tensor.taps, packed, out);
    };
    if (n_.fixed.data) pack_one(n_.fixed, 1, fixed_order_, scratch.fixed.get());
    if (!basis_.order.empty()) pack_one(n_.bases, n_.num_bases, basis_.order, scratch.bases.get());
  }

  // Adds one panel's share to the waiting sums of a few samples, and writes them out after the last.
  void run_samples(int64_t group, int64_t lane, int64_t block, const Panel& panel, Range samples, const float* shared,
      const Scratch& scratch, float* waiting, int64_t sums) const {
    const Range rows = part_of(p_.rows, row_blocks_, block);
    const auto size = static_cast<size_t>(rows.size() - p_.rows / row_blocks_);
    const Layout& layout = *layouts_[size];
    const std::vector<int32_t>& pixel_offsets = pixel_offsets_[size];
    const View view = layout.view(rows.begin, p_);
    for (int64_t first = panel.reduction.begin; first < panel.reduction.end; first += chunk_) {
      const int64_t channels = std::min(chunk_, panel.reduction.end - first);
      build(group, lane, first - panel.reduction.begin, first, channels, samples, scratch);
      for (int64_t b = samples.begin; b < samples.end; ++b) {
        const int64_t channel = group * reduction_ + first;
        const float* planes = scratch.planes.get();
        if (shared) {
          planes = shared + (b * n_.groups * reduction_ + channel) * layout.plane();
        } else {
          k_.pack_planes(view, p_.source.at(b, channel), channels, scratch.padded.get(), scratch.planes.get());
        }
        const float* kernel = scratch.kernels.get() + (b - samples.begin) * chunk_ * taps_ * k_.lanes;
        float* out = waiting + (b - samples.begin) * sums;
        const bool add = !(panel.is_first && first == panel.reduction.begin);
        for (const Tile& tile : layout.tiles()) {
          k_.multiply(kernel, kernel_offsets_.data(), planes + tile.plane, pixel_offsets.data(), channels * taps_,
              tile.count, out + tile.sums * k_.lanes, add);
        }
      }
    }
    if (!panel.is_last) return;
    const int64_t used = std::min(k_.lanes, lanes_total_ - lane), channel = group * lanes_total_ + lane;
    for (int64_t b = samples.begin; b < samples.end; ++b) {
      k_.unpack(waiting + (b - samples.begin) * sums, rows.size(), p_.columns, used,
          n_.bias && !p_.gradient ? n_.bias + channel : nullptr, p_.target.at(b, channel, rows.begin));
    }
  }

  void build(int64_t group, int64_t lane, int64_t in_panel, int64_t first, int64_t channels, Range samples,
      const Scratch& scratch) const {
    const float *mixing[kMostTogether] = {}, *lane_scale[kMostTogether] = {}, *step_scale[kMostTogether] = {};
    float* out[kMostTogether] = {};
    const bool scaled = n_.scale && n_.fixed.data;
    for (int64_t b = samples.begin; b < samples.end; ++b) {
      const int64_t i = b - samples.begin;
      out[i] = scratch.kernels.get() + i * chunk_ * taps_ * k_.lanes;
      if (n_.mixing) mixing[i] = n_.mixing + b * n_.num_bases;
      if (!scaled) continue;
      const float* scale = n_.scale + (b * n_.groups + group) * n_.outputs;
      if (p_.gradient) {
        step_scale[i] = scale + first;
      } else {
        // A full vector is read, and the last block may end before one.
        float* copy = scratch.lane_scale.get() + i * k_.lanes;
        const int64_t used = std::min(k_.lanes, lanes_total_ - lane);
        std::fill(std::copy_n(scale + lane, used, copy), copy + k_.lanes, 0.0f);
        lane_scale[i] = copy;
      }
    }
    const BuildArguments arguments{n_.fixed.data ? scratch.fixed.get() + fixed_floats(in_panel) : nullptr,
        scratch.bases.get() + bases_floats(in_panel), channels, taps_, n_.num_bases,
        static_cast<int64_t>(basis_.order.size()), basis_.place.data(), mixing,
        scaled && !p_.gradient ? lane_scale : nullptr, scaled && p_.gradient ? step_scale : nullptr, out};
    k_.build(arguments, samples.size());
  }

  const Kernels& k_;
  const Problem& n_;
  const Product& p_;
  const BasisTaps basis_;
  const int64_t lanes_total_, reduction_, taps_, chunk_, blocks_;
  int64_t neighbours_ = 1, ranges_ = 1, row_parts_ = 1, row_blocks_ = 1, panel_ = 0, together_ = 0;
  std::vector<int64_t> fixed_order_;
  std::vector<std::unique_ptr<Layout>> layouts_;
  std::vector<int32_t> kernel_offsets_;
  std::vector<std::vector<int32_t>> pixel_offsets_;
};

}  // namespace

void run_product(const Kernels& kernels, const Problem& problem, const Product& product) {
  Runner(kernels, problem, product).run();
}

}  // namespace dynconv::cpu
