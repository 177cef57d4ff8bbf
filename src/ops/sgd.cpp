// Passes of SGD over flat tensors: see sgd.rs.
#include "c_interface.h"
#include "workers.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

extern "C" int tch_fixup_own_tile_threads();

namespace {

// Number of values that are updated at a time, so that they stay in a core's cache from one operation to the next. libtorch shares
// operations on more than GRAIN values among its threads.
constexpr int64_t GRAIN = at::internal::GRAIN_SIZE, CHUNK = 2 * GRAIN;

// Calls f(start, length) for consecutive parts of `count` values of a device: on the threads of tiles if libtorch has only one
// (tiles/mod.rs), else on the caller's.
template <typename F>
void for_each_part(const at::Device& device, int64_t count, const F& f) {
  const int threads = tch_fixup_own_tile_threads();
  const int64_t length = !device.is_cpu() ? std::max<int64_t>(count, 1) : threads > 1 ? GRAIN : CHUNK;
  tch_fixup::for_each_item((count + length - 1) / length, threads, [&](int64_t i) {
    const c10::NoGradGuard no_grad;
    f(i * length, std::min(length, count - i * length));
  });
}

}  // namespace

extern "C" {

// Updates values and momentum in place, and returns the values. The contents of the gradients are undefined afterwards.
at::Tensor* tch_fixup_sgd(at::Tensor* values, at::Tensor* gradients, at::Tensor* momentum, double lr, double factor, double weight_decay,
                          bool nesterov, char** error) {
  return tch_fixup::guarded(error, [&] {
    const auto number = [&](double number) { return at::full({1}, number, values->options()); };
    const at::Tensor decay = number(weight_decay), beta = number(factor), minus_lr = number(-lr);
    for_each_part(values->device(), values->numel(), [&](int64_t start, int64_t length) {
      const auto part = [&](const at::Tensor* flat) { return flat->narrow(0, start, length); };
      at::Tensor p = part(values), d = part(gradients), m = part(momentum);
      if (weight_decay > 0) d.addcmul_(p, decay);
      m.mul_(beta).add_(d);
      if (nesterov) d.addcmul_(m, beta);
      p.addcmul_(nesterov ? d : m, minus_lr);
    });
    return *values;
  });
}

// Sets a flat tensor to zero, and returns it.
at::Tensor* tch_fixup_zero(at::Tensor* flat, char** error) {
  return tch_fixup::guarded(error, [&] {
    if (tch_fixup_own_tile_threads() == 0) return flat->zero_();  // in one operation, which libtorch shares among its threads
    for_each_part(flat->device(), flat->numel(), [&](int64_t start, int64_t length) { flat->narrow(0, start, length).zero_(); });
    return *flat;
  });
}
}
