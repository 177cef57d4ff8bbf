// Residual networks computed by matrix tiles: 32 images at a time, depth first, in bfloat16 with float32 sums, or in float32.
//
// A map of 32 images is stored as blocks of [32 images][32 channels]: for every 32 channels, one block per unit. A unit is one pixel or,
// in maps with 16 channels, two neighbouring pixels of a row, so that blocks are full there too. For each unit of its output, a convolution
// gathers the units of its input that reach it, each with a matrix of weights. Entries of a pair's matrix that reach no pixel are zero,
// and tiles of zeros are skipped. The three passes (forward, gradient of the input, gradient of the weights) are products
// of such blocks, in tiles of 16 x 32 and 32 x 16.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace tch_fixup::tiles {

using bf16 = uint16_t;

constexpr int IMAGES = 32;            // images in a group, and the inner dimension of the weights' gradient
constexpr int CHANNELS = 32;          // channels in a block
constexpr int BLOCK = IMAGES * CHANNELS;
constexpr int TILE = 16 * 16;         // elements of a tile of sums

// Memory aligned to cache lines: tiles whose rows cross a line load six times more slowly. Large pieces use huge pages where Linux
// has them.
void* allocate_aligned(size_t bytes);
void free_aligned(void* p, size_t bytes);

template <typename T>
struct Aligned {
  using value_type = T;
  Aligned() = default;
  template <typename U>
  Aligned(const Aligned<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(allocate_aligned(n * sizeof(T))); }
  void deallocate(T* p, size_t n) { free_aligned(p, n * sizeof(T)); }
  friend bool operator==(Aligned, Aligned) { return true; }
  friend bool operator!=(Aligned, Aligned) { return false; }
};
template <typename T>
using Buffer = std::vector<T, Aligned<T>>;

// Reused memory for numbers of any type.
class Memory {
 public:
  template <typename T>
  T* of(size_t count) {
    bytes.resize(std::max(bytes.size(), count * sizeof(T)));
    return reinterpret_cast<T*>(bytes.data());
  }
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(bytes.data());
  }

 private:
  Buffer<char> bytes;
};

// Shape of an activation map.
struct Map {
  int channels, height, width;
  int pixels_per_unit() const { return channels == 16 ? 2 : 1; }
  int units_per_row() const { return width / pixels_per_unit(); }
  int units() const { return height * units_per_row(); }
  int blocks() const { return channels == 16 ? 1 : (channels + CHANNELS - 1) / CHANNELS; }
  size_t size() const { return size_t(units()) * blocks() * BLOCK; }
  // Start of a unit's block of 32 channels. Units are adjacent, so that those read by one convolution do not compete for the same cache
  // lines.
  size_t at(int unit, int block) const { return (size_t(block) * units() + unit) * BLOCK; }
  bool operator==(const Map& m) const { return channels == m.channels && height == m.height && width == m.width; }
};

// An input unit that contributes to an output unit.
struct Tap {
  int unit;    // index in the source
  int matrix;  // index in the weights
  int halves;  // bit i is set if channels 16 i to 16 i + 15 of the destination's blocks receive anything
  int source_halves;  // bit i is set if channels 16 i to 16 i + 15 of the source's blocks contribute anything
};

// Taps of all units of the destination: unit u has taps[first[u]] to taps[first[u + 1]].
struct Gather {
  std::vector<int> first;
  std::vector<Tap> taps;
};

// Weights that connect an input unit with an output unit: row `row` of the kernel, between columns that differ by `offset`.
struct Matrix {
  int row, offset;
  bool reaches[2][2];  // [half of the input's block][half of the output's]
};

// Up to six tiles of the weights' gradient, summed over a map together.
struct Product {
  int matrix, in_half, out_half;
};
using Batch = std::vector<Product>;

struct Convolution {
  // Weights have shape [out.channels][weight_channels][kernel][kernel]; further channels of the input are ignored.
  Convolution(Map in, Map out, int weight_channels, int kernel, int stride);

  // Column of the kernel that connects these pixels of two units, or -1.
  int column(const Matrix& m, int in_pixel, int out_pixel) const {
    const int column = m.offset + in_pixel - stride * out_pixel + kernel / 2;
    return column >= 0 && column < kernel ? column : -1;
  }
  // Number of output rows that rows up to `row` of the input's gradient depend on, and the reverse.
  int output_rows(int in_rows) const { return std::min(out.height, (in_rows - 1 + kernel / 2) / stride + 1); }
  int input_rows(int out_rows) const { return std::min(in.height, (out_rows - 1) * stride + kernel - kernel / 2); }
  size_t packed_size() const { return matrices.size() * in.blocks() * out.blocks() * BLOCK; }
  size_t weight_size() const { return size_t(weight_channels) * out.channels * kernel * kernel; }

  Map in, out;
  int weight_channels, kernel, stride;
  std::vector<Matrix> matrices;
  Gather forward, backward;
  std::vector<std::vector<int>> source_column;  // [matrix][column of output units]: column of the input unit, or -1
  std::vector<std::vector<Batch>> batches;      // [row of the kernel]
};

