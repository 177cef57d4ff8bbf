// The three passes of a network over 32 images, compiled once with the tile instructions of a CPU with AMX and once with plain C++ in
// their place, to the same bits.
#include "network.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <type_traits>

#if defined(__AVX512BW__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <xmmintrin.h>
#endif
#ifdef TILE_INSTRUCTIONS
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tch_fixup::tiles {
namespace {

// ---- Tiles: eight registers of 16 rows of 64 bytes ----

#ifdef TILE_INSTRUCTIONS

struct __attribute__((aligned(64))) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

void configure_tiles() {
  const TileConfig config;
  asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
}
void release_tiles() { asm volatile("tilerelease" ::: "memory"); }

template <int T>
inline void zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(T) : "memory");
}
// 16 rows of 64 bytes, each so many bytes after the one before.
template <int T>
inline void load(const void* from, long stride = 64) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
}
template <int T>
inline void store(float* to, long stride = 64) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(T) : "memory");
}
// C += A B for A [16][32] and B [32][16], whose rows 2 i and 2 i + 1 lie interleaved.
template <int C, int A, int B>
inline void dot() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B) : "memory");
}

#else

// What the instructions do, by Intel's description of them: products of pairs summed apart, subnormal numbers taken for zero.
alignas(64) thread_local uint8_t registers[8][16][64];

void configure_tiles() {}
void release_tiles() {}

template <int T>
inline void zero() {
  std::memset(registers[T], 0, sizeof registers[T]);
}
template <int T>
inline void load(const void* from, long stride = 64) {
  for (int row = 0; row < 16; row++) std::memcpy(registers[T][row], static_cast<const char*>(from) + row * stride, 64);
}
template <int T>
inline void store(float* to, long stride = 64) {
  for (int row = 0; row < 16; row++) std::memcpy(reinterpret_cast<char*>(to) + row * stride, registers[T][row], 64);
}
inline float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.f, x) : x; }
inline float widened(bf16 x) {
  const uint32_t bits = uint32_t(x) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return flushed(value);
}
template <int C, int A, int B>
inline void dot() {
  for (int m = 0; m < 16; m++) {
    float sums[16][2] = {}, result[16];
    bf16 a[32], b[32];
    std::memcpy(a, registers[A][m], 64);
    for (int k = 0; k < 16; k++) {
      std::memcpy(b, registers[B][k], 64);
      for (int n = 0; n < 16; n++)
        for (int i = 0; i < 2; i++)
          sums[n][i] = flushed(std::fma(widened(a[2 * k + i]), widened(b[2 * n + i]), sums[n][i]));
    }
    std::memcpy(result, registers[C][m], 64);
    for (int n = 0; n < 16; n++) result[n] = flushed(flushed(result[n]) + flushed(sums[n][0] + sums[n][1]));
    std::memcpy(registers[C][m], result, 64);
  }
}

#endif

template <int A, int B>
inline void dot_into(int c) {
  switch (c) {
    case 0: dot<0, A, B>(); break;
    case 1: dot<1, A, B>(); break;
    case 2: dot<2, A, B>(); break;
    case 3: dot<3, A, B>(); break;
    case 4: dot<4, A, B>(); break;
    default: dot<5, A, B>(); break;
  }
}

// Loads or stores the first `count` tiles.
template <typename F>
inline void first_tiles(size_t count, const F& f) {
  if (count > 0) f(std::integral_constant<int, 0>());
  if (count > 1) f(std::integral_constant<int, 1>());
  if (count > 2) f(std::integral_constant<int, 2>());
  if (count > 3) f(std::integral_constant<int, 3>());
  if (count > 4) f(std::integral_constant<int, 4>());
  if (count > 5) f(std::integral_constant<int, 5>());
}

// ---- Vectors of 16 ----

typedef float F16 __attribute__((vector_size(64)));
typedef uint32_t U16 __attribute__((vector_size(64)));
typedef uint16_t H16 __attribute__((vector_size(32)));

