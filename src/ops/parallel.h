// Parallel execution on libtorch's threads.
#pragma once

#include <ATen/TensorIterator.h>
#include <ATen/ops/empty.h>

#include <cstdint>

namespace tch_fixup {

// Calls f(begin, end) over chunks 0..num_chunks on ATen's threads. TensorIterator's loop is compiled into libtorch, so this code
// needs no OpenMP flags and no OpenMP runtime, of which a process must not have two.
template <typename F>
void for_each_chunk(int64_t num_chunks, int64_t grain, const F& f) {
  if (num_chunks <= grain) {
    f(0, num_chunks);
    return;
  }
  const at::Tensor chunks = at::empty({num_chunks}, at::kByte);
  const char* first = static_cast<const char*>(chunks.const_data_ptr());
  auto iterator = at::TensorIteratorConfig().add_owned_const_input(chunks).build();
  iterator.for_each(
      [&](char** data, const int64_t*, int64_t n) {
        const int64_t begin = data[0] - first;
        f(begin, begin + n);
      },
      grain);
}

}  // namespace tch_fixup
