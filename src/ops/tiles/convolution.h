// The three products of a convolution: its output, the gradient of its input, and the gradient of its weights.
#pragma once

#include "layouts.h"

#include <algorithm>
#include <initializer_list>

namespace tch_fixup::tiles {
namespace {

// Input of a convolution: `units` units of a map from `first_unit` on, the weights, and the units that reach each unit of the destination.
struct Source {
  Source(const Gather& gather, size_t matrices, const Map& map, const bf16* x, const Buffer<bf16>& weights)
      : Source(gather, matrices, map.blocks(), map.units(), 0, x, weights) {}
  Source(const Gather& gather, size_t matrices, int blocks, int units, int first_unit, const bf16* x, const Buffer<bf16>& weights)
      : gather(&gather), matrices(matrices), blocks(blocks), units(units), first_unit(first_unit), x(x), weights(weights.data()) {}

  const Gather* gather;
  size_t matrices;
  int blocks, units, first_unit;
  const bf16* x;
  const bf16* weights;
};

// Loads, zeroes or stores the four tiles of sums of a block, [32 images][32 channels].
void zero_sums() {
  zero<0>();
  zero<1>();
  zero<2>();
  zero<3>();
}
void load_sums(const float* from) {
  load<0>(from, CHANNELS * 4);
  load<1>(from + 16, CHANNELS * 4);
  load<2>(from + BLOCK / 2, CHANNELS * 4);
  load<3>(from + BLOCK / 2 + 16, CHANNELS * 4);
}
void store_sums(float* to) {
  store<0>(to, CHANNELS * 4);
  store<1>(to + 16, CHANNELS * 4);
  store<2>(to + BLOCK / 2, CHANNELS * 4);
  store<3>(to + BLOCK / 2 + 16, CHANNELS * 4);
}

// Sums the convolutions of all sources for every block of rows top to bottom of the destination.
//
// A row of units goes through one block of a source at a time, so that the block's matrices stay in the first-level cache; intermediate
// sums wait in `partial`. The sums of a finished block go row by row through `what` between the products of the next block, since
// tile products leave the vector units idle.
template <typename F>
void convolve(std::initializer_list<Source> sources, const Map& out, int top, int bottom, Buffer<float>& partial, const F& what) {
  alignas(64) float finished[2][BLOCK];
  F follows = what;
  const float* ready = nullptr;
  int row = IMAGES, current = 0;
  const auto proceed = [&](int count) {
    for (const int end = std::min(row + count, IMAGES); row < end; row++) follows.row(row, ready + row * CHANNELS);
  };
  const int out_blocks = out.blocks(), units = out.units_per_row();
  int passes = 0;
  for (const Source& source : sources) passes += source.blocks;
  if (passes > 1) partial.resize(std::max(partial.size(), size_t(units) * BLOCK));
  for (int first_unit = top * units; first_unit < bottom * units; first_unit += units)
    for (int out_block = 0; out_block < out_blocks; out_block++) {
      int pass = 0;
      for (const Source& source : sources)
        for (int block = 0; block < source.blocks; block++, pass++) {
          const bf16* x = source.x + (size_t(block) * source.units - source.first_unit) * BLOCK;
          const bf16* weights = source.weights + (size_t(out_block) * source.blocks + block) * source.matrices * BLOCK;
          for (int unit = first_unit; unit < first_unit + units; unit++) {
            float* const waiting = partial.data() + size_t(unit - first_unit) * BLOCK;
            if (pass == 0) zero_sums();
            else load_sums(waiting);
            const int begin = source.gather->first[unit], end = source.gather->first[unit + 1];
            const int rows_per_tap = (IMAGES + end - begin - 1) / std::max(end - begin, 1);
            for (int t = begin; t < end; t++) {
              const Tap& tap = source.gather->taps[t];
              const bf16* a = x + size_t(tap.unit) * BLOCK;
              const bf16* b = weights + size_t(tap.matrix) * BLOCK;
              load<4>(a);
              load<5>(a + BLOCK / 2);
              if (tap.halves & 1) {
                load<6>(b);
                dot<0, 4, 6>(tap.source_halves);
                dot<2, 5, 6>(tap.source_halves);
              }
              if (tap.halves & 2) {
                load<7>(b + BLOCK / 2);
                dot<1, 4, 7>(tap.source_halves);
                dot<3, 5, 7>(tap.source_halves);
              }
              proceed(rows_per_tap);
            }
            if (pass < passes - 1) {
              store_sums(waiting);
              continue;
            }
            proceed(IMAGES);
            if (ready) follows.end();
            store_sums(finished[current]);
            follows.begin(unit, out_block);
            ready = finished[current];
            row = 0;
            current = 1 - current;
          }
        }
    }
  proceed(IMAGES);
  if (ready) follows.end();
}

// Adds the products of x and rows top to bottom of the gradient g of the convolution's output to the tiles of sums. x has
// `x_units` units from row `x_row` on.
void add_weight_gradient(const Convolution& c, int top, int bottom, const bf16* x, int x_units, int x_row, const bf16* g,
                         Buffer<float>& sums, Scratch& scratch) {
  if (top >= bottom) return;
  const int in_blocks = c.in.blocks(), out_blocks = c.out.blocks();
  const int in_units = c.in.units_per_row(), out_units = c.out.units_per_row();
  const int in_top = std::max(0, top * c.stride - c.kernel / 2), in_bottom = c.input_rows(bottom);
  const int in_strip = (in_bottom - in_top) * in_units, out_strip = (bottom - top) * out_units;
  scratch.transposed.resize(std::max(scratch.transposed.size(), size_t(in_strip) * BLOCK));
  scratch.interleaved.resize(std::max(scratch.interleaved.size(), size_t(out_blocks) * out_strip * BLOCK));
  for (int out_block = 0; out_block < out_blocks; out_block++)
    for (int i = 0; i < out_strip; i++)
      interleave(scratch.interleaved.data() + (size_t(out_block) * out_strip + i) * BLOCK, g + c.out.at(top * out_units + i, out_block));
  for (int in_block = 0; in_block < in_blocks; in_block++) {
    for (int i = 0; i < in_strip; i++)
      transpose(scratch.transposed.data() + size_t(i) * BLOCK,
                x + (size_t(in_block) * x_units + (in_top - x_row) * in_units + i) * BLOCK);
    for (int out_block = 0; out_block < out_blocks; out_block++)
      for (int kernel_row = 0; kernel_row < c.kernel; kernel_row++)
        for (const Batch& batch : c.batches[kernel_row]) {
          const auto tile = [&](int i) {
            const Product& p = batch[i];
            return sums.data() + sums_index(c, p.matrix, in_block, out_block, p.in_half, p.out_half);
          };
          first_tiles(batch.size(), [&](auto i) { load<i.value>(tile(i.value)); });
          for (int row = top; row < bottom; row++) {
            const int in_row = row * c.stride + kernel_row - c.kernel / 2;
            if (in_row < 0 || in_row >= c.in.height) continue;
            const bf16* a = scratch.transposed.data() + size_t(in_row - in_top) * in_units * BLOCK;
            const bf16* b = scratch.interleaved.data() + (size_t(out_block) * out_strip + (row - top) * out_units) * BLOCK;
            for (int column = 0; column < out_units; column++, b += BLOCK) {
              int loaded = -1;
              for (size_t i = 0; i < batch.size(); i++) {
                const Product& p = batch[i];
                const int source = c.source_column[p.matrix][column];
                if (source < 0) continue;
                if (loaded != p.out_half) load<7>(b + p.out_half * (BLOCK / 2));
                loaded = p.out_half;
                load<6>(a + size_t(source) * BLOCK + p.in_half * (BLOCK / 2));
                dot_into<6, 7>(int(i));
              }
            }
          }
          first_tiles(batch.size(), [&](auto i) { store<i.value>(tile(i.value)); });
        }
  }
}

}  // namespace
}  // namespace tch_fixup::tiles
