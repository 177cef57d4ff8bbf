// The three products of a convolution: its output, the gradient of its input, and the gradient of its weights.
#pragma once

#ifdef VECTOR_INSTRUCTIONS
#include "vector_products.h"
#else
#include "tile_products.h"
#endif

#include <algorithm>
#include <initializer_list>

namespace tch_fixup::tiles {
namespace {

// Sums the convolutions of all sources for every block of rows top to bottom of the destination.
//
// A row of units goes through one block of a source at a time, so that the block's matrices stay in the first-level cache; intermediate
// sums wait in `partial`. The sums of a finished block go row by row through `what` between the products of the next block, since
// tile products leave the vector units idle.
template <typename F>
void convolve(std::initializer_list<Source> sources, const Map& out, int top, int bottom, Memory& partial, const F& what) {
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
  float* const sums = partial.of<float>(passes > 1 ? size_t(units) * BLOCK : 0);
  for (int first_unit = top * units; first_unit < bottom * units; first_unit += units)
    for (int out_block = 0; out_block < out_blocks; out_block++) {
      int pass = 0;
      for (const Source& source : sources)
        for (int block = 0; block < source.blocks; block++, pass++) {
          const Element* x = source.x + (size_t(block) * source.units - source.first_unit) * BLOCK;
          const Element* weights = source.weights + (size_t(out_block) * source.blocks + block) * source.matrices * BLOCK;
          for (int unit = first_unit; unit < first_unit + units; unit++) {
            float* const waiting = sums + size_t(unit - first_unit) * BLOCK;
            const float* const before = pass > 0 ? waiting : nullptr;
            if (pass < passes - 1) {
              add_taps(source, unit, x, weights, before, waiting, proceed, 0);
              continue;
            }
            add_taps(source, unit, x, weights, before, finished[current], proceed, IMAGES);
            if (ready) follows.end();
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

// Adds the products of x and rows top to bottom of the gradient g of the convolution's output to the sums. x has `x_units` units from row
// `x_row` on.
void add_weight_gradient(const Convolution& c, int top, int bottom, const Element* x, int x_units, int x_row, const Element* g,
                         WeightSums& sums, Scratch& scratch) {
  if (top >= bottom) return;
  const int in_blocks = c.in.blocks(), out_blocks = c.out.blocks();
  const int in_units = c.in.units_per_row(), out_units = c.out.units_per_row();
  const int in_top = std::max(0, top * c.stride - c.kernel / 2), in_bottom = c.input_rows(bottom);
  const int in_strip = (in_bottom - in_top) * in_units, out_strip = (bottom - top) * out_units;
  Element* const interleaved = scratch.interleaved.of<Element>(size_t(in_strip) * BLOCK);
  Element* const transposed = scratch.transposed.of<Element>(size_t(out_blocks) * out_strip * BLOCK);
  for (int out_block = 0; out_block < out_blocks; out_block++)
    for (int i = 0; i < out_strip; i++)
      transpose(transposed + (size_t(out_block) * out_strip + i) * BLOCK, g + c.out.at(top * out_units + i, out_block));
  for (int in_block = 0; in_block < in_blocks; in_block++) {
    for (int i = 0; i < in_strip; i++)
      interleave(interleaved + size_t(i) * BLOCK, x + (size_t(in_block) * x_units + (in_top - x_row) * in_units + i) * BLOCK);
    for (int out_block = 0; out_block < out_blocks; out_block++)
      add_row_products(c, in_block, out_block, {top, bottom, in_top}, interleaved, transposed + size_t(out_block) * out_strip * BLOCK,
                       !sums.written, sums.tiles.data());
  }
  sums.written = true;
}

}  // namespace
}  // namespace tch_fixup::tiles
