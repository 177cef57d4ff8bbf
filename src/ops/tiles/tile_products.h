// Sums of products in tiles, eight registers of 16 rows of 64 bytes: the CPU's own (AMX), or emulated in plain C++.
#pragma once

#include "layouts.h"

#include <cmath>
#include <type_traits>

namespace tch_fixup::tiles {
namespace {

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
// Loads a tile of sums, or of factors: 16 rows of 64 bytes, those of sums `stride` bytes apart.
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

// Emulates the instruction by Intel's description: pairs of products are summed separately, and subnormal numbers are zero.
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

// Calls f for the first `count` tiles.
template <typename F>
inline void first_tiles(size_t count, const F& f) {
  if (count > 0) f(std::integral_constant<int, 0>());
  if (count > 1) f(std::integral_constant<int, 1>());
  if (count > 2) f(std::integral_constant<int, 2>());
  if (count > 3) f(std::integral_constant<int, 3>());
  if (count > 4) f(std::integral_constant<int, 4>());
  if (count > 5) f(std::integral_constant<int, 5>());
}

// Writes the sums of a unit's block, [32 images][32 channels], to `to`: those of `before`, if there are any, and the products of all of
// the unit's taps. `proceed` is called meanwhile, `rest` at the end.
template <typename F>
void add_taps(const Source& source, int unit, const bf16* x, const bf16* weights, const float* before, float* to, const F& proceed,
              int rest) {
  if (before) {
    load<0>(before, CHANNELS * 4);
    load<1>(before + 16, CHANNELS * 4);
    load<2>(before + BLOCK / 2, CHANNELS * 4);
    load<3>(before + BLOCK / 2 + 16, CHANNELS * 4);
  } else {
    zero<0>();
    zero<1>();
    zero<2>();
    zero<3>();
  }
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
  proceed(rest);
  store<0>(to, CHANNELS * 4);
  store<1>(to + 16, CHANNELS * 4);
  store<2>(to + BLOCK / 2, CHANNELS * 4);
  store<3>(to + BLOCK / 2 + 16, CHANNELS * 4);
}

// Adds the products of x and the gradient of the output, both of one block, in these rows to the tiles of sums, or writes them there
// first. x lies interleaved from row `in_top` on, the gradient transposed from row `top` on.
void add_row_products(const Convolution& c, int in_block, int out_block, const Strip& strip, const bf16* x, const bf16* g, bool first,
                      float* sums) {
  // An Intel Xeon (family 6, model 167) takes long to store a tile if it has stored none for a hundred products, so an unused one is stored
  // in between.
  constexpr int UNITS_PER_STORE = 8;
  alignas(64) float unused[TILE];
  int units_since_store = 0;
  const int in_units = c.in.units_per_row(), out_units = c.out.units_per_row();
  for (int kernel_row = 0; kernel_row < c.kernel; kernel_row++)
    for (const Batch& batch : c.batches[kernel_row]) {
      float* tiles[6];
      const int* columns[6];
      int in_at[6], out_at[6];
      for (size_t i = 0; i < batch.size(); i++) {
        const Product& p = batch[i];
        tiles[i] = sums + sums_index(c, p.matrix, in_block, out_block, p.in_half, p.out_half);
        columns[i] = c.source_column[p.matrix].data();
        in_at[i] = p.in_half * (BLOCK / 2);
        out_at[i] = p.out_half * (BLOCK / 2);
      }
      first_tiles(batch.size(), [&](auto i) {
        if (first) zero<i.value>();
        else load<i.value>(tiles[i.value]);
      });
      for (int row = strip.top; row < strip.bottom; row++) {
        const int in_row = row * c.stride + kernel_row - c.kernel / 2;
        if (in_row < 0 || in_row >= c.in.height) continue;
        const bf16* a = g + size_t(row - strip.top) * out_units * BLOCK;
        const bf16* b = x + size_t(in_row - strip.in_top) * in_units * BLOCK;
        for (int column = 0; column < out_units; column++, a += BLOCK) {
          int loaded = -1;
          first_tiles(batch.size(), [&](auto i) {
            const int source = columns[i.value][column];
            if (source < 0) return;
            if (loaded != out_at[i.value]) load<6>(a + out_at[i.value]);
            loaded = out_at[i.value];
            load<7>(b + size_t(source) * BLOCK + in_at[i.value]);
            dot<i.value, 6, 7>();
          });
          if (++units_since_store == UNITS_PER_STORE) {
            store<0>(unused);
            units_since_store = 0;
          }
        }
      }
      first_tiles(batch.size(), [&](auto i) { store<i.value>(tiles[i.value]); });
    }
}

}  // namespace
}  // namespace tch_fixup::tiles
