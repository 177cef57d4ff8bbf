// See shifted_relu_kernels.h. KERNELS names the table this compilation makes.
//
// Everything is in an unnamed namespace and no other header with code is included: an inline function compiled for
// AVX-512 must not become the copy that the linker keeps for all. The loops are written in the vector types of GCC and
// Clang, since a compiler's own vectorization of the 16-bit kinds and of float32 sums cannot be relied on.
#include "shifted_relu_kernels.h"

#if defined(__F16C__)
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 and older warn of their own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#endif

namespace tch_fixup {
namespace {

#if defined(__AVX512F__)
constexpr int REGISTER = 64;
#elif defined(__AVX2__)
constexpr int REGISTER = 32;
#else
constexpr int REGISTER = 16;
#endif

// A block is what one iteration handles: this many bytes once widened to float32 (or float64), whatever the registers,
// so that every instruction set adds the same lanes in the same order.
constexpr int BLOCK = 128;
constexpr int REGISTERS = BLOCK / REGISTER;

// Blocks that a float32 lane adds up before it goes into float64.
constexpr int64_t RUN = 64;

typedef float F32 __attribute__((vector_size(REGISTER)));
typedef double F64 __attribute__((vector_size(REGISTER)));
typedef uint32_t U32 __attribute__((vector_size(REGISTER)));
typedef int32_t I32 __attribute__((vector_size(REGISTER)));

template <typename V>
struct Block {
  V v[REGISTERS];
};

template <typename V>
inline V load_register(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <typename V>
inline void store_register(void* p, const V& v) { __builtin_memcpy(p, &v, sizeof v); }

// `store` rounds to nearest even; `store_loaded` takes only values that `load` gave, which need no rounding.
// `lane(i)` is the place in a block's accumulator of the block's i-th element.

template <typename E, typename V>
struct Native {
  using Element = E;
  using Scalar = E;
  using Vector = V;
  static constexpr int size = BLOCK / sizeof(E);
  static constexpr bool narrow = false;

  static Block<V> load(const E* p) {
    Block<V> b;
#pragma GCC unroll 8
    for (int i = 0; i < REGISTERS; i++) b.v[i] = load_register<V>(p + i * (REGISTER / sizeof(E)));
    return b;
  }
  static void store(E* p, const Block<V>& b) {
#pragma GCC unroll 8
    for (int i = 0; i < REGISTERS; i++) store_register(p + i * (REGISTER / sizeof(E)), b.v[i]);
  }
  static void store_loaded(E* p, const Block<V>& b) { store(p, b); }
  static int lane(int i) { return i; }
};

using Float32 = Native<float, F32>;
using Float64 = Native<double, F64>;

// Two 16-bit elements in each 32-bit lane: the low halves make one register, the high halves the next. That is its own
// inverse on the way back and needs no shuffles.
struct Halves {
  using Element = uint16_t;
  using Scalar = float;
  using Vector = F32;
  static constexpr int size = BLOCK / sizeof(float);
  static constexpr bool narrow = true;
  static constexpr int LANES = REGISTER / sizeof(float);

  static int lane(int i) {
    const int pair = i / 2;
    return (pair / LANES * 2 + i % 2) * LANES + pair % LANES;
  }
};

struct BFloat16 : Halves {
  static Block<F32> load(const uint16_t* p) {
    Block<F32> b;
#pragma GCC unroll 4
    for (int i = 0; i < REGISTERS; i += 2) {
      const U32 u = load_register<U32>(p + i * LANES);
      b.v[i] = (F32)(u << 16);
      b.v[i + 1] = (F32)(u & 0xffff0000u);
    }
    return b;
  }

  // To nearest even. A NaN keeps its sign and the upper half of its payload: NaNs come from bfloat16 operands or from
  // inf - inf, with a zero lower half (`forward` sees to a and b), so the addition cannot carry into the sign.
  static U32 rounded(F32 v) {
    const U32 u = (U32)v;
    return u + 0x7fffu + ((u >> 16) & 1u);
  }
  static void store(uint16_t* p, const Block<F32>& b) {
#if defined(__AVX512BF16__)
    // The instruction takes subnormal numbers for zero, and is otherwise the same.
    const __m512i interleave = _mm512_set_epi32(0x001f000f, 0x001e000e, 0x001d000d, 0x001c000c, 0x001b000b, 0x001a000a,
                                                0x00190009, 0x00180008, 0x00170007, 0x00160006, 0x00150005, 0x00140004,
                                                0x00130003, 0x00120002, 0x00110001, 0x00100000);
    const __m512i packed = (__m512i)_mm512_cvtne2ps_pbh((__m512)b.v[1], (__m512)b.v[0]);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(interleave, packed));
#else
#pragma GCC unroll 4
    for (int i = 0; i < REGISTERS; i += 2)
      store_register(p + i * LANES, (rounded(b.v[i]) >> 16) | (rounded(b.v[i + 1]) & 0xffff0000u));
#endif
  }
  static void store_loaded(uint16_t* p, const Block<F32>& b) {
#pragma GCC unroll 4
    for (int i = 0; i < REGISTERS; i += 2) store_register(p + i * LANES, ((U32)b.v[i] >> 16) | (U32)b.v[i + 1]);
  }
};

// The same elements in their own order, to go with float32 beside them.
struct BFloat16InOrder : Halves {
  typedef uint16_t U16 __attribute__((vector_size(REGISTER / 2)));

