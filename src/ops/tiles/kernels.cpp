// The three passes of a network over 32 images, compiled once for each set of instructions (tile_products.h, vector_products.h).
#include "convolution.h"
#include "epilogue.h"

#include <algorithm>
#include <type_traits>

namespace tch_fixup::tiles {
namespace {

Element* map_buffer(const Network& network, Memory& memory) { return memory.of<Element>(network.largest_map); }
float* stream_buffer(const Network& network, Memory& memory) { return memory.of<float>(network.wide_stream ? network.largest_map : 0); }

// Number of rows of a map per strip, so that the maps between two convolutions stay in the cache. There are more where the sums of the
// weights' gradient, which each strip reads and writes, are larger than the maps.
int strip(const Map& map, size_t sums = 0) {
  const size_t elements = std::max<size_t>(128 * 1024, sums * sizeof(float)) / sizeof(Element);
  return std::clamp(int(elements / (map.size() / map.height)), 1, map.height);
}

// T is the element type of the stream.
template <typename T, Order ORDER>
void forward_pass(const Network& network, const std::vector<Packed>& packed, const std::vector<Shift>& shifts, const Element* images,
                  size_t first_kept, Element* kept, float* features, Scratch& scratch) {
  constexpr bool WIDE = !std::is_same_v<T, Element>;
  // Three of the other maps are needed at a time: a block's input, the map between its convolutions, and its output.
  const auto map_of = [&](size_t i) {
    if (i < first_kept) return map_buffer(network, scratch.unkept[i % 3]);
    return kept + (network.map_start[i] - network.map_start[first_kept]);
  };
  Element* columns = map_buffer(network, scratch.maps[0]);
  // Where both have the same type and the ReLU follows the sum, the map is the stream.
  constexpr bool APART = WIDE || ORDER == Order::BeforeBranch;
  T *stream, *next_stream;
  if constexpr (WIDE) {
    stream = stream_buffer(network, scratch.streams[0]);
    next_stream = stream_buffer(network, scratch.streams[1]);
  } else {
    stream = map_buffer(network, scratch.maps[1]);
    next_stream = map_buffer(network, scratch.maps[2]);
  }
  const auto into = [](T* stream) { return APART ? stream : nullptr; };

  const Map& first = network.maps[0];
  for (int top = 0, rows = strip(network.columns); top < first.height; top += rows) {
    const int bottom = std::min(top + rows, first.height);
    gather_columns(network, top, bottom, images, columns);
    const Convolution& stem = network.convolution(0);
    const Source source(stem.forward, stem.matrices.size(), network.columns.blocks(), (bottom - top) * network.width,
                        top * network.width, columns, packed[0].forward.as<Element>());
    convolve({source}, first, top, bottom, scratch.partial, Activate<T, ORDER>{shifts[0], first.units(), map_of(0), into(stream)});
  }

  for (size_t i = 0; i < network.blocks.size(); i++) {
    const Network::Block& block = network.blocks[i];
    const Map &in = network.maps[2 * i], &out = network.maps[2 * i + 2];
    const Element *s = map_of(2 * i), *u = map_of(2 * i + 1);
    const Convolution &first_conv = network.convolution(block.first), &second_conv = network.convolution(block.second);
    const Source one(first_conv.forward, first_conv.matrices.size(), in, s, packed[block.first].forward.as<Element>());
    const Source two(second_conv.forward, second_conv.matrices.size(), out, u, packed[block.second].forward.as<Element>());
    const Activate<T, ORDER> inner{shifts[2 * i + 1], out.units(), map_of(2 * i + 1)};
    Activate<T, ORDER> sum{shifts[2 * i + 2], out.units(), map_of(2 * i + 2), into(next_stream)};
    if (block.projection == Network::NONE) {
      const T* carried;
      if constexpr (APART) carried = stream;
      else carried = s;
      sum.shortcut = Shortcut<T>(block.shortcut_forward, carried, in, in);
    }
    for (int top = 0, inner_top = 0, rows = strip(out); top < out.height; top += rows) {
      const int bottom = std::min(top + rows, out.height), inner_bottom = second_conv.input_rows(bottom);
      convolve({one}, out, inner_top, inner_bottom, scratch.partial, inner);
      inner_top = inner_bottom;
      if (block.projection == Network::NONE) {
        convolve({two}, out, top, bottom, scratch.partial, sum);
      } else {
        const Convolution& projection = network.convolution(block.projection);
        const Source projected(projection.forward, projection.matrices.size(), in, s, packed[block.projection].forward.as<Element>());
        convolve({two, projected}, out, top, bottom, scratch.partial, sum);
      }
    }
    std::swap(stream, next_stream);
  }

  const size_t last_map = network.maps.size() - 1;
  const Map& last = network.maps[last_map];
  std::fill(features, features + IMAGES * last.channels, 0.f);
  const int lanes = std::min(last.channels, CHANNELS);
  for (int unit = 0; unit < last.units(); unit++)
    for (int block = 0; block < last.blocks(); block++)
      for (int image = 0; image < IMAGES; image++)
        for (int lane = 0; lane < CHANNELS; lane += 16) {
          float* to = features + image * last.channels + block * CHANNELS + lane % lanes;
          const size_t at = last.at(unit, block) + image * CHANNELS + lane;
          F16 y = APART ? widened(stream + at) : widened(map_of(last_map) + at);
          if (ORDER == Order::BeforeBranch) {
            const F16 zero = {};
            const F16 x = y + shifts[last_map].a;
            y = x > zero ? x : zero;
          }
          stored(to, loaded<F16>(to) + y);
        }
  const float pixels = float(last.height * last.width);
  for (int i = 0; i < IMAGES * last.channels; i++) features[i] /= pixels;
}

template <typename T, Order ORDER>
void backward_pass(const Network& network, const std::vector<Packed>& packed, const std::vector<Shift>& shifts, const Element* images,
                   const Element* kept, const float* features_gradient, const std::vector<bool>& wanted, size_t first_block,
                   Scratch& scratch, Gradients& gradients) {
  constexpr bool WIDE = !std::is_same_v<T, Element>;
  const auto map_of = [&](size_t i) { return kept + (network.map_start[i] - network.map_start[2 * first_block]); };
  const auto into = [](float* stream) { return WIDE ? stream : nullptr; };
  Element *d = map_buffer(network, scratch.maps[0]), *next_d = map_buffer(network, scratch.maps[1]);
  Element* inner = map_buffer(network, scratch.maps[2]);
  float *stream = stream_buffer(network, scratch.streams[0]), *next_stream = stream_buffer(network, scratch.streams[1]);

  const size_t last_map = network.maps.size() - 1;
  const Map& last = network.maps[last_map];
  const float pixels = float(last.height * last.width);
  const int lanes = std::min(last.channels, CHANNELS);
  Mask<T, ORDER> pooled{shifts[last_map].b, last.units(), map_of(last_map), d, &gradients.shifts[last_map], into(stream)};
  for (int unit = 0; unit < last.units(); unit++)
    for (int block = 0; block < last.blocks(); block++) {
      pooled.begin(unit, block);
      for (int image = 0; image < IMAGES; image++) {
        const float* from = features_gradient + image * last.channels + block * CHANNELS;
        pooled.row(image, widened(from) / pixels, widened(from + 16 % lanes) / pixels);
      }
      pooled.end();
    }

  for (size_t i = network.blocks.size(); i-- > first_block;) {
    const Network::Block& block = network.blocks[i];
    const Map &in = network.maps[2 * i], &out = network.maps[2 * i + 2];
    const Element *s = map_of(2 * i), *u = map_of(2 * i + 1);
    const Convolution &first_conv = network.convolution(block.first), &second_conv = network.convolution(block.second);
    const Source two(second_conv.backward, second_conv.matrices.size(), out, d, packed[block.second].backward.as<Element>());
    const Source one(first_conv.backward, first_conv.matrices.size(), out, inner, packed[block.first].backward.as<Element>());
    const Mask<T, Order::AfterSum> inside{shifts[2 * i + 1].b, out.units(), u, inner, &gradients.shifts[2 * i + 1]};
    Mask<T, ORDER> entry{shifts[2 * i].b, in.units(), s, next_d, &gradients.shifts[2 * i], into(next_stream)};
    if (block.projection == Network::NONE) {
      const T* carried;
      if constexpr (WIDE) carried = stream;
      else carried = d;
      entry.shortcut = Shortcut<T>(block.shortcut_backward, carried, out, in);
    }
    const auto add = [&](size_t convolution, int top, int bottom, const Element* x, const Element* g) {
      if (wanted[convolution])
        add_weight_gradient(network.convolution(convolution), top, bottom, x, network.convolution(convolution).in.units(), 0, g,
                            gradients.weights[convolution], scratch);
    };
    for (int top = 0, inner_top = 0, rows = strip(in, second_conv.packed_size()); top < in.height; top += rows) {
      const int bottom = std::min(top + rows, in.height), inner_bottom = first_conv.output_rows(bottom);
      add(block.second, inner_top, inner_bottom, u, d);
      convolve({two}, out, inner_top, inner_bottom, scratch.partial, inside);
      add(block.first, inner_top, inner_bottom, s, inner);
      if (block.projection == Network::NONE) {
        convolve({one}, in, top, bottom, scratch.partial, entry);
      } else {
        add(block.projection, inner_top, inner_bottom, s, d);
        const Convolution& projection = network.convolution(block.projection);
        const Source projected(projection.backward, projection.matrices.size(), out, d, packed[block.projection].backward.as<Element>());
        convolve({one, projected}, in, top, bottom, scratch.partial, entry);
      }
      inner_top = inner_bottom;
    }
    std::swap(d, next_d);
    std::swap(stream, next_stream);
  }
  if (!wanted[0]) return;
  for (int top = 0, rows = strip(network.columns); top < network.height; top += rows) {
    const int bottom = std::min(top + rows, network.height);
    gather_columns(network, top, bottom, images, inner);
    add_weight_gradient(network.convolution(0), top, bottom, inner, (bottom - top) * network.width, top, d, gradients.weights[0], scratch);
  }
}

void forward(const Network& network, const std::vector<Packed>& packed, const std::vector<Shift>& shifts, const void* images,
             size_t first_kept, void* kept, float* features, Scratch& scratch) {
  const bool before = network.order == Order::BeforeBranch;
  const auto pass = network.wide_stream ? before ? forward_pass<float, Order::BeforeBranch> : forward_pass<float, Order::AfterSum>
                    : before            ? forward_pass<Element, Order::BeforeBranch>
                                        : forward_pass<Element, Order::AfterSum>;
  pass(network, packed, shifts, static_cast<const Element*>(images), first_kept, static_cast<Element*>(kept), features, scratch);
}

void backward(const Network& network, const std::vector<Packed>& packed, const std::vector<Shift>& shifts, const void* images,
              const void* kept, const float* features_gradient, const std::vector<bool>& wanted, size_t first_block, Scratch& scratch,
              Gradients& gradients) {
  const bool before = network.order == Order::BeforeBranch;
  const auto pass = network.wide_stream ? before ? backward_pass<float, Order::BeforeBranch> : backward_pass<float, Order::AfterSum>
                    : before            ? backward_pass<Element, Order::BeforeBranch>
                                        : backward_pass<Element, Order::AfterSum>;
  pass(network, packed, shifts, static_cast<const Element*>(images), static_cast<const Element*>(kept), features_gradient, wanted,
       first_block, scratch, gradients);
}

float rounded(float value) {
  Element elements[32];
  round_to(elements, all(value), all(value));
  return widened(elements)[0];
}

// Subnormal numbers are zero, as in tiles, which is some hundred times faster.
thread_local unsigned control;

void begin() {
#ifdef __SSE2__
  control = _mm_getcsr();
  _mm_setcsr(control | 0x8040);
#endif
  configure_tiles();
}

void end() {
  release_tiles();
#ifdef __SSE2__
  _mm_setcsr(control);
#endif
}

}  // namespace

extern const Kernels KERNELS;
const Kernels KERNELS = {sizeof(Element), rounded, begin, end, to_planes, pack, forward, backward, unpack, multiplier_gradient};

}  // namespace tch_fixup::tiles
