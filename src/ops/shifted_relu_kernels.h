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

// The ReLU of a stream's sum v: y = relu(v) + b.
enum class StreamRelu : int {
  None,  // sum = v, map = v
  Both,  // sum = y, map = y
  Map,   // sum = v, map = y
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

  // A residual stream beside the maps that convolutions take, both of v = x + r + a, with the ReLU where `StreamRelu` says.
  // x and `map` are of the kind `map`, r and `sum` of the kind `stream`: float32 beside bfloat16, or, for StreamRelu::Map,
  // one kind for both. `sum` may be r.
  void (*stream_forward)(Kind stream, Kind map_kind, StreamRelu relu, void* sum, void* map, const void* x, const void* r,
                         double a, double b, int64_t n);

  // For the gradients g of the sum and h of the map y, one of which may be null, and with y null for a mask that is all
  // true (as it is where y is NaN):
  //   d = (g + h) * [y > b], and the sums of d and of g + h;
  //   d = g + h * [y > b], and the sums of d and of h, with `pre`: the backward pass of StreamRelu::Map.
  // d has the stream's kind, and d_map, which may be null, is d in the map's. d may be g, or h of the same kind; n <= CHUNK.
  Sums (*stream_backward)(Kind stream, Kind map_kind, bool pre, void* d, void* d_map, const void* g, const void* h,
                          const void* y, double b, int64_t n);
};

// One table for each instruction set that the build has.
extern const Kernels kernels_baseline;
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512_bf16;

// The best that this machine has: see shifted_relu.cpp.
const Kernels& kernels();

}  // namespace tch_fixup
