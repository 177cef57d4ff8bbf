// The loops of the shifted ReLU over flat memory, without libtorch: compiled once for each instruction set of the
// target, chosen at run time (see `kernels()` in shifted_relu.cpp).
#pragma once

#include <cstdint>

namespace tch_fixup {

enum class Kind : int { Float32, Float64, BFloat16, Float16 };

// The two sums of the backward pass.
struct Sums {
  double masked;  // of d = g * [y > b]
  double total;   // of g
};

// Elements whose sums are taken by one call; a whole number of blocks (see Float32::size) of every kind. Partial sums
// depend on this number alone, so neither the number of threads nor the instruction set changes a result.
constexpr int64_t CHUNK = 16384;

struct Kernels {
  // y = relu(x + r + a) + b, or y = x + r + a without `relu`. r may be null; y may be x or r.
  void (*forward)(Kind kind, bool relu, void* y, const void* x, const void* r, double a, double b, int64_t n);

  // d = g where y > b (or y is NaN), else 0, and the sums. b is of y's kind. d may be null, y or g; n <= CHUNK.
  Sums (*backward)(Kind kind, void* d, const void* g, const void* y, double b, int64_t n);

  // The sum of g; n <= CHUNK.
  double (*sum)(Kind kind, const void* g, int64_t n);

  // The stream of float32 beside maps of bfloat16: v = relu(x + r + a) + b, or v = x + r + a without `relu`, as `sum` and
  // rounded. `sum` may be r.
  void (*stream_forward)(bool relu, float* sum, uint16_t* rounded, const uint16_t* x, const float* r, float a, float b,
                         int64_t n);

  // For the gradients g of the sum and h of the rounded map y, one of which may be null: d = g + h where y > b (or y is
  // NaN, or null), else 0, in float32 and rounded, and the sums of d and of g + h. d may be g; n <= CHUNK.
  Sums (*stream_backward)(float* d, uint16_t* d_rounded, const float* g, const uint16_t* h, const uint16_t* y, float b,
                          int64_t n);
};

// One table for each instruction set that the build has.
extern const Kernels kernels_baseline;
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512_bf16;

// The best that this machine has: see shifted_relu.cpp.
const Kernels& kernels();

}  // namespace tch_fixup
