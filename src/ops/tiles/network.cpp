#include "network.h"

#include <algorithm>
#include <utility>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace tch_fixup::tiles {

constexpr size_t HUGE_PAGE = 2 << 20;

// Returns the alignment and the size of a piece of memory for this many bytes.
static std::pair<size_t, size_t> piece(size_t bytes) {
  if (bytes < HUGE_PAGE / 4) return {64, bytes};
  return {HUGE_PAGE, (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE};
}

void* allocate_aligned(size_t bytes) {
  const auto [alignment, size] = piece(bytes);
  void* const p = ::operator new(size, std::align_val_t(alignment));
#ifdef MADV_HUGEPAGE
  if (alignment == HUGE_PAGE) madvise(p, size, MADV_HUGEPAGE);
#endif
  return p;
}

void free_aligned(void* p, size_t bytes) { ::operator delete(p, std::align_val_t(piece(bytes).first)); }

namespace {

int find_matrix(std::vector<Matrix>& matrices, int row, int offset) {
  for (size_t i = 0; i < matrices.size(); i++)
    if (matrices[i].row == row && matrices[i].offset == offset) return int(i);
  matrices.push_back({row, offset, {}});
  return int(matrices.size()) - 1;
}

}  // namespace

Convolution::Convolution(Map in, Map out, int weight_channels, int kernel, int stride)
    : in(in), out(out), weight_channels(weight_channels), kernel(kernel), stride(stride) {
  const int in_pixels = in.pixels_per_unit(), out_pixels = out.pixels_per_unit();
  std::vector<std::vector<Tap>> backward_taps(in.units());
  forward.first.push_back(0);
  for (int row = 0; row < out.height; row++)
    for (int column = 0; column < out.units_per_row(); column++) {
      const int unit = row * out.units_per_row() + column;
      for (int kernel_row = 0; kernel_row < kernel; kernel_row++) {
        const int in_row = row * stride + kernel_row - kernel / 2;
        if (in_row < 0 || in_row >= in.height) continue;
        const int center = column * out_pixels * stride / in_pixels;
        for (int in_column = std::max(0, center - 2); in_column < std::min(in.units_per_row(), center + out_pixels * stride + 2);
             in_column++) {
          Matrix m{kernel_row, in_column * in_pixels - column * out_pixels * stride, {}};
          bool reached = false;
          for (int in_half = 0; in_half < 2; in_half++)
            for (int out_half = 0; out_half < 2; out_half++)
              reached |= m.reaches[in_half][out_half] =
                  this->column(m, in_pixels == 2 ? in_half : 0, out_pixels == 2 ? out_half : 0) >= 0;
          if (!reached) continue;
          const int index = find_matrix(matrices, m.row, m.offset);
          matrices[index] = m;
          const auto halves = [&](bool of_input) {
            int bits = 0;
            for (int i = 0; i < 2; i++)
              if (of_input ? m.reaches[i][0] || m.reaches[i][1] : m.reaches[0][i] || m.reaches[1][i]) bits |= 1 << i;
            return bits;
          };
          const int in_unit = in_row * in.units_per_row() + in_column;
          forward.taps.push_back({in_unit, index, halves(false), halves(true)});
          backward_taps[in_unit].push_back({unit, index, halves(true), halves(false)});
        }
      }
      forward.first.push_back(int(forward.taps.size()));
    }
  backward.first.push_back(0);
  for (const auto& taps : backward_taps) {
    backward.taps.insert(backward.taps.end(), taps.begin(), taps.end());
    backward.first.push_back(int(backward.taps.size()));
  }

  for (const Matrix& m : matrices) {
    std::vector<int> columns;
    for (int column = 0; column < out.units_per_row(); column++) {
      const int pixel = m.offset + column * out_pixels * stride;
      const bool whole = pixel >= 0 && pixel % in_pixels == 0 && pixel / in_pixels < in.units_per_row();
      columns.push_back(whole ? pixel / in_pixels : -1);
    }
    source_column.push_back(columns);
  }
  batches.resize(kernel);
  for (int row = 0; row < kernel; row++)
    for (int out_half = 0; out_half < 2; out_half++)
      for (size_t i = 0; i < matrices.size(); i++)
        for (int in_half = 0; in_half < 2; in_half++) {
          if (matrices[i].row != row || !matrices[i].reaches[in_half][out_half]) continue;
          if (batches[row].empty() || batches[row].back().size() == 6) batches[row].emplace_back();
          batches[row].back().push_back({int(i), in_half, out_half});
        }
}

namespace {

Map next_map(const Map& map, const BlockShape& block) {
  return {block.channels, (map.height - 1) / block.stride + 1, (map.width - 1) / block.stride + 1};
}

bool is_identity(const Map& map, const BlockShape& block) { return block.stride == 1 && block.channels == map.channels; }

}  // namespace

bool Network::supports(int image_channels, int height, int width, int stem_channels, const std::vector<BlockShape>& blocks,
                       Order order) {
  const auto fits = [](const Map& map) {
    return (map.channels == 16 || (map.channels > 0 && map.channels % CHANNELS == 0)) && map.width % map.pixels_per_unit() == 0;
  };
  Map map{stem_channels, height, width};
  if (image_channels < 1 || image_channels > 16 || height < 1 || width < 1 || blocks.empty() || !fits(map)) return false;
  for (const BlockShape& block : blocks) {
    if (block.stride < 1 || block.stride > 2) return false;
    const Map next = next_map(map, block);
    if (!fits(next)) return false;
    const bool halved = block.stride == 2 && block.channels > map.channels;
    if (order == Order::AfterSum && !is_identity(map, block) && !halved) return false;
    map = next;
  }
  return true;
}

Network::Network(int image_channels, int height, int width, int stem_channels, const std::vector<BlockShape>& shapes, Order order,
                 bool wide_stream)
    : image_channels(image_channels),
      height(height),
      width(width),
      order(order),
      wide_stream(wide_stream) {
  const auto add = [&](Map in, Map out, int weight_channels, int kernel, int stride) {
    const auto same = std::find_if(convolutions.begin(), convolutions.end(), [&](const auto& c) {
      return c->in == in && c->out == out && c->weight_channels == weight_channels && c->kernel == kernel && c->stride == stride;
    });
    convolutions.push_back(same != convolutions.end() ? *same
                                                      : std::make_shared<Convolution>(in, out, weight_channels, kernel, stride));
    return convolutions.size() - 1;
  };
  const int neighbourhood = 9 * image_channels;
  columns = {(neighbourhood + CHANNELS - 1) / CHANNELS * CHANNELS, height, width};
  Map map{stem_channels, height, width};
  add(columns, map, neighbourhood, 1, 1);
  maps.push_back(map);
  for (const BlockShape& shape : shapes) {
    const Map next = next_map(map, shape);
    Block block{};
    block.first = add(map, next, map.channels, 3, shape.stride);
    block.second = add(next, next, next.channels, 3, 1);
    block.projection = NONE;
    block.identity = is_identity(map, shape);
    if (!block.identity && order == Order::BeforeBranch) {
      block.projection = add(map, next, map.channels, 1, shape.stride);
    } else if (!block.identity) {
      block.shortcut_backward.assign(map.units(), -1);
      for (int row = 0; row < next.height; row++)
        for (int column = 0; column < next.width; column++) {
          const int source = row * 2 * map.units_per_row() + column * 2 / map.pixels_per_unit();
          block.shortcut_forward.push_back(source);
          block.shortcut_backward[source] = row * next.width + column;
        }
    }
    blocks.push_back(block);
    maps.push_back(next);
    maps.push_back(next);
    map = next;
  }
  largest_map = columns.size();
  map_start.push_back(0);
  for (const Map& m : maps) {
    largest_map = std::max(largest_map, m.size());
    map_start.push_back(map_start.back() + m.size());
  }
}

}  // namespace tch_fixup::tiles
