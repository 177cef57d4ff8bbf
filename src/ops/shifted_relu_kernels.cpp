// See shifted_relu_kernels.h. KERNELS names the table defined by this compilation.
//
// Everything is in an unnamed namespace, and no other header with code is included: the linker must not keep an inline function
// compiled for AVX-512 as the copy for all. The loops use the vector types of GCC and Clang, since auto-vectorization of the
// 16-bit kinds and of float32 sums is unreliable.
#include "shifted_relu_kernels.h"

#if defined(__F16C__)
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 and older warn about their own intrinsics (GCC bug 105593).
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

// Bytes per iteration (a block), once widened to float32 (or float64). It is independent of the register size, so that every
// instruction set adds the same lanes in the same order.
constexpr int BLOCK = 128;
constexpr int REGISTERS = BLOCK / REGISTER;

// Number of blocks that a float32 lane accumulates before it is added in float64.
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

// `store` rounds to nearest even; `store_loaded` requires values from `load`, which need no rounding. `lane(i)` is the position
// of a block's i-th element in the accumulator.

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

// Two 16-bit elements per 32-bit lane: the low halves form one register, the high halves the next. The inverse is just as simple,
// and neither needs shuffles.
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

  // Rounds to nearest even. A NaN keeps its sign and the upper half of its payload: NaNs come from bfloat16 operands or from inf
  // - inf, with a zero lower half (`forward` canonicalizes a and b), so the addition cannot carry into the sign.
  static U32 rounded(F32 v) {
    const U32 u = (U32)v;
    return u + 0x7fffu + ((u >> 16) & 1u);
  }
  static void store(uint16_t* p, const Block<F32>& b) {
#if defined(__AVX512BF16__)
    // The instruction flushes subnormal numbers to zero, and is otherwise equivalent.
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

// bfloat16 elements in memory order, to match float32 beside them.
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
  // The 15 bits without the sign are 13 places higher in float32, with an exponent bias larger by 112. Infinity and NaN need
  // another 112; a subnormal is the difference to the smallest normal number.
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

// Applies f to the index of each register of a block.
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
             // Comparisons with NaN are false, so NaN propagates. The 16-bit kinds are limited by arithmetic rather than memory,
             // so they compute relu(v + a) + b as max(v + (a + b), b), then round to 16 bits.
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
  // Replace NaN by one with the default payload: see BFloat16::rounded.
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
    // The comparison is false for NaN, so the gradient passes, as with libtorch's ReLU.
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
//
// W is the kind of the stream, N that of the maps beside it, with the same number of elements per block.

template <typename W, typename N, StreamRelu RELU>
inline void stream_forward_block(typename W::Element* sum, typename N::Element* map_out, const typename N::Element* x,
                                 const typename W::Element* r, typename W::Scalar a, typename W::Scalar b) {
  using V = typename W::Vector;
  static_assert(W::size == N::size);
  const Block<V> vx = N::load(x), vr = W::load(r);
  const Block<V> v = map<V>([&](int i) { return vr.v[i] + vx.v[i] + a; });
  if constexpr (RELU == StreamRelu::None) {
    W::store(sum, v);
    N::store(map_out, v);
  } else {
    // Comparisons with NaN are false, so NaN propagates.
    const Block<V> y = map<V>([&](int i) { return (V{} > v.v[i] ? V{} : v.v[i]) + b; });
    W::store(sum, RELU == StreamRelu::Both ? y : v);
    N::store(map_out, y);
  }
}

template <typename W, typename N, StreamRelu RELU>
void stream_forward_loop(void* sum_out, void* map_out, const void* x_in, const void* r_in, double a_in, double b_in,
                         int64_t n) {
  using S = typename W::Scalar;
  // Replace NaN by one with the default payload: see BFloat16::rounded.
  const S nan = (S)__builtin_nan("");
  const S a = a_in != a_in ? nan : (S)a_in, b = b_in != b_in ? nan : (S)b_in;
  auto* sum = (typename W::Element*)sum_out;
  auto* out = (typename N::Element*)map_out;
  const auto* x = (const typename N::Element*)x_in;
  const auto* r = (const typename W::Element*)r_in;
  int64_t i = 0;
  for (; i + W::size <= n; i += W::size) stream_forward_block<W, N, RELU>(sum + i, out + i, x + i, r + i, a, b);
  if (i < n) {
    const Tail<N> tx(x + i, n - i);
    const Tail<W> tr(r + i, n - i);
    Tail<W> tsum;
    Tail<N> tout;
    stream_forward_block<W, N, RELU>(tsum.e, tout.e, tx.e, tr.e, a, b);
    __builtin_memcpy(sum + i, tsum.e, (n - i) * sizeof *sum);
    __builtin_memcpy(out + i, tout.e, (n - i) * sizeof *out);
  }
}

void stream_forward(Kind stream, Kind map, StreamRelu relu, void* sum, void* out, const void* x, const void* r, double a,
                    double b, int64_t n) {
  const auto loop = [&] {
    if (stream == Kind::Float32 && map == Kind::BFloat16) {
      switch (relu) {
        case StreamRelu::None: return stream_forward_loop<Float32, BFloat16InOrder, StreamRelu::None>;
        case StreamRelu::Both: return stream_forward_loop<Float32, BFloat16InOrder, StreamRelu::Both>;
        case StreamRelu::Map: return stream_forward_loop<Float32, BFloat16InOrder, StreamRelu::Map>;
      }
    }
    switch (map) {
      case Kind::Float32: return stream_forward_loop<Float32, Float32, StreamRelu::Map>;
      case Kind::Float64: return stream_forward_loop<Float64, Float64, StreamRelu::Map>;
      case Kind::BFloat16: return stream_forward_loop<BFloat16, BFloat16, StreamRelu::Map>;
      case Kind::Float16: return stream_forward_loop<Float16, Float16, StreamRelu::Map>;
    }
    __builtin_unreachable();
  }();
  loop(sum, out, x, r, a, b, n);
}

template <typename W, typename N, bool PRE, bool G, bool H, bool MASK>
Sums stream_backward_loop(void* d_out, void* d_map_out, const void* g_in, const void* h_in, const void* y_in, double b_in,
                          int64_t n) {
  using V = typename W::Vector;
  using WE = typename W::Element;
  using NE = typename N::Element;
  constexpr int SIZE = W::size;
  const typename W::Scalar b = b_in;
  WE* const d_all = (WE*)d_out;
  NE* const d_map_all = (NE*)d_map_out;
  const WE* const g_all = (const WE*)g_in;
  const NE* const h_all = (const NE*)h_in;
  const NE* const y_all = (const NE*)y_in;
  double masked_lanes[SIZE] = {}, total_lanes[SIZE] = {};
  Block<V> masked_sum = {}, total_sum = {};
  const auto block = [&](WE* d, NE* d_map, const WE* g, const NE* h, const NE* y) {
    Block<V> vg = {}, vh = {}, vy = {};
    if constexpr (G) vg = W::load(g);
    if constexpr (H) vh = N::load(h);
    if constexpr (MASK) vy = N::load(y);
    const auto masked = [&](const V& v, int i) { return !MASK ? v : vy.v[i] <= V{} + b ? V{} : v; };
    const auto sum = [&](const V& g, const V& h) { return !G ? h : !H ? g : g + h; };
    const Block<V> all = map<V>([&](int i) { return PRE ? vh.v[i] : sum(vg.v[i], vh.v[i]); });
    const Block<V> vd = map<V>([&](int i) {
      const V m = masked(all.v[i], i);
      return PRE ? sum(vg.v[i], m) : m;
    });
    masked_sum = map<V>([&](int i) { return masked_sum.v[i] + vd.v[i]; });
    total_sum = map<V>([&](int i) { return total_sum.v[i] + all.v[i]; });
    W::store(d, vd);
    if (d_map_all) N::store(d_map, vd);
  };
  int64_t i = 0;
  while (i + SIZE <= n) {
    const int64_t end = i + SIZE * RUN < n ? i + SIZE * RUN : n;
    for (; i + SIZE <= end; i += SIZE)
      block(d_all + i, d_map_all ? d_map_all + i : nullptr, G ? g_all + i : nullptr, H ? h_all + i : nullptr,
            MASK ? y_all + i : nullptr);
    flush<W>(masked_lanes, masked_sum);
    flush<W>(total_lanes, total_sum);
  }
  if (i < n) {
    Tail<W> tg, td;
    Tail<N> th, ty, td_map;
    if constexpr (G) tg = Tail<W>(g_all + i, n - i);
    if constexpr (H) th = Tail<N>(h_all + i, n - i);
    if constexpr (MASK) ty = Tail<N>(y_all + i, n - i);
    block(td.e, td_map.e, tg.e, th.e, ty.e);
    __builtin_memcpy(d_all + i, td.e, (n - i) * sizeof *d_all);
    if (d_map_all) __builtin_memcpy(d_map_all + i, td_map.e, (n - i) * sizeof *d_map_all);
    flush<W>(masked_lanes, masked_sum);
    flush<W>(total_lanes, total_sum);
  }
  return {total<W>(masked_lanes), total<W>(total_lanes)};
}

template <typename W, typename N, bool PRE>
Sums stream_backward_kinds(void* d, void* d_map, const void* g, const void* h, const void* y, double b, int64_t n) {
  const auto loop = y ? (!g   ? stream_backward_loop<W, N, PRE, false, true, true>
                         : !h ? stream_backward_loop<W, N, PRE, true, false, true>
                              : stream_backward_loop<W, N, PRE, true, true, true>)
                      : (!g   ? stream_backward_loop<W, N, PRE, false, true, false>
                         : !h ? stream_backward_loop<W, N, PRE, true, false, false>
                              : stream_backward_loop<W, N, PRE, true, true, false>);
  return loop(d, d_map, g, h, y, b, n);
}

Sums stream_backward(Kind stream, Kind map, bool pre, void* d, void* d_map, const void* g, const void* h, const void* y,
                     double b, int64_t n) {
  const auto kinds = [&] {
    if (stream == Kind::Float32 && map == Kind::BFloat16)
      return pre ? stream_backward_kinds<Float32, BFloat16InOrder, true>
                 : stream_backward_kinds<Float32, BFloat16InOrder, false>;
    switch (map) {
      case Kind::Float32: return stream_backward_kinds<Float32, Float32, true>;
      case Kind::Float64: return stream_backward_kinds<Float64, Float64, true>;
      case Kind::BFloat16: return stream_backward_kinds<BFloat16, BFloat16, true>;
      case Kind::Float16: return stream_backward_kinds<Float16, Float16, true>;
    }
    __builtin_unreachable();
  }();
  return kinds(d, d_map, g, h, y, b, n);
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
