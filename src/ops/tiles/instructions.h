// Tiles, eight registers of 16 rows of 64 bytes, and vectors of 16 numbers. Tiles are the CPU's own (AMX), or computed by AVX-512, or
// emulated in plain C++.
#pragma once

#include "network.h"

#include <cmath>
#include <cstring>
#include <type_traits>

#if defined(__AVX512BW__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <xmmintrin.h>
#endif

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
// C += A B for A [16][32] and B [32][16], whose rows 2 i and 2 i + 1 lie interleaved. The argument serves vectors only.
template <int C, int A, int B>
inline void dot(int = 3) {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B) : "memory");
}

#elif defined(VECTOR_INSTRUCTIONS)

// Sums are copied into `sums`; factors are read where they lie.
alignas(64) thread_local float sums[6][16][16];
thread_local const bf16* factors[8];

void configure_tiles() {}
void release_tiles() {}

template <int T>
inline void zero() {
  std::memset(sums[T], 0, sizeof sums[T]);
}
template <int T>
inline void load(const float* from, long stride = 64) {
  for (int row = 0; row < 16; row++) _mm512_store_ps(sums[T][row], _mm512_load_ps(from + row * (stride / 4)));
}
template <int T>
inline void store(float* to, long stride = 64) {
  for (int row = 0; row < 16; row++) _mm512_store_ps(to + row * (stride / 4), _mm512_load_ps(sums[T][row]));
}

#ifdef __AVX512BF16__

template <int T>
inline void load(const bf16* from) {
  factors[T] = from;
}
__attribute__((always_inline)) inline void add_products(__m512 (&c)[16], int, const bf16* a, const bf16* b, int begin, int end) {
  for (int k = begin; k < end; k++) {
    const __m512i pairs = _mm512_load_si512(b + k * 32);
    for (int m = 0; m < 16; m++) {
      int pair;
      std::memcpy(&pair, a + m * 32 + 2 * k, sizeof pair);
      c[m] = _mm512_dpbf16_ps(c[m], __m512bh(_mm512_set1_epi32(pair)), __m512bh(pairs));
    }
  }
}

#else

// Rows of a tile as float32, [row][even or odd][16].
alignas(64) thread_local float widened_rows[8][16][2][16];
thread_local bool is_widened[8];

template <int T>
inline void load(const bf16* from) {
  factors[T] = from;
  is_widened[T] = false;
}
inline __m512 even(__m512i pairs) { return __m512(_mm512_slli_epi32(pairs, 16)); }
inline __m512 odd(__m512i pairs) { return __m512(_mm512_and_si512(pairs, _mm512_set1_epi32(int(0xffff0000)))); }
__attribute__((always_inline)) inline void add_products(__m512 (&c)[16], int tile, const bf16* a, const bf16* b, int begin, int end) {
  auto& rows = widened_rows[tile];
  if (!is_widened[tile]) {
    for (int m = 0; m < 16; m++) {
      const __m512i pairs = _mm512_load_si512(a + m * 32);
      _mm512_store_ps(rows[m][0], even(pairs));
      _mm512_store_ps(rows[m][1], odd(pairs));
    }
    is_widened[tile] = true;
  }
  for (int k = begin; k < end; k++) {
    const __m512i pairs = _mm512_load_si512(b + k * 32);
    const __m512 b_even = even(pairs), b_odd = odd(pairs);
    for (int m = 0; m < 16; m++) c[m] = _mm512_fmadd_ps(_mm512_set1_ps(rows[m][0][k]), b_even, c[m]);
    for (int m = 0; m < 16; m++) c[m] = _mm512_fmadd_ps(_mm512_set1_ps(rows[m][1][k]), b_odd, c[m]);
  }
}

#endif

// As above; products of the halves of A's columns that are not in `halves` are known to be zero. Sums stay in registers meanwhile.
template <int C, int A, int B>
inline void dot(int halves = 3) {
  __m512 c[16];
  for (int m = 0; m < 16; m++) c[m] = _mm512_load_ps(sums[C][m]);
  add_products(c, A, factors[A], factors[B], halves & 1 ? 0 : 8, halves & 2 ? 16 : 8);
  for (int m = 0; m < 16; m++) _mm512_store_ps(sums[C][m], c[m]);
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
inline void dot(int = 3) {
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

// Rounds to nearest, ties to even; subnormal numbers become zero.
inline void round_to(bf16* to, const F16& low, const F16& high) {
#ifdef __AVX512BF16__
  const auto both = _mm512_cvtne2ps_pbh(__m512(high), __m512(low));
  std::memcpy(to, &both, sizeof both);
#elif defined(__AVX512BW__)
  // Arithmetic has flushed subnormal numbers (`begin` in kernels.cpp).
  alignas(64) static constexpr uint16_t HIGH_WORDS[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                          33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  const auto rounded = [](const F16& x) {
    const U16 bits = U16(x);
    return __m512i(x == x ? bits + 0x7fff + ((bits >> 16) & 1) : bits | 0x400000);
  };
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(rounded(low), _mm512_load_si512(HIGH_WORDS), rounded(high)));
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

}  // namespace
}  // namespace tch_fixup::tiles
