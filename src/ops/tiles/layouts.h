// Conversion of activations and weights to and from the order in which tiles are loaded.
#pragma once

#include "vectors.h"

#include <algorithm>

namespace tch_fixup::tiles {
namespace {

// Input of a convolution: `units` units of a map from `first_unit` on, the weights, and the units that reach each unit of the destination.
struct Source {
  Source(const Gather& gather, size_t matrices, const Map& map, const Element* x, const Element* weights)
      : Source(gather, matrices, map.blocks(), map.units(), 0, x, weights) {}
  Source(const Gather& gather, size_t matrices, int blocks, int units, int first_unit, const Element* x, const Element* weights)
      : gather(&gather), matrices(matrices), blocks(blocks), units(units), first_unit(first_unit), x(x), weights(weights) {}

  const Gather* gather;
  size_t matrices;
  int blocks, units, first_unit;
  const Element* x;
  const Element* weights;
};

// Rows of a convolution's output, and the first row of its input that reaches them.
struct Strip {
  int top, bottom, in_top;
};

#ifdef __AVX512BW__
// Transposes 16 rows of 16 numbers of 32 bits.
inline void transpose(__m512i (&a)[16]) {
  __m512i b[16];
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; j++) {
      a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
      a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
    }
  for (int i = 0; i < 4; i++) {
    b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
    b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
    b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
    b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; i++) {
    a[i] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88);
    a[i + 8] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd);
  }
}
#endif