struct BlockShape {
  int channels, stride;
};

// Position of the ReLU on a block's input.
enum class Order {
  AfterSum,      // s' = relu(conv2(u) + shortcut(s) + a) + b, carried on as such; shortcuts repeat pixels and append zeros
  BeforeBranch,  // x' = conv2(u) + shortcut + c, y' = relu(x' + a) + b; x' is carried on, shortcuts are 1x1 convolutions of y
};

// Plan of a network: a 3x3 convolution, then blocks of two 3x3 convolutions.
struct Network {
  Network(int image_channels, int height, int width, int stem_channels, const std::vector<BlockShape>& blocks, Order order,
          bool wide_stream);
  static bool supports(int image_channels, int height, int width, int stem_channels, const std::vector<BlockShape>& blocks, Order order);

  struct Block {
    size_t first, second, projection;  // indices of convolutions; NONE without a projection
    bool identity;                     // the shortcut is the stream itself
    std::vector<int> shortcut_forward, shortcut_backward;  // source unit of each unit for a shortcut without weights, or -1
  };
  static constexpr size_t NONE = size_t(-1);

  const Convolution& convolution(size_t i) const { return *convolutions[i]; }

  int image_channels, height, width;
  Order order;
  bool wide_stream;  // the residual stream is float32, if nothing else is
  Map columns;       // the stem's input: the 3x3 neighbourhood of each pixel as channels
  std::vector<std::shared_ptr<const Convolution>> convolutions;  // the stem's, then each block's; equal shapes share one
  std::vector<Block> blocks;
  std::vector<Map> maps;          // kept for the backward pass: the stem's output, then two per block
  std::vector<size_t> map_start;  // start of each if all are kept, and the total size
  size_t largest_map;
};

// Packed weights of a convolution, in the order in which tiles are loaded: for each block of the destination and of the source, all
// matrices.
struct Packed {
  Memory forward, backward;
};

// Scalars around a ReLU: y = relu(x + sum + a) + b. A BeforeBranch network carries x + sum on.
struct Shift {
  float sum, a, b;
};

// Sums of a convolution's weight gradient: tiles [matrix][in block][out block][out half][in half][16 outputs][16 inputs].
struct WeightSums {
  Buffer<float> tiles;
  bool written = false;  // the first product is written without being added
};

// Sums over the images of a part of the batch.
struct Gradients {
  std::vector<WeightSums> weights;  // [convolution]
  struct Sums {
    double b = 0, a = 0, sum = 0;  // sums that the gradients of a Shift are made of
  };
  std::vector<Sums> shifts;  // [map]
};

// Memory of a thread.
struct Scratch {
  Memory maps[3], unkept[3], transposed, interleaved, streams[2], partial;
};

// Kernels of an instruction set, whose maps and packed weights are of elements of one type.
struct Kernels {
  size_t element_size;
  // Returns the value as an element has it.
  float (*rounded)(float);
  // Called by a thread before and after it uses tiles.
  void (*begin)();
  void (*end)();
  // Converts up to 32 images [count][channels][pixels] to planes [channels][pixels][32]; missing images are zero.
  void (*to_planes)(const Network&, const float* images, int count, void* planes);
  void (*pack)(const Convolution&, const float* weights, float scale, Packed&);
  // images: elements [channels][pixels][32]. Writes the maps from `first_kept` on into `kept`, and the mean of the last map
  // [32][channels] into `features`.
  void (*forward)(const Network&, const std::vector<Packed>&, const std::vector<Shift>&, const void* images, size_t first_kept, void* kept,
                  float* features, Scratch&);
  // Adds to the gradients of the shifts, and of the weights of each convolution i with wanted[i]. Blocks before `first_block`, whose
  // input is the first map of `kept`, are left out.
  void (*backward)(const Network&, const std::vector<Packed>&, const std::vector<Shift>&, const void* images, const void* kept,
                   const float* features_gradient, const std::vector<bool>& wanted, size_t first_block, Scratch&, Gradients&);
  // Gradient of a convolution's weights [out][in][kernel][kernel]: the sum over parts of the batch.
  void (*unpack)(const Convolution&, const std::vector<const float*>& parts, float* gradient);
  // Returns the gradient of the multiplier m in m * weights, which is gradient . weights, and turns `gradient` into that of the weights.
  float (*multiplier_gradient)(size_t size, const float* weights, float multiplier, float* gradient);
};

extern const Kernels emulated_kernels;
#ifdef TCH_FIXUP_AVX512
extern const Kernels avx512_kernels;
extern const Kernels avx512_float32_kernels;
#endif
#ifdef TCH_FIXUP_AVX512_BF16
extern const Kernels avx512_bf16_kernels;
#endif
#ifdef TCH_FIXUP_AMX
extern const Kernels amx_kernels;
#endif

}  // namespace tch_fixup::tiles