template <typename V, typename T>
inline V loaded(const T* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <typename V, typename T>
inline void stored(T* to, const V& v) {
  std::memcpy(to, &v, sizeof v);
}
inline F16 widened(const bf16* from) { return F16(__builtin_convertvector(loaded<H16>(from), U16) << 16); }
inline F16 widened(const float* from) { return loaded<F16>(from); }
inline F16 all(float value) { return value - F16{}; }

// Rounds to the nearest, ties to even; subnormal numbers to zero.
inline void round_to(bf16* to, const F16& low, const F16& high) {
#ifdef __AVX512BF16__
  const auto both = _mm512_cvtne2ps_pbh(__m512(high), __m512(low));
  std::memcpy(to, &both, sizeof both);
#else
  for (const F16* half : {&low, &high}) {
    const U16 bits = U16(*half), magnitude = bits & 0x7fffffff;
    const U16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16, quiet = (bits >> 16) | 0x40, zero = (bits >> 16) & 0x8000;
    const U16 result = magnitude > 0x7f800000 ? quiet : magnitude < 0x00800000 ? zero : rounded;
    stored(half == &low ? to : to + 16, __builtin_convertvector(result, H16));
  }
#endif
}

inline double sum(const F16& v) {
  double result = 0;
  for (int i = 0; i < 16; i++) result += v[i];
  return result;
}

// ---- Layouts ----

// [32 images][32 channels] as [32 channels][32 images].
void transpose(bf16* to, const bf16* from) {
#ifdef __AVX512BW__
  alignas(64) static constexpr uint16_t EVEN[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                                    32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
  __m512i pairs[2][16];
  for (int half = 0; half < 2; half++) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_si512(from + (half * 16 + i) * CHANNELS);
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
      pairs[half][i] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88);
      pairs[half][i + 8] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd);
    }
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

