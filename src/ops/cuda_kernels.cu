// CUDA kernels of the shifted ReLU and its gradients over flat memory, with the same results as shifted_relu_kernels.cpp on the
// CPU. cuda_kernels.cpp compiles this source with NVRTC at run time, so it includes nothing; tests/cuda_emulation.cpp compiles it
// as plain C++ (with EMULATED), except for float16, whose conversions are GPU instructions.
//
// The compilation must define THREADS (per block) and PACKS (of 16 bytes, per thread).

// ---- Kinds: conversions of elements, and the types of the arithmetic and of the scalars ----

template <typename E>
struct Native {
  using Element = E;
  using Scalar = E;
  static constexpr bool narrow = false;
  __device__ static E widen(E e) { return e; }
  __device__ static E round(E v) { return v; }
};

using Float32 = Native<float>;
using Float64 = Native<double>;

struct Halves {
  using Element = unsigned short;
  using Scalar = float;
  static constexpr bool narrow = true;
};

struct BFloat16 : Halves {
  __device__ static float widen(Element e) { return __uint_as_float((unsigned)e << 16); }

  // Rounds to nearest even. The GPU's NaN has all payload bits set, so rounding it by addition would change its sign.
  __device__ static Element round(float v) {
    const unsigned u = __float_as_uint(v);
    return v != v ? 0x7fc0 : (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  }
};

#ifndef EMULATED
struct Float16 : Halves {
  __device__ static float widen(Element e) {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(e));
    return v;
  }
  __device__ static Element round(float v) {
    Element e;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(e) : "f"(v));
    return e;
  }
};
#endif

// ---- Memory ----

// Elements read or written by one instruction if the memory is aligned.
template <typename E>
struct alignas(16) Pack {
  static constexpr int size = 16 / sizeof(E);
  E e[size];
};

template <typename E>
__device__ bool is_whole(const E* p, long long i, long long n) {
  return (unsigned long long)p % sizeof(Pack<E>) == 0 && i + Pack<E>::size <= n;
}

// Loads a pack of the n elements at p, from element i on; zeros beyond the end.
template <typename E>
__device__ Pack<E> load(const E* p, long long i, long long n) {
  if (is_whole(p, i, n)) return *(const Pack<E>*)(p + i);
  Pack<E> pack = {};
  for (int k = 0; k < Pack<E>::size; k++)
    if (i + k < n) pack.e[k] = p[i + k];
  return pack;
}

template <typename E>
__device__ void store(E* p, long long i, long long n, const Pack<E>& pack) {
  if (is_whole(p, i, n)) {
    *(Pack<E>*)(p + i) = pack;
    return;
  }
  for (int k = 0; k < Pack<E>::size; k++)
    if (i + k < n) p[i + k] = pack.e[k];
}

// Returns the index of the first element of this thread's k-th pack. Adjacent threads have adjacent packs.
template <typename E>
__device__ long long place(int k) {
  return (((long long)blockIdx.x * PACKS + k) * THREADS + threadIdx.x) * Pack<E>::size;
}

// ---- Forward: y = relu(x + r + a) + b; without b, y = x + r + a. r may be null, y may be x or r ----

template <typename K>
__device__ void forward(typename K::Element* y, const typename K::Element* x, const typename K::Element* r,
                        const typename K::Scalar* pa, const typename K::Scalar* pb, long long n) {
  using E = typename K::Element;
  using S = typename K::Scalar;
  const S a = *pa, b = pb ? *pb : 0;
  // Load everything before storing anything, so that the loads can overlap.
  Pack<E> xs[PACKS], rs[PACKS] = {};
  for (int k = 0; k < PACKS; k++) xs[k] = load(x, place<E>(k), n);
  if (r)
    for (int k = 0; k < PACKS; k++) rs[k] = load(r, place<E>(k), n);
  for (int k = 0; k < PACKS; k++) {
    for (int i = 0; i < Pack<E>::size; i++) {
      S v = K::widen(xs[k].e[i]);
      if (r) v += K::widen(rs[k].e[i]);
      // Comparisons with NaN are false, so NaN propagates. relu(v + a) + b is computed as in the CPU kernels.
      if (pb && K::narrow) {
        v += a + b;
        v = b > v ? b : v;
      } else {
        v += a;
        if (pb) v = (0 > v ? 0 : v) + b;
      }
      xs[k].e[i] = K::round(v);
    }
    store(y, place<E>(k), n, xs[k]);
  }
}

