// The inner loops of dynamic_conv2d on the CPU, one set per instruction set: dynamic_conv2d.cpp chooses when it runs.
// Nothing but plain types crosses this line, so that no inline function of a header is compiled for two processors.
//
// Both products of the operator are one loop: a tile of `lanes` neighbouring channels by up to `tile` neighbours of the
// other index, summed over a list of steps. Forward and input gradient: lanes are the produced channels, the tile runs
// over pixels, a step is a (channel, tap). Kernel gradient: lanes are input channels, the tile runs over output
// channels, a step is a pixel. Depthwise convolutions sum over no channels; theirs are the functions of lanes.
#pragma once

#include <cstdint>

namespace dynconv::cpu {

enum class Element { float32, bfloat16 };

// One sample of an image: where its first element lies, and the strides of channel, row and column in elements.
struct Image {
  const void* data;
  Element type;
  int64_t channel, row, column;
};

// The rows of a source that some taps share: row `first + j * step` of those used, for j < count.
struct Band {
  int64_t first, count;
};

// How a grid of produced pixels reads a source, one channel after the other. The source rows [first_row, first_row +
// used_rows) are padded to `pitch` floats, with `left` zeros before and zeros after, and rows beyond the image are
// zeros. `packed`: they are then laid out as a run of rows of `columns` for each (column shift, band): neighbouring
// pixels of any stride, padding and dilation are neighbours in memory for every tap, across the ends of rows too.
// Otherwise the padded rows are the layout, and a tile of pixels must stay within a row.
struct View {
  bool packed;
  int64_t columns, height, width, step_h, step_w;
  int64_t num_shifts;
  const int64_t* shifts;
  int64_t num_bands;
  const Band* bands;
  int64_t plane;  // floats of one channel in the layout, with room for one vector beyond its end
  int64_t first_row, used_rows, left, pitch;
};

// Where the element (part, lane, reduction, tap) of a kernel tensor lies, in elements; packed kernels have lane = 1.
struct KernelStrides {
  int64_t part, lane, reduction, tap;
};

struct BuildArguments {
  const float* fixed;  // (reduction, taps, lanes): W0, or null
  const float* bases;  // (reduction, basis taps, K, lanes): Phi, or null
  int64_t reduction, taps, num_bases, basis_taps;
  const int32_t* basis_tap;        // for each tap its place in the basis, or -1
  const float* const* mixing;      // for each sample its K coefficients
  const float* const* lane_scale;  // for each sample a factor for each lane of W0, or null
  const float* const* step_scale;  // for each sample a factor for each reduction index of W0, or null
  float* const* kernels;           // for each sample (reduction, taps, lanes)
};

// Kernels are built, and kernel gradients contracted, for up to as many samples at once: each basis vector is then
// loaded once for all of them, and 4 * 16 coefficients still fit beside it.
constexpr int64_t kMostTogether = 4;

struct Kernels {
  const char* name;
  int64_t lanes, tile;  // of a block
  int64_t vector;       // floats of a register

  // channels x plane floats. scratch, where packed: vector * used_rows * pitch floats.
  void (*pack_planes)(const View& view, const Image& image, int64_t channels, float* scratch, float* out);
  // (pixels, stride) floats: `channels` neighbours for each pixel of height x width, zeros up to `width_out`.
  void (*pack_pixels)(const Image& image, int64_t height, int64_t width, int64_t channels, int64_t width_out,
      int64_t stride, float* out);
  // Some taps of a kernel tensor with kernel_taps of them; lanes beyond `lanes_used` are zero.
  void (*pack_kernel)(const void* data, Element type, const KernelStrides& from, int64_t parts, int64_t lanes_used,
      int64_t reduction, int64_t taps, const int64_t* tap_order, int64_t kernel_taps, const KernelStrides& to,
      float* out);
  // Back, for the taps from first_tap on.
  void (*unpack_kernel)(const float* in, const KernelStrides& from, int64_t parts, int64_t lanes_used,
      int64_t reduction, int64_t first_tap, int64_t taps, int64_t kernel_taps, const KernelStrides& to, float* out);
  // W_b of up to kMostTogether samples.
  void (*build)(const BuildArguments& arguments, int64_t samples);
  // out (count, lanes) (+)= sum over steps of a[a_offset[step] ..][lanes] (x) b[b_offset[step] ..][count].
  void (*multiply)(const float* a, const int32_t* a_offset, const float* b, const int32_t* b_offset, int64_t steps,
      int64_t count, float* out, bool add);
  // From (pixels, lanes) to an image's channels, plus a bias of a value for each channel, or null.
  void (*unpack)(
      const float* in, int64_t rows, int64_t columns, int64_t channels, const float* bias, const Image& image);
  // With g (samples, count, lanes) the kernel gradient of up to kMostTogether samples and factor (parts, samples):
  // dparts (parts, count, lanes) += factor g; dots (parts, samples, lanes) += parts (parts, count, lanes) g.
  void (*contract_bases)(const float* g, int64_t samples, int64_t count, int64_t parts, const float* factor,
      const float* bases, float* dbases, float* dots);
  // The same for W0 (count, lanes), whose factor is (samples, count), or null for ones; dots is (samples, count,
  // lanes).
  void (*contract_fixed)(const float* g, int64_t samples, int64_t count, const float* factor, const float* fixed,
      float* dfixed, float* dots);
  // Depthwise, where lanes are channels: `count` pixels of out, out_step apart, = bias (lanes) + sum over taps of
  // kernel (taps, lanes) times the source's lanes at offset[tap] + pixel * pixel_step.
  void (*multiply_lanes)(const float* kernel, const float* source, const int32_t* offset, int64_t taps,
      int64_t pixel_step, const float* bias, int64_t count, float* out, int64_t out_step);
  // out (taps, lanes) = sum over rows x columns pixels of grad's lanes times the source's lanes there.
  void (*correlate_lanes)(const float* grad, int64_t grad_row, int64_t grad_pixel, const float* source,
      const int32_t* offset, int64_t taps, int64_t row_step, int64_t pixel_step, int64_t rows, int64_t columns,
      float* out);
  // With g (taps, lanes) of one sample, and a factor for each lane, or null for ones: dfixed += factor g; dots (lanes)
  // = sum over taps of fixed g.
  void (*contract_lanes)(
      const float* g, int64_t taps, const float* factor, const float* fixed, float* dfixed, float* dots);
};

const Kernels& baseline_kernels();
#if defined(__x86_64__) && defined(__GNUC__)
#define DYNCONV_X86 1
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

}  // namespace dynconv::cpu
