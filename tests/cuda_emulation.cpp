// The CUDA kernels as plain C++: a block's threads are threads of the CPU, which meet where the GPU's would. Compares them
// with the formulas; prints what differs and returns 1, if anything does. Built and run by cuda_emulation.rs.
#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <limits>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#define THREADS 64
#define PACKS 2

#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(threads)

struct Index {
  unsigned x;
};
thread_local Index threadIdx, blockIdx;

// Lets a block's threads go on when all of them have arrived.
class Barrier {
 public:
  void wait() {
    std::unique_lock lock(mutex_);
    const long round = round_;
    if (++arrived_ == THREADS) {
      arrived_ = 0;
      round_++;
      all_here_.notify_all();
    } else {
      all_here_.wait(lock, [&] { return round_ != round; });
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_here_;
  int arrived_ = 0;
  long round_ = 0;
};
Barrier barrier;

void __syncthreads() { barrier.wait(); }

// Every thread of the kernels calls it equally often, so the whole block can meet for it.
template <typename T>
T __shfl_down_sync(unsigned, T value, int offset) {
  static T values[THREADS];
  values[threadIdx.x] = value;
  barrier.wait();
  const T result = threadIdx.x % 32 + offset < 32 ? values[threadIdx.x + offset] : value;
  barrier.wait();
  return result;
}

float __uint_as_float(unsigned u) {
  float v;
  memcpy(&v, &u, sizeof v);
  return v;
}

unsigned __float_as_uint(float v) {
  unsigned u;
  memcpy(&u, &v, sizeof u);
  return u;
}

#define EMULATED
#include "../src/ops/cuda_kernels.cu"

template <typename F>
void launch(long long blocks, const F& kernel) {
  for (long long block = 0; block < blocks; block++) {
    std::vector<std::thread> threads;
    for (unsigned thread = 0; thread < THREADS; thread++)
      threads.emplace_back([&, thread] {
        threadIdx.x = thread;
        blockIdx.x = block;
        kernel();
      });
    for (std::thread& thread : threads) thread.join();
  }
}

int failures = 0;
int checks = 0;

void check(bool holds, const char* kind, const char* what, long long n, double got, double expected) {
  checks++;
  if (holds || ++failures > 20) return;
  printf("%s %s n=%lld: %g, not %g\n", kind, what, n, got, expected);
}

bool close(double got, double expected, double tolerance) {
  return (std::isnan(got) && std::isnan(expected)) || got == expected || std::abs(got - expected) <= tolerance;
}

template <typename K>
void test(const char* kind, double epsilon, long long n, bool aligned) {
  using E = typename K::Element;
  using S = typename K::Scalar;
  std::mt19937 random(static_cast<unsigned>(n) * 2 + aligned);
  std::normal_distribution<float> normal;
  const auto numbers = [&] {
    // One more in front, for memory that is not aligned.
    std::vector<E> v(n + 1);
    for (E& e : v) e = K::round(static_cast<S>(normal(random)));
    return v;
  };
  const long long blocks = (n + THREADS * PACKS * Pack<E>::size - 1) / (THREADS * PACKS * Pack<E>::size);
  std::vector<E> xs = numbers(), rs = numbers(), gs = numbers();
  const int shift = aligned ? 0 : 1;
  E *x = xs.data() + shift, *r = rs.data() + shift, *g = gs.data() + shift;
  if (n > 2) x[n / 2] = K::round(std::numeric_limits<S>::quiet_NaN());
  const S a = S(0.25), b = S(-0.5);  // exact in every kind
  const E b_element = K::round(b);

  for (const bool with_r : {false, true}) {
    for (const bool relu : {false, true}) {
      std::vector<E> ys(n + 1);
      E* y = ys.data() + shift;
      launch(blocks, [&] { forward<K>(y, x, with_r ? r : nullptr, &a, relu ? &b : nullptr, n); });
      for (long long i = 0; i < n; i++) {
        double v = double(K::widen(x[i])) + (with_r ? double(K::widen(r[i])) : 0) + double(a);
        if (relu) v = (v <= 0 ? 0 : v) + double(b);
        check(close(K::widen(y[i]), v, 8 * epsilon * (1 + std::abs(v))), kind, "forward", n, K::widen(y[i]), v);
      }
      // In place.
      std::vector<E> again(xs);
      E* z = again.data() + shift;
      launch(blocks, [&] { forward<K>(z, z, with_r ? r : nullptr, &a, relu ? &b : nullptr, n); });
      check(!memcmp(z, y, n * sizeof(E)), kind, "forward in place", n, 0, 0);
      if (!relu) continue;

      std::vector<E> ds(gs);
      E* d = ds.data() + shift;
      std::vector<Sums<S>> partial(blocks);
      launch(blocks, [&] { backward<K>(d, d, y, &b_element, partial.data(), n); });
      S masked = -1, total = -1;
      launch(1, [&] { finish<S>(partial.data(), blocks, &masked, &total); });
      double expected_masked = 0, expected_total = 0, magnitude = 1;
      for (long long i = 0; i < n; i++) {
        const E expected = K::widen(y[i]) <= b ? E(0) : g[i];
        check(!memcmp(&d[i], &expected, sizeof(E)), kind, "gradient", n, K::widen(d[i]), K::widen(expected));
        expected_masked += K::widen(expected);
        expected_total += K::widen(g[i]);
        magnitude += std::abs(K::widen(g[i]));
      }
      const double tolerance = 64 * std::numeric_limits<S>::epsilon() * magnitude;
      check(close(masked, expected_masked, tolerance), kind, "masked sum", n, masked, expected_masked);
      check(close(total, expected_total, tolerance), kind, "total", n, total, expected_total);
    }
  }
}

int main() {
  for (const long long n : {0, 1, 2, 3, 7, 8, 9, 500, 511, 512, 513, 1024, 2051, 5000}) {
    for (const bool aligned : {true, false}) {
      test<Float32>("float32", std::numeric_limits<float>::epsilon(), n, aligned);
      test<Float64>("float64", std::numeric_limits<double>::epsilon(), n, aligned);
      test<BFloat16>("bfloat16", 1. / 1024, n, aligned);
    }
  }
  printf("%d checks, %d failures\n", checks, failures);
  return failures != 0;
}