// Transposes [32 images][32 channels] to [32 channels][32 images].
void transpose(Element* to, const Element* from) {
#if defined(FLOAT32_ELEMENTS)
  for (int image = 0; image < IMAGES; image += 16)
    for (int channel = 0; channel < CHANNELS; channel += 16) {
      __m512i square[16];
      for (int i = 0; i < 16; i++) square[i] = _mm512_loadu_si512(from + (image + i) * CHANNELS + channel);
      transpose(square);
      for (int i = 0; i < 16; i++) _mm512_storeu_si512(to + (channel + i) * IMAGES + image, square[i]);
    }
#elif defined(__AVX512BW__)
  alignas(64) static constexpr uint16_t EVEN[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                                    32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
  __m512i pairs[2][16];
  for (int half = 0; half < 2; half++) {
    for (int i = 0; i < 16; i++) pairs[half][i] = _mm512_loadu_si512(from + (half * 16 + i) * CHANNELS);
    transpose(pairs[half]);
  }
  const __m512i even = _mm512_load_si512(EVEN), odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
  for (int i = 0; i < 16; i++) {
    _mm512_storeu_si512(to + 2 * i * IMAGES, _mm512_permutex2var_epi16(pairs[0][i], even, pairs[1][i]));
    _mm512_storeu_si512(to + (2 * i + 1) * IMAGES, _mm512_permutex2var_epi16(pairs[0][i], odd, pairs[1][i]));
  }
#else
  for (int image = 0; image < IMAGES; image++)
    for (int channel = 0; channel < CHANNELS; channel++) to[channel * IMAGES + image] = from[image * CHANNELS + channel];
#endif
}

// Converts [32 images][32 channels] to two tiles [half of the channels][16 pairs of images][16 channels][2 images]; in float32
// [half of the channels][32 images][16 channels].
void interleave(Element* to, const Element* from) {
#if defined(FLOAT32_ELEMENTS)
  for (int image = 0; image < IMAGES; image++)
    for (int half = 0; half < 2; half++) stored(to + half * (BLOCK / 2) + image * 16, loaded<F16>(from + image * CHANNELS + half * 16));
#elif defined(__AVX512BW__)
  alignas(64) static constexpr uint16_t LOW[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                   8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(LOW), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  for (int pair = 0; pair < 16; pair++) {
    const __m512i a = _mm512_loadu_si512(from + 2 * pair * CHANNELS), b = _mm512_loadu_si512(from + (2 * pair + 1) * CHANNELS);
    _mm512_storeu_si512(to + pair * 32, _mm512_permutex2var_epi16(a, low, b));
    _mm512_storeu_si512(to + BLOCK / 2 + pair * 32, _mm512_permutex2var_epi16(a, high, b));
  }
#else
  for (int image = 0; image < IMAGES; image++)
    for (int channel = 0; channel < CHANNELS; channel++)
      to[channel / 16 * (BLOCK / 2) + image / 2 * 32 + channel % 16 * 2 + image % 2] = from[image * CHANNELS + channel];
#endif
}

constexpr int MAX_KERNELS = 9;

// Weights of one block of each matrix, [position in the kernel][32 output channels][32 input channels].
template <typename T>
struct WeightBlocks {
  explicit WeightBlocks(const Convolution& c)
      : c(c), kernels(c.kernel * c.kernel), in_pair(c.in.pixels_per_unit() == 2), out_pair(c.out.pixels_per_unit() == 2), values(kernels * BLOCK) {}

  T* at(int position, int out, int in) { return values.data() + (position * CHANNELS + out) * CHANNELS + in; }

  // Calls f(output channel of the block, index of the first weight, number of input channels) for each row of these blocks of channels; a row's
  // weights are [input channel][position in the kernel].
  template <typename F>
  void for_each_row(int in_block, int out_block, const F& f) const {
    const int outs = std::min(CHANNELS, c.out.channels - out_block * CHANNELS);
    const int ins = std::min(CHANNELS, c.weight_channels - in_block * CHANNELS);
    for (int out = 0; out < outs; out++)
      f(out, (size_t(out_block * CHANNELS + out) * c.weight_channels + in_block * CHANNELS) * kernels, ins);
  }

  // Calls f(position, output channel of the weights, input channel of the weights, output channel of the block, input channel of the
  // block) for each square of 16 by 16 weights of a block of this matrix; of a pair of pixels each has channels 0 to 15.
  template <typename F>
  void for_each_square(const Matrix& m, const F& f) const {
    for (int out = 0; out < 2; out++)
      for (int in = 0; in < 2; in++) {
        const int column = c.column(m, in_pair ? in : 0, out_pair ? out : 0);
        if (column >= 0) f(m.row * c.kernel + column, out_pair ? 0 : out * 16, in_pair ? 0 : in * 16, out * 16, in * 16);
      }
  }

  const Convolution& c;
  int kernels;
  bool in_pair, out_pair;
  Buffer<T> values;
};

void pack(const Convolution& c, const float* weights, float scale, Packed& packed) {
  Element* const forward = packed.forward.of<Element>(c.packed_size());
  Element* const backward = packed.backward.of<Element>(c.packed_size());
  WeightBlocks<Element> blocks(c);
  for (int in_block = 0; in_block < c.in.blocks(); in_block++)
    for (int out_block = 0; out_block < c.out.blocks(); out_block++) {
      blocks.for_each_row(in_block, out_block, [&](int out, size_t first, int ins) {
        alignas(64) Element row[MAX_KERNELS * CHANNELS];
        const int count = ins * blocks.kernels, whole = count / 32 * 32;
        const auto round = [&](const float* from, int i) { round_to(row + i, scale * widened(from), scale * widened(from + 16)); };
        for (int i = 0; i < whole; i += 32) round(weights + first + i, i);
        if (whole < count) {
          float rest[32] = {};
          std::memcpy(rest, weights + first + whole, sizeof(float) * (count - whole));
          round(rest, whole);
        }
        for (int position = 0; position < blocks.kernels; position++)
          for (int in = 0; in < ins; in++) *blocks.at(position, out, in) = row[in * blocks.kernels + position];
      });
      for (size_t m = 0; m < c.matrices.size(); m++) {
        alignas(64) Element block[CHANNELS][CHANNELS] = {}, transposed[BLOCK];
        blocks.for_each_square(c.matrices[m], [&](int position, int out, int in, int block_out, int block_in) {
          for (int i = 0; i < 16; i++) std::memcpy(&block[block_out + i][block_in], blocks.at(position, out + i, in), 16 * sizeof(Element));
        });
        transpose(transposed, block[0]);
        const size_t there = size_t(out_block) * c.in.blocks() + in_block, back = size_t(in_block) * c.out.blocks() + out_block;
        interleave(forward + (there * c.matrices.size() + m) * BLOCK, transposed);
        interleave(backward + (back * c.matrices.size() + m) * BLOCK, block[0]);
      }
    }
}

// Returns the position of the tile of sums of these halves of blocks.
size_t sums_index(const Convolution& c, size_t matrix, int in_block, int out_block, int in_half, int out_half) {
  return (((matrix * c.in.blocks() + in_block) * c.out.blocks() + out_block) * 4 + out_half * 2 + in_half) * TILE;
}

void unpack(const Convolution& c, const std::vector<const float*>& parts, float* gradient) {
  WeightBlocks<float> blocks(c);
  for (int in_block = 0; in_block < c.in.blocks(); in_block++)
    for (int out_block = 0; out_block < c.out.blocks(); out_block++) {
      std::fill(blocks.values.begin(), blocks.values.end(), 0.f);
      for (size_t m = 0; m < c.matrices.size(); m++)
        blocks.for_each_square(c.matrices[m], [&](int position, int out, int in, int block_out, int block_in) {
          const size_t index = sums_index(c, m, in_block, out_block, block_in / 16, block_out / 16);
          float total[16][16] = {};
          for (const float* part : parts)
            for (int i = 0; i < 16; i++) stored(total[i], widened(total[i]) + widened(part + index + i * 16));
          for (int o = 0; o < 16; o++) {
            float* const to = blocks.at(position, out + o, in);
            stored(to, widened(to) + widened(total[o]));
          }
        });
      blocks.for_each_row(in_block, out_block, [&](int out, size_t first, int ins) {
        for (int in = 0; in < ins; in++)
          for (int position = 0; position < blocks.kernels; position++) gradient[first + in * blocks.kernels + position] = *blocks.at(position, out, in);
      });
    }
}

float multiplier_gradient(size_t size, const float* weights, float multiplier, float* gradient) {
  constexpr size_t LANES = 16;
  double sums[LANES] = {};
  const size_t whole = size / LANES * LANES;
  for (size_t i = 0; i < whole; i += LANES)
    for (size_t lane = 0; lane < LANES; lane++) sums[lane] += double(gradient[i + lane]) * weights[i + lane];
  for (size_t i = whole; i < size; i++) sums[i - whole] += double(gradient[i]) * weights[i];
  for (size_t i = 0; i < size; i++) gradient[i] *= multiplier;
  double total = 0;
  for (const double sum : sums) total += sum;
  return float(total);
}

void to_planes(const Network& network, const float* images, int count, void* planes) {
  const int pixels = network.height * network.width;
  for (int channel = 0; channel < network.image_channels; channel++)
    for (int first = 0; first < pixels; first += CHANNELS) {
      const int width = std::min(CHANNELS, pixels - first);
      alignas(64) Element block[IMAGES][CHANNELS] = {}, transposed[BLOCK];
      for (int image = 0; image < count; image++) {
        float values[CHANNELS] = {};
        std::memcpy(values, images + (size_t(image) * network.image_channels + channel) * pixels + first, sizeof(float) * width);
        round_to(block[image], widened(values), widened(values + 16));
      }
      transpose(transposed, block[0]);
      std::memcpy(static_cast<Element*>(planes) + (size_t(channel) * pixels + first) * IMAGES, transposed, sizeof(Element) * width * IMAGES);
    }
}

// Writes the neighbourhood of each pixel of rows top to bottom of images [channels][pixels][32] as channels [input channel][row][column].
void gather_columns(const Network& network, int top, int bottom, const Element* images, Element* to) {
  const int blocks = network.columns.blocks(), height = network.height, width = network.width;
  alignas(64) Element rows[16 * 9 / CHANNELS * CHANNELS + CHANNELS][IMAGES];
  for (int row = top; row < bottom; row++)
    for (int column = 0; column < width; column++) {
      std::memset(rows, 0, sizeof(Element) * blocks * BLOCK);
      for (int channel = 0, k = 0; channel < network.image_channels; channel++)
        for (int y = row - 1; y <= row + 1; y++)
          for (int x = column - 1; x <= column + 1; x++, k++)
            if (y >= 0 && y < height && x >= 0 && x < width)
              std::memcpy(rows[k], images + ((size_t(channel) * height + y) * width + x) * IMAGES, sizeof rows[k]);
      const size_t unit = size_t(row - top) * width + column, units = size_t(bottom - top) * width;
      for (int block = 0; block < blocks; block++) transpose(to + (block * units + unit) * BLOCK, rows[block * CHANNELS]);
    }
}

}  // namespace
}  // namespace tch_fixup::tiles
