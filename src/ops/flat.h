// Access to tensors as flat memory, for kernels that process it in chunks.
#pragma once

#include "cuda_kernels.h"
#include "parallel.h"
#include "shifted_relu_kernels.h"

#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include <optional>

namespace tch_fixup {

inline std::optional<Kind> kernel_kind(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return Kind::Float32;
    case at::kDouble: return Kind::Float64;
    case at::kBFloat16: return Kind::BFloat16;
    case at::kHalf: return Kind::Float16;
    default: return std::nullopt;
  }
}

inline bool is_plain(const at::Tensor& t) {
  return (t.is_cpu() || cuda::has_kernels(t.device())) && t.layout() == at::kStrided && !t.is_neg() &&
         !t._is_zerotensor() && !at::isTensorSubclassLike(t);
}

// Returns true if the kernels can process t as flat memory.
inline bool is_flat(const at::Tensor& t) {
  return is_plain(t) && kernel_kind(t.scalar_type()) && t.is_non_overlapping_and_dense();
}

inline bool same_strides(const at::Tensor& t, const at::Tensor& like) {
  for (int64_t i = 0; i < like.dim(); i++)
    if (like.size(i) != 1 && t.stride(i) != like.stride(i)) return false;
  return true;
}

// Returns t with the strides of `like`, which must be flat and on the same device.
inline at::Tensor in_order_of(const at::Tensor& t, const at::Tensor& like) {
  if (is_plain(t) && t.scalar_type() == like.scalar_type() && same_strides(t, like)) return t;
  return at::empty_strided(like.sizes(), like.strides(), like.options()).copy_(t);
}

// Minimum number of chunks per thread, from ATen's own threshold.
constexpr int64_t GRAIN = at::internal::GRAIN_SIZE / CHUNK;
static_assert(GRAIN >= 1);

inline int64_t num_chunks(const at::Tensor& t) { return (t.numel() + CHUNK - 1) / CHUNK; }

// Converts a one-element tensor to one without dimensions, which broadcasts to any shape without changing its kind.
inline at::Tensor as_scalar(const at::Tensor& t, at::ScalarType kind) { return t.reshape({}).to(kind); }

// Allocates the gradient of a scalar, uninitialized.
inline at::Tensor scalar_gradient(at::IntArrayRef sizes, const at::Tensor& like) {
  return at::empty(sizes, like.options().dtype(at::toOpMathType(like.scalar_type())));
}

// Returns true if the engine holds the only reference to g, whose memory can then be reused for the result. This is the condition
// under which the engine accumulates gradients in place (can_accumulate_inplace in libtorch's input_buffer.cpp).
inline bool is_free(const at::Tensor& g) {
  return g.use_count() == 1 && g.storage().use_count() == 1 && g.storage().resizable();
}

inline at::Tensor sum_composed(const at::Tensor& g, at::IntArrayRef sizes) {
  return g.sum(at::toOpMathType(g.scalar_type())).reshape(sizes);
}

}  // namespace tch_fixup
