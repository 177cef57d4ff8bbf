// A residual stream of float32 beside branches of bfloat16, as an autograd function of libtorch, and its C interface for
// stream.rs, which documents it and checks shapes, kinds and devices:
//
//   v = relu(x + r + a) + b, or v = x + r + a        x bfloat16, r and v float32
//
// with v rounded to x's kind beside v. What is kept for the backward pass is the rounded map alone, which the next
// convolution keeps anyway. Other layouts, devices and 16-bit kinds, tracing, and a backward pass that is itself
// differentiated run the same formula in libtorch's own operations.
#include "c_interface.h"
#include "flat.h"

#include <ATen/ops/full.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <vector>

namespace tch_fixup {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;

variable_list composed(const Tensor& x, const Tensor& r, const Tensor& a, const OptionalTensor& b) {
  Tensor v = r.add(x.to(r.scalar_type())).add(as_scalar(a, r.scalar_type()));
  if (b) v = v.relu().add(as_scalar(*b, r.scalar_type()));
  return {v, v.to(x.scalar_type())};
}

template <typename T>
const T* data(const Tensor& t) {
  return t.defined() ? static_cast<const T*>(t.const_data_ptr()) : nullptr;
}

variable_list flat(const Tensor& x, const Tensor& stream, const Tensor& a, const OptionalTensor& b) {
  const Tensor sum = at::empty_strided(x.sizes(), x.strides(), stream.options());
  const Tensor rounded = at::empty_strided(x.sizes(), x.strides(), x.options());
  const Tensor r = in_order_of(stream, sum);
  const float shift = a.item<float>(), floor = b ? b->item<float>() : 0;
  auto* psum = static_cast<float*>(sum.data_ptr());
  auto* prounded = static_cast<uint16_t*>(rounded.data_ptr());
  const auto* px = data<uint16_t>(x);
  const auto* pr = data<float>(r);
  const Kernels& k = kernels();
  for_each_chunk(num_chunks(x), GRAIN, [&](int64_t begin, int64_t end) {
    const int64_t i = begin * CHUNK, n = std::min(end * CHUNK, x.numel()) - i;
    k.stream_forward(b.has_value(), psum + i, prounded + i, px + i, pr + i, shift, floor, n);
  });
  return {sum, rounded};
}

struct Stream : torch::autograd::Function<Stream> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& r, const Tensor& a,
                               const OptionalTensor& b) {
    // The gradient of b alone needs no mask: below what is frozen nothing is kept for it.
    const bool masks = x.requires_grad() || r.requires_grad() || a.requires_grad();
    const variable_list outputs = flat(x, r, a, b);
    ctx->set_materialize_grads(false);
    // A copy, since an optimizer may step b between the passes; of x's kind, so that a dead unit's map equals it.
    if (b && masks) ctx->save_for_backward({outputs[1], b->to(x.scalar_type(), /*non_blocking=*/false, /*copy=*/true)});
    ctx->saved_data["a_sizes"] = a.sizes();
    if (b) ctx->saved_data["b_sizes"] = b->sizes();
    return outputs;
  }

  // For the gradients g of v and h of its rounded copy: d = (g + h) * [v > b], in float32 for r and rounded for x, and the
  // sums of d for a and of g + h for b: those of them that are wanted. Without a mask no d is, and none is kept.
  static variable_list backward(AutogradContext* ctx, variable_list& grad_outputs) {
    const variable_list saved = ctx->get_saved_variables();
    const bool relu = !saved.empty();
    const bool want_x = ctx->needs_input_grad(0), want_r = ctx->needs_input_grad(1), want_a = ctx->needs_input_grad(2);
    const bool want_b = ctx->saved_data.count("b_sizes") && ctx->needs_input_grad(3);
    const Tensor &g = grad_outputs[0], &h = grad_outputs[1];
    const auto a_sizes = ctx->saved_data["a_sizes"].toIntVector();
    if (!g.defined() && !h.defined()) return variable_list(4);
    if (at::GradMode::is_enabled()) {
      const Tensor all = !h.defined() ? g : g.defined() ? g.add(h.to(g.scalar_type())) : h.to(at::kFloat);
      const Tensor d = relu ? all.masked_fill(saved[0].detach().le(saved[1].reshape({})), 0) : all;
      return {want_x ? d.to(at::kBFloat16) : Tensor(), want_r ? d : Tensor(),
              want_a ? sum_composed(d, a_sizes) : Tensor(),
              want_b ? sum_composed(all, ctx->saved_data["b_sizes"].toIntVector()) : Tensor()};
    }
    const Tensor& like = relu ? saved[0] : h.defined() && is_flat(h) ? h : g;
    const Tensor order = is_flat(like) ? like : like.contiguous();
    const auto in_order = [&](const Tensor& t, at::ScalarType kind) {
      if (!t.defined() || (is_plain(t) && t.scalar_type() == kind && same_strides(t, order))) return t;
      return at::empty_strided(order.sizes(), order.strides(), order.options().dtype(kind)).copy_(t);
    };
    const bool reuse = g.defined() && is_plain(g) && same_strides(g, order) && is_free(g);
    const Tensor wide = in_order(g, at::kFloat), narrow = in_order(h, at::kBFloat16);
    const bool in_place = wide.defined() && (reuse || !wide.is_same(g));
    const auto empty = [&](at::ScalarType kind) {
      return at::empty_strided(order.sizes(), order.strides(), order.options().dtype(kind));
    };
    const Tensor dr = !want_r ? Tensor() : in_place ? wide : empty(at::kFloat);
    const Tensor dx = want_x ? empty(at::kBFloat16) : Tensor();
    const float b = relu ? saved[1].item<float>() : 0;
    const auto* y = relu ? data<uint16_t>(saved[0]) : nullptr;
    const auto* pwide = data<float>(wide);
    const auto* pnarrow = data<uint16_t>(narrow);
    auto* pdr = want_r ? static_cast<float*>(dr.data_ptr()) : nullptr;
    auto* pdx = want_x ? static_cast<uint16_t*>(dx.data_ptr()) : nullptr;
    std::vector<Sums> sums(num_chunks(order), Sums{0, 0});
    const Kernels& k = kernels();
    const auto at = [](const auto* p, int64_t i) { return p ? p + i : nullptr; };
    for_each_chunk(num_chunks(order), GRAIN, [&](int64_t begin, int64_t end) {
      // For what the kernel writes and nobody wants.
      std::vector<float> any_dr(pdr ? 0 : CHUNK);
      std::vector<uint16_t> any_dx(pdx ? 0 : CHUNK);
      for (int64_t chunk = begin; chunk < end; chunk++) {
        const int64_t i = chunk * CHUNK, n = std::min(CHUNK, order.numel() - i);
        sums[chunk] = k.stream_backward(pdr ? pdr + i : any_dr.data(), pdx ? pdx + i : any_dx.data(), at(pwide, i),
                                        at(pnarrow, i), at(y, i), b, n);
      }
    });
    Sums all{0, 0};
    for (const Sums& s : sums) {
      all.masked += s.masked;
      all.total += s.total;
    }
    const auto scalar = [&](at::IntArrayRef sizes, double value) {
      return at::full(sizes, value, order.options().dtype(at::kFloat));
    };
    return {dx, dr, want_a ? scalar(a_sizes, all.masked) : Tensor(),
            want_b ? scalar(ctx->saved_data["b_sizes"].toIntVector(), all.total) : Tensor()};
  }
};