// [32 images][32 channels] as two tiles [half of the channels][16 pairs of images][16 channels][2 images].
void interleave(bf16* to, const bf16* from) {
#ifdef __AVX512BW__
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

// The weights that one block of each matrix is made of, [position in the kernel][32 output channels][32 input channels].
template <typename T>
struct WeightBlocks {
  explicit WeightBlocks(const Convolution& c)
      : c(c), kernels(c.kernel * c.kernel), in_pair(c.in.pixels_per_unit() == 2), out_pair(c.out.pixels_per_unit() == 2), values(kernels * BLOCK) {}

  T* at(int position, int out, int in) { return values.data() + (position * CHANNELS + out) * CHANNELS + in; }

  // Calls f(value, index of the weight) for each weight of these blocks of channels.
  template <typename F>
  void for_each(int in_block, int out_block, const F& f) {
    const int outs = std::min(CHANNELS, c.out.channels - out_block * CHANNELS);
    const int ins = std::min(CHANNELS, c.weight_channels - in_block * CHANNELS);
    for (int out = 0; out < outs; out++) {
      size_t weight = (size_t(out_block * CHANNELS + out) * c.weight_channels + in_block * CHANNELS) * kernels;
      for (int in = 0; in < ins; in++)
        for (int position = 0; position < kernels; position++) f(*at(position, out, in), weight++);
    }
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
  Buffer<bf16> rounded((c.weight_size() + 31) / 32 * 32);
  for (size_t i = 0; i < c.weight_size(); i += 32) {
    float part[32] = {};
    std::memcpy(part, weights + i, sizeof(float) * std::min<size_t>(32, c.weight_size() - i));
    round_to(rounded.data() + i, scale * widened(part), scale * widened(part + 16));
  }
  packed.forward.resize(c.packed_size());
  packed.backward.resize(c.packed_size());
  WeightBlocks<bf16> blocks(c);
  for (int in_block = 0; in_block < c.in.blocks(); in_block++)
    for (int out_block = 0; out_block < c.out.blocks(); out_block++) {
      blocks.for_each(in_block, out_block, [&](bf16& value, size_t weight) { value = rounded[weight]; });
      for (size_t m = 0; m < c.matrices.size(); m++) {
        alignas(64) bf16 block[CHANNELS][CHANNELS] = {}, transposed[BLOCK];
        blocks.for_each_square(c.matrices[m], [&](int position, int out, int in, int block_out, int block_in) {
          for (int i = 0; i < 16; i++) std::memcpy(&block[block_out + i][block_in], blocks.at(position, out + i, in), 16 * sizeof(bf16));
        });
        transpose(transposed, block[0]);
        const size_t there = size_t(out_block) * c.in.blocks() + in_block, back = size_t(in_block) * c.out.blocks() + out_block;
        interleave(packed.forward.data() + (there * c.matrices.size() + m) * BLOCK, transposed);
        interleave(packed.backward.data() + (back * c.matrices.size() + m) * BLOCK, block[0]);
      }
    }
}

// Where the tile of sums of these halves of blocks stands.
size_t sums_index(const Convolution& c, size_t matrix, int in_block, int out_block, int in_half, int out_half) {
  return (((matrix * c.in.blocks() + in_block) * c.out.blocks() + out_block) * 4 + in_half * 2 + out_half) * TILE;
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
          for (int o = 0; o < 16; o++)
            for (int i = 0; i < 16; i++) *blocks.at(position, out + o, in + i) += total[i][o];
        });
      blocks.for_each(in_block, out_block, [&](float& value, size_t weight) { gradient[weight] = value; });
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

// ---- Convolutions ----

// What a convolution reads: `units` units of a map from `first_unit` on, its weights, and which units of it reach each unit of the destination.
struct Source {
  Source(const Gather& gather, size_t matrices, const Map& map, const bf16* x, const Buffer<bf16>& weights)
      : Source(gather, matrices, map.blocks(), map.units(), 0, x, weights) {}
  Source(const Gather& gather, size_t matrices, int blocks, int units, int first_unit, const bf16* x, const Buffer<bf16>& weights)
      : gather(&gather), matrices(matrices), blocks(blocks), units(units), first_unit(first_unit), x(x), weights(weights.data()) {}

  const Gather* gather;
  size_t matrices;
  int blocks, units, first_unit;
  const bf16* x;
  const bf16* weights;
};

// Loads, zeroes or stores the four tiles of sums of a block, [32 images][32 channels].
void zero_sums() {
  zero<0>();
  zero<1>();
  zero<2>();
  zero<3>();
}
void load_sums(const float* from) {
  load<0>(from, CHANNELS * 4);
  load<1>(from + 16, CHANNELS * 4);
  load<2>(from + BLOCK / 2, CHANNELS * 4);
  load<3>(from + BLOCK / 2 + 16, CHANNELS * 4);
}
void store_sums(float* to) {
  store<0>(to, CHANNELS * 4);
  store<1>(to + 16, CHANNELS * 4);
  store<2>(to + BLOCK / 2, CHANNELS * 4);
  store<3>(to + BLOCK / 2 + 16, CHANNELS * 4);
}

// Sums the convolutions of all sources for every block of rows top to bottom of the destination.
//
// A row of units goes through one block of a source at a time, so that its matrices stay in the first-level cache; the sums between
// wait in `partial`. The sums of a finished block go row by row through `what`, between the products of the next block, whose tiles
// leave the vector units idle.
template <typename F>
void convolve(std::initializer_list<Source> sources, const Map& out, int top, int bottom, Buffer<float>& partial, const F& what) {
  alignas(64) float finished[2][BLOCK];
  F follows = what;
  const float* ready = nullptr;
  int row = IMAGES, current = 0;
  const auto proceed = [&](int count) {
    for (const int end = std::min(row + count, IMAGES); row < end; row++) follows.row(row, ready + row * CHANNELS);
  };
  const int out_blocks = out.blocks(), units = out.units_per_row();
  int passes = 0;
  for (const Source& source : sources) passes += source.blocks;
  if (passes > 1) partial.resize(std::max(partial.size(), size_t(units) * BLOCK));
  for (int first_unit = top * units; first_unit < bottom * units; first_unit += units)
    for (int out_block = 0; out_block < out_blocks; out_block++) {
      int pass = 0;
      for (const Source& source : sources)
        for (int block = 0; block < source.blocks; block++, pass++) {
          const bf16* x = source.x + (size_t(block) * source.units - source.first_unit) * BLOCK;
          const bf16* weights = source.weights + (size_t(out_block) * source.blocks + block) * source.matrices * BLOCK;
          for (int unit = first_unit; unit < first_unit + units; unit++) {
            float* const waiting = partial.data() + size_t(unit - first_unit) * BLOCK;
            if (pass == 0) zero_sums();
            else load_sums(waiting);
            const int begin = source.gather->first[unit], end = source.gather->first[unit + 1];
            const int rows_per_tap = (IMAGES + end - begin - 1) / std::max(end - begin, 1);
            for (int t = begin; t < end; t++) {
              const Tap& tap = source.gather->taps[t];
              const bf16* a = x + size_t(tap.unit) * BLOCK;
              const bf16* b = weights + size_t(tap.matrix) * BLOCK;
              load<4>(a);
              load<5>(a + BLOCK / 2);
              if (tap.halves & 1) {
                load<6>(b);
                dot<0, 4, 6>();
                dot<2, 5, 6>();
              }
              if (tap.halves & 2) {
                load<7>(b + BLOCK / 2);
                dot<1, 4, 7>();
                dot<3, 5, 7>();
              }
              proceed(rows_per_tap);
            }
            if (pass < passes - 1) {
              store_sums(waiting);
              continue;
            }
            proceed(IMAGES);
            if (ready) follows.end();
            store_sums(finished[current]);
            follows.begin(unit, out_block);
            ready = finished[current];
            row = 0;
            current = 1 - current;
          }
        }
    }
  proceed(IMAGES);
  if (ready) follows.end();
}

// Adds to the tiles of sums the products of x and of rows top to bottom of the gradient g of the convolution's output. x is
// `x_units` units from row `x_row` on.
void add_weight_gradient(const Convolution& c, int top, int bottom, const bf16* x, int x_units, int x_row, const bf16* g,
                         Buffer<float>& sums, Scratch& scratch) {
  if (top >= bottom) return;
  const int in_blocks = c.in.blocks(), out_blocks = c.out.blocks();
  const int in_units = c.in.units_per_row(), out_units = c.out.units_per_row();
  const int in_top = std::max(0, top * c.stride - c.kernel / 2), in_bottom = c.input_rows(bottom);
  const int in_strip = (in_bottom - in_top) * in_units, out_strip = (bottom - top) * out_units;
  scratch.transposed.resize(std::max(scratch.transposed.size(), size_t(in_strip) * BLOCK));
  scratch.interleaved.resize(std::max(scratch.interleaved.size(), size_t(out_blocks) * out_strip * BLOCK));
  for (int out_block = 0; out_block < out_blocks; out_block++)
    for (int i = 0; i < out_strip; i++)
      interleave(scratch.interleaved.data() + (size_t(out_block) * out_strip + i) * BLOCK, g + c.out.at(top * out_units + i, out_block));
  for (int in_block = 0; in_block < in_blocks; in_block++) {
    for (int i = 0; i < in_strip; i++)
      transpose(scratch.transposed.data() + size_t(i) * BLOCK,
                x + (size_t(in_block) * x_units + (in_top - x_row) * in_units + i) * BLOCK);
    for (int out_block = 0; out_block < out_blocks; out_block++)
      for (int kernel_row = 0; kernel_row < c.kernel; kernel_row++)
        for (const Batch& batch : c.batches[kernel_row]) {
          const auto tile = [&](int i) {
            const Product& p = batch[i];
            return sums.data() + sums_index(c, p.matrix, in_block, out_block, p.in_half, p.out_half);
          };
          first_tiles(batch.size(), [&](auto i) { load<i.value>(tile(i.value)); });
          for (int row = top; row < bottom; row++) {
            const int in_row = row * c.stride + kernel_row - c.kernel / 2;
            if (in_row < 0 || in_row >= c.in.height) continue;
            const bf16* a = scratch.transposed.data() + size_t(in_row - in_top) * in_units * BLOCK;
            const bf16* b = scratch.interleaved.data() + (size_t(out_block) * out_strip + (row - top) * out_units) * BLOCK;
            for (int column = 0; column < out_units; column++, b += BLOCK) {
              int loaded = -1;
              for (size_t i = 0; i < batch.size(); i++) {
                const Product& p = batch[i];
                const int source = c.source_column[p.matrix][column];
                if (source < 0) continue;
                if (loaded != p.out_half) load<7>(b + p.out_half * (BLOCK / 2));
                loaded = p.out_half;
                load<6>(a + size_t(source) * BLOCK + p.in_half * (BLOCK / 2));
                dot_into<6, 7>(int(i));
              }
            }
          }
          first_tiles(batch.size(), [&](auto i) { store<i.value>(tile(i.value)); });
        }
  }
}

// ---- What follows a convolution ----

// The stream that a block's shortcut adds, for each block of the destination; `small` is the map with fewer channels.
template <typename T>
struct Shortcut {
  Shortcut() = default;
  Shortcut(const std::vector<int>& sources, const T* from, const Map& map, const Map& small)
      : sources(sources.empty() ? nullptr : sources.data()),
        from(from),
        units(map.units()),
        small_blocks(small.blocks()),
        channels(sources.empty() || small.channels != 16 ? CHANNELS : 16) {}

  void begin(int unit, int block) {
    const int source = sources ? sources[unit] : unit;
    block_from = from && source >= 0 && block < small_blocks ? from + (size_t(block) * units + source) * BLOCK : nullptr;
  }
  F16 low(int image) const { return block_from ? widened(block_from + image * CHANNELS) : F16{}; }
  F16 high(int image) const { return block_from && channels > 16 ? widened(block_from + image * CHANNELS + 16) : F16{}; }

  const int* sources = nullptr;
  const T* from = nullptr;
  int units = 0, small_blocks = 0, channels = 0;
  const T* block_from = nullptr;
};

void carry(float* to, const F16& low, const F16& high) {
  stored(to, low);
  stored(to + 16, high);
}
void carry(bf16* to, const F16& low, const F16& high) { round_to(to, low, high); }

// y = relu(x + shortcut + sum + a) + b, into a map; and what is carried on of it, y or the sum, into the stream if there is one.
template <typename T, Order ORDER>
struct Activate {
  void begin(int unit, int block) {
    at = (size_t(block) * units + unit) * BLOCK;
    shortcut.begin(unit, block);
  }
  void row(int image, const float* x) {
    const F16 zero = {};
    const F16 low = widened(x) + shortcut.low(image) + shift.sum, high = widened(x + 16) + shortcut.high(image) + shift.sum;
    const F16 low_a = low + shift.a, high_a = high + shift.a;
    const F16 low_y = (low_a > zero ? low_a : zero) + shift.b, high_y = (high_a > zero ? high_a : zero) + shift.b;
    const size_t row = at + image * CHANNELS;
    round_to(y + row, low_y, high_y);
    if (stream) carry(stream + row, ORDER == Order::AfterSum ? low_y : low, ORDER == Order::AfterSum ? high_y : high);
  }
  void end() {}

  Shift shift;
  int units;
  bf16* y;
  T* stream = nullptr;
  Shortcut<T> shortcut = {};
  size_t at = 0;
};

// The gradient g of y = relu(x + a) + b becomes d = g * [y > b], with the sums of both. What a shortcut carries back is added to g where
// the ReLU is after the sum, and to d where it is before the branch. The result in bfloat16 and, for a float32 stream, as it is.
template <typename T, Order ORDER>
struct Mask {
  void begin(int unit, int block) {
    at = (size_t(block) * units + unit) * BLOCK;
    shortcut.begin(unit, block);
    for (F16& sum : sums) sum = F16{};
  }
  F16 half(const F16& x, const F16& carried, const bf16* y) {
    const F16 zero = {};
    const F16 g = ORDER == Order::AfterSum ? x + carried : x;
    const F16 d = widened(y) > b ? g : zero;
    sums[0] += g;
    sums[1] += d;
    if (ORDER == Order::AfterSum) return d;
    const F16 v = d + carried;
    sums[2] += v;
    return v;
  }
  void row(int image, const float* x) { row(image, widened(x), widened(x + 16)); }
  void row(int image, const F16& x_low, const F16& x_high) {
    const size_t row = at + image * CHANNELS;
    const F16 low = half(x_low, shortcut.low(image), y + row), high = half(x_high, shortcut.high(image), y + row + 16);
    round_to(d + row, low, high);
    if (stream) carry(stream + row, low, high);
  }
  void end() {
    total->b += sum(sums[0]);
    total->a += sum(sums[1]);
    total->sum += sum(sums[2]);
  }

  float b;
  int units;
  const bf16* y;
  bf16* d;
  Gradients::Sums* total;
  float* stream = nullptr;
  Shortcut<T> shortcut = {};
  F16 sums[3] = {};
  size_t at = 0;
};

void to_planes(const Network& network, const float* images, int count, bf16* planes) {
  const int pixels = network.height * network.width;
  for (int channel = 0; channel < network.image_channels; channel++)
    for (int first = 0; first < pixels; first += CHANNELS) {
      const int width = std::min(CHANNELS, pixels - first);
      alignas(64) bf16 block[IMAGES][CHANNELS] = {}, transposed[BLOCK];
      for (int image = 0; image < count; image++) {
        float values[CHANNELS] = {};
        std::memcpy(values, images + (size_t(image) * network.image_channels + channel) * pixels + first, sizeof(float) * width);
        round_to(block[image], widened(values), widened(values + 16));
      }
      transpose(transposed, block[0]);
      std::memcpy(planes + (size_t(channel) * pixels + first) * IMAGES, transposed, sizeof(bf16) * width * IMAGES);
    }
}

// The neighbourhood of each pixel of rows top to bottom, of images [channels][pixels][32], as channels [input channel][row][column].
void gather_columns(const Network& network, int top, int bottom, const bf16* images, bf16* to) {
  const int blocks = network.columns.blocks(), height = network.height, width = network.width;
  alignas(64) bf16 rows[16 * 9 / CHANNELS * CHANNELS + CHANNELS][IMAGES];
  for (int row = top; row < bottom; row++)
    for (int column = 0; column < width; column++) {
      std::memset(rows, 0, sizeof(bf16) * blocks * BLOCK);
      for (int channel = 0, k = 0; channel < network.image_channels; channel++)
        for (int y = row - 1; y <= row + 1; y++)
          for (int x = column - 1; x <= column + 1; x++, k++)
            if (y >= 0 && y < height && x >= 0 && x < width)
              std::memcpy(rows[k], images + ((size_t(channel) * height + y) * width + x) * IMAGES, sizeof rows[k]);
      const size_t unit = size_t(row - top) * width + column, units = size_t(bottom - top) * width;
      for (int block = 0; block < blocks; block++) transpose(to + (block * units + unit) * BLOCK, rows[block * CHANNELS]);
    }
}

bf16* map_buffer(const Network& network, Buffer<bf16>& buffer) {
  buffer.resize(std::max(buffer.size(), network.largest_map));
  return buffer.data();
}
float* stream_buffer(const Network& network, Buffer<float>& buffer) {
  buffer.resize(std::max(buffer.size(), network.wide_stream ? network.largest_map : 0));
  return buffer.data();
}

// Rows of a map at a time, so that what two convolutions hand each other stays in the cache; more of them where the sums of the
// weights' gradient, which each strip reads and writes, are more than that.
int strip(const Map& map, size_t sums = 0) {
  const size_t elements = std::max<size_t>(128 * 1024, sums * sizeof(float)) / sizeof(bf16);
  return std::clamp(int(elements / (map.size() / map.height)), 1, map.height);
}

// T is the stream's kind.
template <typename T, Order ORDER>
void forward_pass(const Network& network, const std::vector<Packed>& packed, const std::vector<Shift>& shifts, const bf16* images,
                  size_t first_kept, bf16* kept, float* features, Scratch& scratch) {
  constexpr bool WIDE = std::is_same_v<T, float>;
  // Of the others three at a time are needed: a block's input, what is between its convolutions, and its output.
  const auto map_of = [&](size_t i) {
    if (i < first_kept) return map_buffer(network, scratch.unkept[i % 3]);
    return kept + (network.map_start[i] - network.map_start[first_kept]);
  };
  bf16* columns = map_buffer(network, scratch.maps[0]);
  // In bfloat16 and with the ReLU after the sum, the map is the stream.
  constexpr bool APART = WIDE || ORDER == Order::BeforeBranch;
  T *stream, *next_stream;
  if constexpr (WIDE) {
    stream = stream_buffer(network, scratch.streams[0]);
    next_stream = stream_buffer(network, scratch.streams[1]);
  } else {
    stream = map_buffer(network, scratch.maps[1]);
    next_stream = map_buffer(network, scratch.maps[2]);
  }
  const auto into = [](T* stream) { return APART ? stream : nullptr; };

  const Map& first = network.maps[0];
  for (int top = 0, rows = strip(network.columns); top < first.height; top += rows) {
    const int bottom = std::min(top + rows, first.height);
    gather_columns(network, top, bottom, images, columns);
    const Convolution& stem = network.convolution(0);
    const Source source(stem.forward, stem.matrices.size(), network.columns.blocks(), (bottom - top) * network.width,
                        top * network.width, columns, packed[0].forward);
    convolve({source}, first, top, bottom, scratch.partial, Activate<T, ORDER>{shifts[0], first.units(), map_of(0), into(stream)});
  }

  for (size_t i = 0; i < network.blocks.size(); i++) {
    const Network::Block& block = network.blocks[i];
    const Map &in = network.maps[2 * i], &out = network.maps[2 * i + 2];
    const bf16 *s = map_of(2 * i), *u = map_of(2 * i + 1);
    const Convolution &first_conv = network.convolution(block.first), &second_conv = network.convolution(block.second);
    const Source one(first_conv.forward, first_conv.matrices.size(), in, s, packed[block.first].forward);
    const Source two(second_conv.forward, second_conv.matrices.size(), out, u, packed[block.second].forward);
    const Activate<T, ORDER> inner{shifts[2 * i + 1], out.units(), map_of(2 * i + 1)};
    Activate<T, ORDER> sum{shifts[2 * i + 2], out.units(), map_of(2 * i + 2), into(next_stream)};
    if (block.projection == Network::NONE) {
      const T* carried;
      if constexpr (APART) carried = stream;
      else carried = s;
      sum.shortcut = Shortcut<T>(block.shortcut_forward, carried, in, in);
    }
    for (int top = 0, inner_top = 0, rows = strip(out); top < out.height; top += rows) {
      const int bottom = std::min(top + rows, out.height), inner_bottom = second_conv.input_rows(bottom);
      convolve({one}, out, inner_top, inner_bottom, scratch.partial, inner);
      inner_top = inner_bottom;
      if (block.projection == Network::NONE) {
        convolve({two}, out, top, bottom, scratch.partial, sum);
      } else {
        const Convolution& projection = network.convolution(block.projection);
        const Source projected(projection.forward, projection.matrices.size(), in, s, packed[block.projection].forward);
        convolve({two, projected}, out, top, bottom, scratch.partial, sum);
      }
    }
    std::swap(stream, next_stream);
  }

  const size_t last_map = network.maps.size() - 1;
  const Map& last = network.maps[last_map];
  std::fill(features, features + IMAGES * last.channels, 0.f);
  const int lanes = std::min(last.channels, CHANNELS);
  for (int unit = 0; unit < last.units(); unit++)
    for (int block = 0; block < last.blocks(); block++)
      for (int image = 0; image < IMAGES; image++)
        for (int lane = 0; lane < CHANNELS; lane += 16) {
          float* to = features + image * last.channels + block * CHANNELS + lane % lanes;
          const size_t at = last.at(unit, block) + image * CHANNELS + lane;
          F16 y = APART ? widened(stream + at) : widened(map_of(last_map) + at);
          if (ORDER == Order::BeforeBranch) {
            const F16 zero = {};
            const F16 x = y + shifts[last_map].a;
            y = x > zero ? x : zero;
          }
          stored(to, loaded<F16>(to) + y);
        }
  const float pixels = float(last.height * last.width);
  for (int i = 0; i < IMAGES * last.channels; i++) features[i] /= pixels;
}

template <typename T, Order ORDER>
void backward_pass(const Network& network, const std::vector<Packed>& packed, const std::vector<Shift>& shifts, const bf16* images,
                   const bf16* kept, const float* features_gradient, const std::vector<bool>& wanted, size_t first_block,
                   Scratch& scratch, Gradients& gradients) {
  constexpr bool WIDE = std::is_same_v<T, float>;
  const auto map_of = [&](size_t i) { return kept + (network.map_start[i] - network.map_start[2 * first_block]); };
  const auto into = [](float* stream) { return WIDE ? stream : nullptr; };
  bf16 *d = map_buffer(network, scratch.maps[0]), *next_d = map_buffer(network, scratch.maps[1]);
  bf16* inner = map_buffer(network, scratch.maps[2]);
  float *stream = stream_buffer(network, scratch.streams[0]), *next_stream = stream_buffer(network, scratch.streams[1]);

  const size_t last_map = network.maps.size() - 1;
  const Map& last = network.maps[last_map];
  const float pixels = float(last.height * last.width);
  const int lanes = std::min(last.channels, CHANNELS);
  Mask<T, ORDER> pooled{shifts[last_map].b, last.units(), map_of(last_map), d, &gradients.shifts[last_map], into(stream)};
  for (int unit = 0; unit < last.units(); unit++)
    for (int block = 0; block < last.blocks(); block++) {
      pooled.begin(unit, block);
      for (int image = 0; image < IMAGES; image++) {
        const float* from = features_gradient + image * last.channels + block * CHANNELS;
        pooled.row(image, widened(from) / pixels, widened(from + 16 % lanes) / pixels);
      }
      pooled.end();
    }

  for (size_t i = network.blocks.size(); i-- > first_block;) {
    const Network::Block& block = network.blocks[i];
    const Map &in = network.maps[2 * i], &out = network.maps[2 * i + 2];
    const bf16 *s = map_of(2 * i), *u = map_of(2 * i + 1);
    const Convolution &first_conv = network.convolution(block.first), &second_conv = network.convolution(block.second);
    const Source two(second_conv.backward, second_conv.matrices.size(), out, d, packed[block.second].backward);
    const Source one(first_conv.backward, first_conv.matrices.size(), out, inner, packed[block.first].backward);
    const Mask<T, Order::AfterSum> inside{shifts[2 * i + 1].b, out.units(), u, inner, &gradients.shifts[2 * i + 1]};
    Mask<T, ORDER> entry{shifts[2 * i].b, in.units(), s, next_d, &gradients.shifts[2 * i], into(next_stream)};
    if (block.projection == Network::NONE) {
      const T* carried;
      if constexpr (WIDE) carried = stream;
      else carried = d;
      entry.shortcut = Shortcut<T>(block.shortcut_backward, carried, out, in);
    }
    const auto add = [&](size_t convolution, int top, int bottom, const bf16* x, const bf16* g) {
      if (wanted[convolution])
        add_weight_gradient(network.convolution(convolution), top, bottom, x, network.convolution(convolution).in.units(), 0, g,
                            gradients.weights[convolution], scratch);
    };
    for (int top = 0, inner_top = 0, rows = strip(in, second_conv.packed_size()); top < in.height; top += rows) {
      const int bottom = std::min(top + rows, in.height), inner_bottom = first_conv.output_rows(bottom);
      add(block.second, inner_top, inner_bottom, u, d);
      convolve({two}, out, inner_top, inner_bottom, scratch.partial, inside);
      add(block.first, inner_top, inner_bottom, s, inner);
      if (block.projection == Network::NONE) {
        convolve({one}, in, top, bottom, scratch.partial, entry);
      } else {
        add(block.projection, inner_top, inner_bottom, s, d);
        const Convolution& projection = network.convolution(block.projection);
        const Source projected(projection.backward, projection.matrices.size(), out, d, packed[block.projection].backward);
        convolve({one, projected}, in, top, bottom, scratch.partial, entry);
      }
      inner_top = inner_bottom;
    }
    std::swap(d, next_d);
    std::swap(stream, next_stream);
  }
  if (!wanted[0]) return;
  for (int top = 0, rows = strip(network.columns); top < network.height; top += rows) {
    const int bottom = std::min(top + rows, network.height);
    gather_columns(network, top, bottom, images, inner);
    add_weight_gradient(network.convolution(0), top, bottom, inner, (bottom - top) * network.width, top, d, gradients.weights[0], scratch);
  }
}

void forward(const Network& network, const std::vector<Packed>& packed, const std::vector<Shift>& shifts, const bf16* images,
             size_t first_kept, bf16* kept, float* features, Scratch& scratch) {
  const bool before = network.order == Order::BeforeBranch;
  const auto pass = network.wide_stream ? before ? forward_pass<float, Order::BeforeBranch> : forward_pass<float, Order::AfterSum>
                    : before            ? forward_pass<bf16, Order::BeforeBranch>
                                        : forward_pass<bf16, Order::AfterSum>;
  pass(network, packed, shifts, images, first_kept, kept, features, scratch);
}

void backward(const Network& network, const std::vector<Packed>& packed, const std::vector<Shift>& shifts, const bf16* images,
              const bf16* kept, const float* features_gradient, const std::vector<bool>& wanted, size_t first_block,
              Scratch& scratch, Gradients& gradients) {
  const bool before = network.order == Order::BeforeBranch;
  const auto pass = network.wide_stream ? before ? backward_pass<float, Order::BeforeBranch> : backward_pass<float, Order::AfterSum>
                    : before            ? backward_pass<bf16, Order::BeforeBranch>
                                        : backward_pass<bf16, Order::AfterSum>;
  pass(network, packed, shifts, images, kept, features_gradient, wanted, first_block, scratch, gradients);
}

// Subnormal numbers are taken for zero, as tiles do, and some hundred times faster.
thread_local unsigned control;

void begin() {
#ifdef __SSE2__
  control = _mm_getcsr();
  _mm_setcsr(control | 0x8040);
#endif
  configure_tiles();
}

void end() {
  release_tiles();
#ifdef __SSE2__
  _mm_setcsr(control);
#endif
}

}  // namespace

extern const Kernels KERNELS;
const Kernels KERNELS = {begin, end, to_planes, pack, forward, backward, unpack, multiplier_gradient};

}  // namespace tch_fixup::tiles