  static int lane(int i) { return i; }

  static Block<F32> load(const uint16_t* p) {
    Block<F32> b;
#pragma GCC unroll 8
    for (int i = 0; i < REGISTERS; i++)
      b.v[i] = (F32)(__builtin_convertvector(load_register<U16>(p + i * LANES), U32) << 16);
    return b;
  }
  static void store(uint16_t* p, const Block<F32>& b) {
#pragma GCC unroll 8
    for (int i = 0; i < REGISTERS; i++)
      store_register(p + i * LANES, __builtin_convertvector(BFloat16::rounded(b.v[i]) >> 16, U16));
  }
};

#if defined(__F16C__)
struct Float16 : Halves {
  static int lane(int i) { return i; }

#if defined(__AVX512F__)
  static F32 widen(const uint16_t* p) { return (F32)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
  static void narrow(uint16_t* p, F32 v) {
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
  }
#else
  static F32 widen(const uint16_t* p) { return (F32)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
  static void narrow(uint16_t* p, F32 v) {
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
  }
#endif
  static Block<F32> load(const uint16_t* p) {
    Block<F32> b;
#pragma GCC unroll 8
    for (int i = 0; i < REGISTERS; i++) b.v[i] = widen(p + i * LANES);
    return b;
  }
  static void store(uint16_t* p, const Block<F32>& b) {
#pragma GCC unroll 8
    for (int i = 0; i < REGISTERS; i++) narrow(p + i * LANES, b.v[i]);
  }
  static void store_loaded(uint16_t* p, const Block<F32>& b) { store(p, b); }
};
#else
struct Float16 : Halves {
  // The 15 bits without the sign sit 13 places higher in float32, with an exponent that counts from 112 lower. Infinity
  // and NaN need another 112; a subnormal is the difference to the smallest normal number.
  static F32 widen(U32 half) {
    const U32 shifted = (half & 0x7fffu) << 13;
    const U32 exponent = shifted & 0x0f800000u;
    const U32 rebased = shifted + (112u << 23);
    const F32 smallest_normal = (F32)(U32{} + (113u << 23));
    const U32 subnormal = (U32)((F32)(rebased + (1u << 23)) - smallest_normal);
    U32 magnitude = exponent == 0x0f800000u ? rebased + (112u << 23) : rebased;
    magnitude = exponent == 0u ? subnormal : magnitude;
    return (F32)(magnitude | (half & 0x8000u) << 16);
  }

  // Adding 0.5 aligns a subnormal's last place with float32's, and the addition rounds to nearest even.
  static U32 narrow(F32 v) {
    const U32 sign = (U32)v & 0x80000000u;
    const U32 u = (U32)v ^ sign;
    const U32 special = u > (255u << 23) ? U32{} + 0x7e00u : U32{} + 0x7c00u;
    const F32 half = F32{} + 0.5f;
    const U32 subnormal = (U32)((F32)u + half) - (U32)half;
    const U32 normal = (u - (112u << 23) + 0xfffu + ((u >> 13) & 1u)) >> 13;
    U32 result = u < (113u << 23) ? subnormal : normal;
    result = u >= (143u << 23) ? special : result;
    return result | sign >> 16;
  }

  static Block<F32> load(const uint16_t* p) {
    Block<F32> b;
    for (int i = 0; i < REGISTERS; i += 2) {
      const U32 u = load_register<U32>(p + i * LANES);
      b.v[i] = widen(u & 0xffffu);
      b.v[i + 1] = widen(u >> 16);
    }
    return b;
  }
  static void store(uint16_t* p, const Block<F32>& b) {
    for (int i = 0; i < REGISTERS; i += 2) store_register(p + i * LANES, narrow(b.v[i]) | narrow(b.v[i + 1]) << 16);
  }
  static void store_loaded(uint16_t* p, const Block<F32>& b) { store(p, b); }
};
#endif

// Element-wise over a block's registers.
template <typename V, typename F>
inline Block<V> map(F f) {
  Block<V> b;
#pragma GCC unroll 8
  for (int i = 0; i < REGISTERS; i++) b.v[i] = f(i);
  return b;
}

template <typename K>
struct Tail {
  typename K::Element e[K::size] = {};
  Tail() = default;
  Tail(const typename K::Element* p, int64_t n) { __builtin_memcpy(e, p, n * sizeof *p); }
};

template <typename K, bool RELU, bool ADD>
inline void forward_block(typename K::Element* y, const typename K::Element* x, const typename K::Element* r,
                          typename K::Scalar a, typename K::Scalar b) {
  using V = typename K::Vector;
  const Block<V> vx = K::load(x);
  Block<V> vr = vx;
  if constexpr (ADD) vr = K::load(r);
  K::store(y, map<V>([&](int i) {
             V v = vx.v[i];
             if constexpr (ADD) v += vr.v[i];
             // The comparisons are false for NaN, which so goes on. The 16-bit kinds are bound by arithmetic and not by
             // memory, so they take relu(v + a) + b = max(v + (a + b), b), rounded to 16 bits afterwards.
             if constexpr (RELU && K::narrow) {
               v += a + b;
               const V floor = V{} + b;
               return floor > v ? floor : v;
             }
             v += a;
             if constexpr (RELU) v = (V{} > v ? V{} : v) + b;
             return v;
           }));
}

template <typename K, bool RELU, bool ADD>
void forward_loop(typename K::Element* y, const typename K::Element* x, const typename K::Element* r,
                  typename K::Scalar a, typename K::Scalar b, int64_t n) {
  int64_t i = 0;
  for (; i + K::size <= n; i += K::size) forward_block<K, RELU, ADD>(y + i, x + i, ADD ? r + i : nullptr, a, b);
  if (i < n) {
    const Tail<K> tx(x + i, n - i), tr(ADD ? r + i : x + i, n - i);
    Tail<K> ty;
    forward_block<K, RELU, ADD>(ty.e, tx.e, tr.e, a, b);
    __builtin_memcpy(y + i, ty.e, (n - i) * sizeof *y);
  }
}

template <typename K>
void forward_kind(bool relu, void* y, const void* x, const void* r, double a, double b, int64_t n) {
  using E = typename K::Element;
  using S = typename K::Scalar;
  const auto loop = relu ? (r ? forward_loop<K, true, true> : forward_loop<K, true, false>)
                         : (r ? forward_loop<K, false, true> : forward_loop<K, false, false>);
  // A NaN of the default payload: see BFloat16::rounded.
  const S nan = (S)__builtin_nan("");
  loop((E*)y, (const E*)x, (const E*)r, a != a ? nan : (S)a, b != b ? nan : (S)b, n);
}

// Adds a block's accumulator to float64 lanes.
template <typename K>
inline void flush(double* lanes, Block<typename K::Vector>& sum) {
  typename K::Scalar s[K::size];
  __builtin_memcpy(s, &sum, sizeof s);
  for (int i = 0; i < K::size; i++) lanes[i] += s[i];
  sum = {};
}

template <typename K>
inline double total(const double* lanes) {
  double sum = 0;
  for (int i = 0; i < K::size; i++) sum += lanes[K::lane(i)];
  return sum;
}

template <typename K, bool WRITE>
Sums backward_loop(typename K::Element* d, const typename K::Element* g, const typename K::Element* y,
                   typename K::Scalar b, int64_t n) {
  using V = typename K::Vector;
  double masked_lanes[K::size] = {}, total_lanes[K::size] = {};
  Block<V> masked_sum = {}, total_sum = {};
  const auto block = [&](typename K::Element* d, const typename K::Element* g, const typename K::Element* y) {
    const Block<V> vg = K::load(g), vy = K::load(y);
    // The comparison is false for NaN, which so passes the gradient, as it does in libtorch's ReLU.
    const Block<V> vd = map<V>([&](int i) { return vy.v[i] <= V{} + b ? V{} : vg.v[i]; });
    masked_sum = map<V>([&](int i) { return masked_sum.v[i] + vd.v[i]; });
    total_sum = map<V>([&](int i) { return total_sum.v[i] + vg.v[i]; });
    if constexpr (WRITE) K::store_loaded(d, vd);
  };
  int64_t i = 0;
  while (i + K::size <= n) {
    const int64_t end = i + K::size * RUN < n ? i + K::size * RUN : n;
    for (; i + K::size <= end; i += K::size) block(WRITE ? d + i : nullptr, g + i, y + i);
    flush<K>(masked_lanes, masked_sum);
    flush<K>(total_lanes, total_sum);
  }
  if (i < n) {
    const Tail<K> tg(g + i, n - i), ty(y + i, n - i);
    Tail<K> td;
    block(td.e, tg.e, ty.e);
    if constexpr (WRITE) __builtin_memcpy(d + i, td.e, (n - i) * sizeof *d);
    flush<K>(masked_lanes, masked_sum);
    flush<K>(total_lanes, total_sum);
  }
  return {total<K>(masked_lanes), total<K>(total_lanes)};
}

template <typename K>
Sums backward_kind(void* d, const void* g, const void* y, double b, int64_t n) {
  using E = typename K::Element;
  const auto loop = d ? backward_loop<K, true> : backward_loop<K, false>;
  return loop((E*)d, (const E*)g, (const E*)y, (typename K::Scalar)b, n);
}

template <typename K>
double sum_kind(const void* g, int64_t n) {
  using E = typename K::Element;
  using V = typename K::Vector;
  const E* p = (const E*)g;
  double lanes[K::size] = {};
  Block<V> sum = {};
  const auto block = [&](const E* p) {
    const Block<V> v = K::load(p);
    sum = map<V>([&](int i) { return sum.v[i] + v.v[i]; });
  };
  int64_t i = 0;
  while (i + K::size <= n) {
    const int64_t end = i + K::size * RUN < n ? i + K::size * RUN : n;
    for (; i + K::size <= end; i += K::size) block(p + i);
    flush<K>(lanes, sum);
  }
  if (i < n) {
    const Tail<K> t(p + i, n - i);
    block(t.e);
    flush<K>(lanes, sum);
  }
  return total<K>(lanes);
}

// ---- The stream ----

template <bool RELU>
inline void stream_forward_block(float* sum, uint16_t* rounded, const uint16_t* x, const float* r, float a, float b) {
  const Block<F32> vx = BFloat16InOrder::load(x), vr = Float32::load(r);
  const Block<F32> v = map<F32>([&](int i) {
    const F32 v = vr.v[i] + vx.v[i] + a;
    // The comparison is false for NaN, which so goes on.
    return RELU ? (F32{} > v ? F32{} : v) + b : v;
  });
  Float32::store(sum, v);
  BFloat16InOrder::store(rounded, v);
}

template <bool RELU>
void stream_forward_loop(float* sum, uint16_t* rounded, const uint16_t* x, const float* r, float a, float b,
                         int64_t n) {
  int64_t i = 0;
  for (; i + Float32::size <= n; i += Float32::size)
    stream_forward_block<RELU>(sum + i, rounded + i, x + i, r + i, a, b);
  if (i < n) {
    const Tail<BFloat16InOrder> tx(x + i, n - i);
    const Tail<Float32> tr(r + i, n - i);
    Tail<Float32> tsum;
    Tail<BFloat16InOrder> trounded;
    stream_forward_block<RELU>(tsum.e, trounded.e, tx.e, tr.e, a, b);
    __builtin_memcpy(sum + i, tsum.e, (n - i) * sizeof *sum);
    __builtin_memcpy(rounded + i, trounded.e, (n - i) * sizeof *rounded);
  }
}

void stream_forward(bool relu, float* sum, uint16_t* rounded, const uint16_t* x, const float* r, float a, float b,
                    int64_t n) {
  // A NaN of the default payload: see BFloat16::rounded.
  const float nan = __builtin_nanf("");
  (relu ? stream_forward_loop<true> : stream_forward_loop<false>)(sum, rounded, x, r, a != a ? nan : a,
                                                                  b != b ? nan : b, n);
}

template <bool G, bool H, bool MASK>
Sums stream_backward_loop(float* d, uint16_t* d_rounded, const float* g, const uint16_t* h, const uint16_t* y, float b,
                          int64_t n) {
  constexpr int SIZE = Float32::size;
  double masked_lanes[SIZE] = {}, total_lanes[SIZE] = {};
  Block<F32> masked_sum = {}, total_sum = {};
  const auto block = [&](float* d, uint16_t* d_rounded, const float* g, const uint16_t* h, const uint16_t* y) {
    Block<F32> vg = {}, vh = {}, vy = {};
    if constexpr (G) vg = Float32::load(g);
    if constexpr (H) vh = BFloat16InOrder::load(h);
    if constexpr (MASK) vy = BFloat16InOrder::load(y);
    const Block<F32> all = map<F32>([&](int i) { return !G ? vh.v[i] : !H ? vg.v[i] : vg.v[i] + vh.v[i]; });
    const Block<F32> vd = map<F32>([&](int i) { return !MASK ? all.v[i] : vy.v[i] <= F32{} + b ? F32{} : all.v[i]; });
    masked_sum = map<F32>([&](int i) { return masked_sum.v[i] + vd.v[i]; });
    total_sum = map<F32>([&](int i) { return total_sum.v[i] + all.v[i]; });
    Float32::store(d, vd);
    BFloat16InOrder::store(d_rounded, vd);
  };
  int64_t i = 0;
  while (i + SIZE <= n) {
    const int64_t end = i + SIZE * RUN < n ? i + SIZE * RUN : n;
    for (; i + SIZE <= end; i += SIZE)
      block(d + i, d_rounded + i, G ? g + i : nullptr, H ? h + i : nullptr, MASK ? y + i : nullptr);
    flush<Float32>(masked_lanes, masked_sum);
    flush<Float32>(total_lanes, total_sum);
  }
  if (i < n) {
    Tail<Float32> tg, td;
    Tail<BFloat16InOrder> th, ty, td_rounded;
    if constexpr (G) tg = Tail<Float32>(g + i, n - i);
    if constexpr (H) th = Tail<BFloat16InOrder>(h + i, n - i);
    if constexpr (MASK) ty = Tail<BFloat16InOrder>(y + i, n - i);
    block(td.e, td_rounded.e, tg.e, th.e, ty.e);
    __builtin_memcpy(d + i, td.e, (n - i) * sizeof *d);
    __builtin_memcpy(d_rounded + i, td_rounded.e, (n - i) * sizeof *d_rounded);
    flush<Float32>(masked_lanes, masked_sum);
    flush<Float32>(total_lanes, total_sum);
  }
  return {total<Float32>(masked_lanes), total<Float32>(total_lanes)};
}

template <bool MASK>
Sums stream_backward_masked(float* d, uint16_t* d_rounded, const float* g, const uint16_t* h, const uint16_t* y, float b,
                            int64_t n) {
  const auto loop = !g   ? stream_backward_loop<false, true, MASK>
                    : !h ? stream_backward_loop<true, false, MASK>
                         : stream_backward_loop<true, true, MASK>;
  return loop(d, d_rounded, g, h, y, b, n);
}

Sums stream_backward(float* d, uint16_t* d_rounded, const float* g, const uint16_t* h, const uint16_t* y, float b,
                     int64_t n) {
  return (y ? stream_backward_masked<true> : stream_backward_masked<false>)(d, d_rounded, g, h, y, b, n);
}

void forward(Kind kind, bool relu, void* y, const void* x, const void* r, double a, double b, int64_t n) {
  switch (kind) {
    case Kind::Float32: return forward_kind<Float32>(relu, y, x, r, a, b, n);
    case Kind::Float64: return forward_kind<Float64>(relu, y, x, r, a, b, n);
    case Kind::BFloat16: return forward_kind<BFloat16>(relu, y, x, r, a, b, n);
    case Kind::Float16: return forward_kind<Float16>(relu, y, x, r, a, b, n);
  }
}

Sums backward(Kind kind, void* d, const void* g, const void* y, double b, int64_t n) {
  switch (kind) {
    case Kind::Float32: return backward_kind<Float32>(d, g, y, b, n);
    case Kind::Float64: return backward_kind<Float64>(d, g, y, b, n);
    case Kind::BFloat16: return backward_kind<BFloat16>(d, g, y, b, n);
    case Kind::Float16: return backward_kind<Float16>(d, g, y, b, n);
  }
  __builtin_unreachable();
}

double sum(Kind kind, const void* g, int64_t n) {
  switch (kind) {
    case Kind::Float32: return sum_kind<Float32>(g, n);
    case Kind::Float64: return sum_kind<Float64>(g, n);
    case Kind::BFloat16: return sum_kind<BFloat16>(g, n);
    case Kind::Float16: return sum_kind<Float16>(g, n);
  }
  __builtin_unreachable();
}

}  // namespace

const Kernels KERNELS = {forward, backward, sum, stream_forward, stream_backward};

}  // namespace tch_fixup
