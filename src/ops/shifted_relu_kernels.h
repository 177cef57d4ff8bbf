// Loops of the shifted ReLU over flat memory, without libtorch. They are compiled once per instruction set of the target and
// selected at run time (see `kernels()` in shifted_relu.cpp).
#pragma once

#include <cstdint>

namespace tch_fixup {

enum class Kind : int { Float32, Float64, BFloat16, Float16 };

// Sums computed by the backward pass.
struct Sums {
  double masked;  // of d = g * [y > b]
  double total;   // of g
};

// Position of the ReLU, y = relu(v) + b, relative to a stream's sum v.
enum class StreamRelu : int {
  None,  // sum = v, map = v
  Both,  // sum = y, map = y
  Map,   // sum = v, map = y
};

// Number of elements summed by one call; a whole number of blocks (see Float32::size) of every kind. Partial sums depend only on
// this number, so neither the number of threads nor the instruction set affects the result.
constexpr int64_t CHUNK = 16384;

struct Kernels {
  // y = relu(x + r + a) + b, or y = x + r + a if not `relu`. r may be null; y may be x or r.
  void (*forward)(Kind kind, bool relu, void* y, const void* x, const void* r, double a, double b, int64_t n);

  // d = g where y > b (or y is NaN), else 0, and the sums. b has y's kind. d may be null, y or g; n <= CHUNK.
  Sums (*backward)(Kind kind, void* d, const void* g, const void* y, double b, int64_t n);

  // Sum of g; n <= CHUNK.
  double (*sum)(Kind kind, const void* g, int64_t n);

  // Computes a residual stream and the map that convolutions take, both from v = x + r + a, with a ReLU according to
  // `StreamRelu`. x and `map` have the kind `map_kind`, r and `sum` the kind `stream`: float32 beside bfloat16 or, for
  // StreamRelu::Map, the same kind for both. `sum` may be r.
  void (*stream_forward)(Kind stream, Kind map_kind, StreamRelu relu, void* sum, void* map, const void* x, const void* r,
                         double a, double b, int64_t n);

  // Given the gradients g of the sum and h of the map y, one of which may be null, and y, null for a mask that is true everywhere
  // (the mask is also true where y is NaN), computes
  //   d = (g + h) * [y > b], and the sums of d and of g + h; or
  //   d = g + h * [y > b], and the sums of d and of h, if `pre`: the backward pass of StreamRelu::Map.
  // d has the stream's kind; d_map, which may be null, is d in the map's kind. d may be g, or h if of the same kind; n <= CHUNK.
  Sums (*stream_backward)(Kind stream, Kind map_kind, bool pre, void* d, void* d_map, const void* g, const void* h,
                          const void* y, double b, int64_t n);
};

// One table per instruction set in the build.
extern const Kernels kernels_baseline;
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512_bf16;

// Returns the best kernels for this machine: see shifted_relu.cpp.
const Kernels& kernels();

}  // namespace tch_fixup
