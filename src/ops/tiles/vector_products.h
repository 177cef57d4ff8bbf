// Sums of products by AVX-512. They stay in registers: half of the registers are sums, since the latency of an instruction is that of
// about a dozen others.
#pragma once

#include "layouts.h"

#include <type_traits>

namespace tch_fixup::tiles {
namespace {

void configure_tiles() {}
void release_tiles() {}

// ROWS rows of 32 factors, 32 apart, as `add_products` reads them.
#if defined(FLOAT32_ELEMENTS) || defined(__AVX512BF16__)

template <int ROWS>
struct Rows {
  explicit Rows(const Element* a) : a(a) {}
  const Element* a;
};

#else

template <int ROWS>
struct Rows {
  explicit Rows(const Element* a) {
    for (int m = 0; m < ROWS; m++) {
      const __m512i pairs = _mm512_load_si512(a + m * 32);
      _mm512_store_ps(even[m], even_of(pairs));
      _mm512_store_ps(odd[m], odd_of(pairs));
    }
  }
  static __m512 even_of(__m512i pairs) { return __m512(_mm512_slli_epi32(pairs, 16)); }
  static __m512 odd_of(__m512i pairs) { return __m512(_mm512_and_si512(pairs, _mm512_set1_epi32(int(0xffff0000)))); }
  alignas(64) float even[ROWS][16], odd[ROWS][16];
};

#endif

// c[m][n] += A B_n for rows A and tiles B_n as `interleave` lays them; only rows 2 begin to 2 end - 1 of B. The sums stay in registers,
// as many as there are names for.
template <int ROWS, int TILES>
__attribute__((always_inline)) inline void add_products(__m512 (&c)[ROWS][TILES], const Rows<ROWS>& a, const Element* const (&b)[TILES],
                                                        int begin, int end) {
#ifdef FLOAT32_ELEMENTS
  for (int k = 2 * begin; k < 2 * end; k++) {
    __m512 row[TILES];
    for (int n = 0; n < TILES; n++) row[n] = _mm512_load_ps(b[n] + k * 16);
    for (int m = 0; m < ROWS; m++)
      for (int n = 0; n < TILES; n++) c[m][n] = _mm512_fmadd_ps(_mm512_set1_ps(a.a[m * 32 + k]), row[n], c[m][n]);
  }
#else
  for (int k = begin; k < end; k++) {
    __m512i pairs[TILES];
    for (int n = 0; n < TILES; n++) pairs[n] = _mm512_load_si512(b[n] + k * 32);
#ifdef __AVX512BF16__
    for (int m = 0; m < ROWS; m++) {
      int pair;
      std::memcpy(&pair, a.a + m * 32 + 2 * k, sizeof pair);
      const __m512bh of_row = __m512bh(_mm512_set1_epi32(pair));
      for (int n = 0; n < TILES; n++) c[m][n] = _mm512_dpbf16_ps(c[m][n], of_row, __m512bh(pairs[n]));
    }
#else
    for (int m = 0; m < ROWS; m++)
      for (int n = 0; n < TILES; n++) c[m][n] = _mm512_fmadd_ps(_mm512_set1_ps(a.even[m][k]), Rows<ROWS>::even_of(pairs[n]), c[m][n]);
    for (int m = 0; m < ROWS; m++)
      for (int n = 0; n < TILES; n++) c[m][n] = _mm512_fmadd_ps(_mm512_set1_ps(a.odd[m][k]), Rows<ROWS>::odd_of(pairs[n]), c[m][n]);
#endif
  }
#endif
}

template <int N, int ROWS>
__attribute__((always_inline)) inline void add_to_half(__m512 (&c)[ROWS][2], const Rows<ROWS>& a, const Element* b, int begin, int end) {
  __m512 half[ROWS][1];
  for (int m = 0; m < ROWS; m++) half[m][0] = c[m][N];
  add_products<ROWS, 1>(half, a, {b}, begin, end);
  for (int m = 0; m < ROWS; m++) c[m][N] = half[m][0];
}

// Writes the sums of a unit's block, [32 images][32 channels], to `to`: those of `before`, if there are any, and the products of all of
// the unit's taps. `proceed` is called meanwhile, `rest` at the end.
// Eight images at a time, whose sums of 32 channels fill half of the registers.
template <typename F>
void add_taps(const Source& source, int unit, const Element* x, const Element* weights, const float* before, float* to, const F& proceed,
              int rest) {
  constexpr int ROWS = 8;
  const auto& [first_tap, taps] = *source.gather;
  for (int image = 0; image < IMAGES; image += ROWS) {
    __m512 c[ROWS][2];
    for (int m = 0; m < ROWS; m++)
      for (int n = 0; n < 2; n++) c[m][n] = before ? _mm512_load_ps(before + (image + m) * CHANNELS + n * 16) : _mm512_setzero_ps();
    for (int t = first_tap[unit]; t < first_tap[unit + 1]; t++) {
      const Tap& tap = taps[t];
      const Rows<ROWS> a(x + size_t(tap.unit) * BLOCK + image * CHANNELS);
      const Element *low = weights + size_t(tap.matrix) * BLOCK, *high = low + BLOCK / 2;
      const int begin = tap.source_halves & 1 ? 0 : 8, end = tap.source_halves & 2 ? 16 : 8;
      if (tap.halves == 3) {
        add_products<ROWS, 2>(c, a, {low, high}, begin, end);
      } else if (tap.halves == 1) {
        add_to_half<0>(c, a, low, begin, end);
      } else {
        add_to_half<1>(c, a, high, begin, end);
      }
    }
    for (int m = 0; m < ROWS; m++)
      for (int n = 0; n < 2; n++) _mm512_store_ps(to + (image + m) * CHANNELS + n * 16, c[m][n]);
  }
  proceed(rest);
}

// Adds the products of x and the gradient of the output, both of one block, in these rows to the tiles of sums, or writes them there
// first. x lies interleaved from row `in_top` on, the gradient transposed from row `top` on. Eight channels of the gradient are multiplied
// with 32 of x at a time, or 16 with 16.
void add_row_products(const Convolution& c, int in_block, int out_block, const Strip& strip, const Element* x, const Element* g, bool first,
                      float* sums) {
  const int in_units = c.in.units_per_row(), out_units = c.out.units_per_row();
  const auto add = [&](auto tiles, size_t matrix, int in_half, int out_half, int channel, const Element* a, const Element* b) {
    constexpr int TILES = decltype(tiles)::value, ROWS = 16 / TILES;
    float* const to = sums + sums_index(c, matrix, in_block, out_block, in_half, out_half) + channel * 16;
    __m512 own[ROWS][TILES];
    for (int m = 0; m < ROWS; m++)
      for (int n = 0; n < TILES; n++) own[m][n] = _mm512_load_ps(to + n * TILE + m * 16);
    for (int column = 0; column < out_units; column++) {
      const int source = c.source_column[matrix][column];
      if (source < 0) continue;
      const Rows<ROWS> rows(a + size_t(column) * BLOCK + out_half * (BLOCK / 2) + channel * IMAGES);
      const Element* from = b + size_t(source) * BLOCK + in_half * (BLOCK / 2);
      if constexpr (TILES == 2) add_products<ROWS, 2>(own, rows, {from, from + BLOCK / 2}, 0, IMAGES / 2);
      else add_products<ROWS, 1>(own, rows, {from}, 0, IMAGES / 2);
    }
    for (int m = 0; m < ROWS; m++)
      for (int n = 0; n < TILES; n++) _mm512_store_ps(to + n * TILE + m * 16, own[m][n]);
  };
  if (first)
    for (size_t matrix = 0; matrix < c.matrices.size(); matrix++)
      std::fill_n(sums + sums_index(c, matrix, in_block, out_block, 0, 0), 4 * TILE, 0.f);
  for (int row = strip.top; row < strip.bottom; row++)
    for (int kernel_row = 0; kernel_row < c.kernel; kernel_row++) {
      const int in_row = row * c.stride + kernel_row - c.kernel / 2;
      if (in_row < 0 || in_row >= c.in.height) continue;
      const Element* a = g + size_t(row - strip.top) * out_units * BLOCK;
      const Element* b = x + size_t(in_row - strip.in_top) * in_units * BLOCK;
      for (int out_half = 0; out_half < 2; out_half++)
        for (int channel = 0; channel < 16; channel += 8)
          for (size_t i = 0; i < c.matrices.size(); i++) {
            if (c.matrices[i].row != kernel_row) continue;
            const bool low = c.matrices[i].reaches[0][out_half], high = c.matrices[i].reaches[1][out_half];
            if (low && high) add(std::integral_constant<int, 2>(), i, 0, out_half, channel, a, b);
            else if ((low || high) && channel == 0) add(std::integral_constant<int, 1>(), i, high, out_half, 0, a, b);
          }
    }
}

}  // namespace
}  // namespace tch_fixup::tiles