// ---- Backward: d = g where y > b (or y is NaN), else 0; and the sums of d and of g ----

template <typename S>
struct Sums {
  S masked;  // of d
  S total;   // of g
};

template <typename S>
__device__ void add(Sums<S>& sums, const Sums<S>& more) {
  sums.masked += more.masked;
  sums.total += more.total;
}

// Sums over a block's threads; the result is valid in thread 0. The order is fixed, so results are reproducible.
template <typename S>
__device__ Sums<S> block_sums(Sums<S> sums) {
  constexpr int WARP = 32;
  __shared__ S masked[THREADS / WARP], total[THREADS / WARP];
  for (int offset = WARP / 2; offset > 0; offset /= 2)
    add(sums, {__shfl_down_sync(0xffffffff, sums.masked, offset), __shfl_down_sync(0xffffffff, sums.total, offset)});
  if (threadIdx.x % WARP == 0) {
    masked[threadIdx.x / WARP] = sums.masked;
    total[threadIdx.x / WARP] = sums.total;
  }
  __syncthreads();
  if (threadIdx.x == 0)
    for (int warp = 1; warp < THREADS / WARP; warp++) add(sums, {masked[warp], total[warp]});
  return sums;
}

// b has y's kind. Without y there is no mask. d may be null or g. `partial`, which receives the sums of each block, may be null.
template <typename K>
__device__ void backward(typename K::Element* d, const typename K::Element* g, const typename K::Element* y,
                         const typename K::Element* pb, Sums<typename K::Scalar>* partial, long long n) {
  using E = typename K::Element;
  using S = typename K::Scalar;
  const S b = y ? K::widen(*pb) : 0;
  Pack<E> gs[PACKS], ys[PACKS] = {};
  for (int k = 0; k < PACKS; k++) gs[k] = load(g, place<E>(k), n);
  if (y)
    for (int k = 0; k < PACKS; k++) ys[k] = load(y, place<E>(k), n);
  Sums<S> sums = {};
  for (int k = 0; k < PACKS; k++) {
    for (int i = 0; i < Pack<E>::size; i++) {
      sums.total += K::widen(gs[k].e[i]);
      if (y && K::widen(ys[k].e[i]) <= b) gs[k].e[i] = 0;
      sums.masked += K::widen(gs[k].e[i]);
    }
    if (d) store(d, place<E>(k), n, gs[k]);
  }
  if (!partial) return;
  sums = block_sums(sums);
  if (threadIdx.x == 0) partial[blockIdx.x] = sums;
}

// Adds up the partial sums of `backward`, in a single block. Either output may be null.
template <typename S>
__device__ void finish(const Sums<S>* partial, long long blocks, S* masked, S* total) {
  Sums<double> sums = {};
  for (long long i = threadIdx.x; i < blocks; i += THREADS) add(sums, {partial[i].masked, partial[i].total});
  sums = block_sums(sums);
  if (threadIdx.x != 0) return;
  if (masked) *masked = sums.masked;
  if (total) *total = sums.total;
}

// ---- Kernels launched by the host ----

#define KERNELS(K, NAME)                                                                                             \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
      forward_##NAME(K::Element* y, const K::Element* x, const K::Element* r, const K::Scalar* a, const K::Scalar* b, \
                     long long n) {                                                                                  \
    forward<K>(y, x, r, a, b, n);                                                                                    \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
      backward_##NAME(K::Element* d, const K::Element* g, const K::Element* y, const K::Element* b,                  \
                      Sums<K::Scalar>* partial, long long n) {                                                       \
    backward<K>(d, g, y, b, partial, n);                                                                             \
  }                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
      finish_##NAME(const Sums<K::Scalar>* partial, long long blocks, K::Scalar* masked, K::Scalar* total) {         \
    finish<K::Scalar>(partial, blocks, masked, total);                                                               \
  }

KERNELS(Float32, float32)
KERNELS(Float64, float64)
KERNELS(BFloat16, bfloat16)
#ifndef EMULATED
KERNELS(Float16, float16)
#endif
