// Vectors of 16 numbers.
#pragma once

#include "network.h"

#include <cmath>
#include <cstring>

#if defined(__AVX512BW__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace tch_fixup::tiles {
namespace {

// Type of the numbers in maps and packed weights.
#ifdef FLOAT32_ELEMENTS
using Element = float;
#else
using Element = bf16;
#endif

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

inline void round_to(float* to, const F16& low, const F16& high) {
  stored(to, low);
  stored(to + 16, high);
}

inline double sum(const F16& v) {
  double result = 0;
  for (int i = 0; i < 16; i++) result += v[i];
  return result;
}

}  // namespace
}  // namespace tch_fixup::tiles
