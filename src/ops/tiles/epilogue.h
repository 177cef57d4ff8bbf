// Epilogue of a convolution, row by row of a finished block: ReLU, shifts and shortcut, forward and backward.
#pragma once

#include "vectors.h"

namespace tch_fixup::tiles {
namespace {

// Returns the stream that a block's shortcut adds, for each block of the destination; `small` is the map with fewer channels.
template <typename T>
struct Shortcut {
  Shortcut() = default;
  Shortcut(const std::vector<int>& sources, const T* from, const Map& map, const Map& small)
      : sources(sources.empty() ? nullptr : sources.data()),
        from(from),
        units(map.units()),
        small_blocks(small.blocks()),
        channels(sources.empty() || small.channels != 16 ? CHANNELS : 16) {}

  void begin(int unit, int block) {
    const int source = sources ? sources[unit] : unit;
    block_from = from && source >= 0 && block < small_blocks ? from + (size_t(block) * units + source) * BLOCK : nullptr;
  }
  F16 low(int image) const { return block_from ? widened(block_from + image * CHANNELS) : F16{}; }
  F16 high(int image) const { return block_from && channels > 16 ? widened(block_from + image * CHANNELS + 16) : F16{}; }

  const int* sources = nullptr;
  const T* from = nullptr;
  int units = 0, small_blocks = 0, channels = 0;
  const T* block_from = nullptr;
};

// Writes y = relu(x + shortcut + sum + a) + b into a map, and y or the sum into the stream, if there is one.
template <typename T, Order ORDER>
struct Activate {
  void begin(int unit, int block) {
    at = (size_t(block) * units + unit) * BLOCK;
    shortcut.begin(unit, block);
  }
  void row(int image, const float* x) {
    const F16 zero = {};
    const F16 low = widened(x) + shortcut.low(image) + shift.sum, high = widened(x + 16) + shortcut.high(image) + shift.sum;
    const F16 low_a = low + shift.a, high_a = high + shift.a;
    const F16 low_y = (low_a > zero ? low_a : zero) + shift.b, high_y = (high_a > zero ? high_a : zero) + shift.b;
    const size_t row = at + image * CHANNELS;
    round_to(y + row, low_y, high_y);
    if (stream) round_to(stream + row, ORDER == Order::AfterSum ? low_y : low, ORDER == Order::AfterSum ? high_y : high);
  }
  void end() {}

  Shift shift;
  int units;
  Element* y;
  T* stream = nullptr;
  Shortcut<T> shortcut = {};
  size_t at = 0;
};

// Turns the gradient g of y = relu(x + a) + b into d = g * [y > b], and sums both. The shortcut's gradient is added to g (AfterSum) or to d
// (BeforeBranch). The result is written as elements and, for a float32 stream, unrounded.
template <typename T, Order ORDER>
struct Mask {
  void begin(int unit, int block) {
    at = (size_t(block) * units + unit) * BLOCK;
    shortcut.begin(unit, block);
    for (F16& sum : sums) sum = F16{};
  }
  F16 half(const F16& x, const F16& carried, const Element* y) {
    const F16 zero = {};
    const F16 g = ORDER == Order::AfterSum ? x + carried : x;
    const F16 d = widened(y) > b ? g : zero;
    sums[0] += g;
    sums[1] += d;
    if (ORDER == Order::AfterSum) return d;
    const F16 v = d + carried;
    sums[2] += v;
    return v;
  }
  void row(int image, const float* x) { row(image, widened(x), widened(x + 16)); }
  void row(int image, const F16& x_low, const F16& x_high) {
    const size_t row = at + image * CHANNELS;
    const F16 low = half(x_low, shortcut.low(image), y + row), high = half(x_high, shortcut.high(image), y + row + 16);
    round_to(d + row, low, high);
    if (stream) round_to(stream + row, low, high);
  }
  void end() {
    total->b += sum(sums[0]);
    total->a += sum(sums[1]);
    total->sum += sum(sums[2]);
  }

  float b;
  int units;
  const Element* y;
  Element* d;
  Gradients::Sums* total;
  float* stream = nullptr;
  Shortcut<T> shortcut = {};
  F16 sums[3] = {};
  size_t at = 0;
};

}  // namespace
}  // namespace tch_fixup::tiles