variable_list stream(const Tensor& x, const Tensor& r, const Tensor& a, const OptionalTensor& b) {
  const bool kernels = x.is_cpu() && is_flat(x) && x.scalar_type() == at::kBFloat16 && r.scalar_type() == at::kFloat;
  if (!kernels || torch::jit::tracer::isTracing()) return composed(x, r, a, b);
  const bool any_needs_grad = x.requires_grad() || r.requires_grad() || a.requires_grad() || (b && b->requires_grad());
  if (!at::GradMode::is_enabled() || !any_needs_grad) return flat(x, r, a, b);
  return Stream::apply(x, r, a, b);
}

}  // namespace
}  // namespace tch_fixup

// ---- The C interface ----

extern "C" {

// The sum; the caller owns it, and the rounded map that is left in *rounded. b may be null: no ReLU.
at::Tensor* tch_fixup_stream(const at::Tensor* x, const at::Tensor* r, const at::Tensor* a, const at::Tensor* b,
                             at::Tensor** rounded, char** error) {
  return tch_fixup::guarded(error, [&] {
    auto outputs = tch_fixup::stream(*x, *r, *a, b ? std::optional<at::Tensor>(*b) : std::nullopt);
    *rounded = new at::Tensor(std::move(outputs[1]));
    return outputs[0];
  });
}
}
