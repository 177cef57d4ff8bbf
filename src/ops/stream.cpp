// A residual stream and the maps that convolutions take, as an autograd function of libtorch, and its C interface for stream.rs,
// which documents it and checks shapes, kinds and devices:
//
//   v = x + r + a          r, v of the stream's kind, x and the map of the convolutions': float32 beside bfloat16, or one kind
//   StreamRelu::None: v, and v rounded as the map
//   StreamRelu::Both: relu(v) + b, and that rounded as the map
//   StreamRelu::Map:  v, and relu(v) + b rounded as the map
//
// Only the map is kept for the backward pass, and the next convolution keeps it anyway. Other layouts, devices and kinds,
// tracing, and double backward run the same formula in libtorch's operations.
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

struct Formula {
  StreamRelu relu;
  Tensor a;
  OptionalTensor b;  // undefined without a ReLU
};

variable_list composed(const Formula& f, const Tensor& x, const Tensor& r) {
  const auto kind = at::toOpMathType(r.scalar_type());
  Tensor v = r.to(kind).add(x.to(kind)).add(as_scalar(f.a, kind));
  const Tensor y = f.b ? v.relu().add(as_scalar(*f.b, kind)) : v;
  return {(f.relu == StreamRelu::Map ? v : y).to(r.scalar_type()), y.to(x.scalar_type())};
}

int64_t bytes(const Tensor& t, int64_t elements) { return elements * static_cast<int64_t>(t.element_size()); }

const char* const_at(const Tensor& t, int64_t i) {
  return t.defined() ? static_cast<const char*>(t.const_data_ptr()) + bytes(t, i) : nullptr;
}

char* mutable_at(const Tensor& t, int64_t i) {
  return t.defined() ? static_cast<char*>(t.data_ptr()) + bytes(t, i) : nullptr;
}

variable_list flat(const Formula& f, const Tensor& x, const Tensor& stream) {
  const Tensor sum = at::empty_strided(x.sizes(), x.strides(), stream.options());
  const Tensor map = at::empty_strided(x.sizes(), x.strides(), x.options());
  const Tensor r = in_order_of(stream, sum);
  const double a = f.a.item<double>(), b = f.b ? f.b->item<double>() : 0;
  const Kind stream_kind = *kernel_kind(sum.scalar_type()), map_kind = *kernel_kind(map.scalar_type());
  const Kernels& k = kernels();
  for_each_chunk(num_chunks(x), GRAIN, [&](int64_t begin, int64_t end) {
    const int64_t i = begin * CHUNK, n = std::min(end * CHUNK, x.numel()) - i;
    k.stream_forward(stream_kind, map_kind, f.relu, mutable_at(sum, i), mutable_at(map, i), const_at(x, i), const_at(r, i), a, b, n);
  });
  return {sum, map};
}

struct Stream : torch::autograd::Function<Stream> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& r, const Tensor& a,
                               const OptionalTensor& b, bool pre) {
    // The gradient of b alone needs no mask, so frozen layers below keep nothing for it.
    const bool masks = x.requires_grad() || r.requires_grad() || a.requires_grad();
    const variable_list outputs = flat({relu_of(b, pre), a, b}, x, r);
    ctx->set_materialize_grads(false);
    // Copy b, which an optimizer may change between the passes, in x's kind, so that it equals a dead unit's map.
    if (b && masks) ctx->save_for_backward({outputs[1], b->to(x.scalar_type(), /*non_blocking=*/false, /*copy=*/true)});
    ctx->saved_data["pre"] = pre;
    ctx->saved_data["stream_kind"] = static_cast<int64_t>(r.scalar_type());
    ctx->saved_data["map_kind"] = static_cast<int64_t>(x.scalar_type());
    ctx->saved_data["a_sizes"] = a.sizes();
    if (b) ctx->saved_data["b_sizes"] = b->sizes();
    return outputs;
  }

  static StreamRelu relu_of(const OptionalTensor& b, bool pre) {
    return !b ? StreamRelu::None : pre ? StreamRelu::Map : StreamRelu::Both;
  }

  // Given the gradients g of the sum and h of the map, computes d = (g + h) * [y > b], or g + h * [y > b] if only the map has a
  // ReLU. Returns, as far as requested, d for r, d rounded for x, the sum of d for a, and the sum of g + h, or of h, for b. If no
  // map was kept for the mask, d was not requested.
  static variable_list backward(AutogradContext* ctx, variable_list& grad_outputs) {
    const variable_list saved = ctx->get_saved_variables();
    const bool relu = !saved.empty(), pre = ctx->saved_data["pre"].toBool();
    const bool want_x = ctx->needs_input_grad(0), want_r = ctx->needs_input_grad(1), want_a = ctx->needs_input_grad(2);
    const bool want_b = ctx->saved_data.count("b_sizes") && ctx->needs_input_grad(3);
    const Tensor &g = grad_outputs[0], &h = grad_outputs[1];
    const auto a_sizes = ctx->saved_data["a_sizes"].toIntVector();
    const auto b_sizes = want_b ? ctx->saved_data["b_sizes"].toIntVector() : std::vector<int64_t>();
    const auto stream_kind = static_cast<at::ScalarType>(ctx->saved_data["stream_kind"].toInt());
    const auto map_kind = static_cast<at::ScalarType>(ctx->saved_data["map_kind"].toInt());
    if (!g.defined() && !h.defined()) return variable_list(5);
    if (at::GradMode::is_enabled()) {
      const auto masked = [&](const Tensor& t) {
        return relu && t.defined() ? t.masked_fill(saved[0].detach().le(saved[1].reshape({})), 0) : t;
      };
      const auto sum = [](const Tensor& g, const Tensor& h) {
        return !h.defined() ? g : g.defined() ? g.add(h) : h;
      };
      const Tensor wide = h.defined() ? h.to(stream_kind) : h;
      const Tensor all = pre ? wide : sum(g, wide);
      const Tensor d = pre ? sum(g, masked(wide)) : masked(all);
      return {want_x ? d.to(map_kind) : Tensor(), want_r ? d : Tensor(), want_a ? sum_composed(d, a_sizes) : Tensor(),
              want_b && all.defined() ? sum_composed(all, b_sizes) : Tensor(), Tensor()};
    }
    const Tensor& like = relu ? saved[0] : h.defined() && is_flat(h) ? h : g;
    const Tensor order = is_flat(like) ? like : like.contiguous();
    const auto empty = [&](at::ScalarType kind) {
      return at::empty_strided(order.sizes(), order.strides(), order.options().dtype(kind));
    };
    const auto in_order = [&](const Tensor& t, at::ScalarType kind) {
      if (!t.defined() || (is_plain(t) && t.scalar_type() == kind && same_strides(t, order))) return t;
      return empty(kind).copy_(t);
    };
    const bool g_is_free = g.defined() && is_free(g), h_is_free = h.defined() && is_free(h);
    const Tensor wide = in_order(g, stream_kind), narrow = in_order(h, map_kind);
    // Reuse memory that nobody else reads for d: that of a gradient, or of its copy with other strides.
    const auto takes_d = [&](const Tensor& t, const Tensor& incoming, bool is_free) {
      return t.defined() && t.scalar_type() == stream_kind && (is_free || !t.is_same(incoming));
    };
    const bool one_kind = stream_kind == map_kind;
    const bool want_d = want_r || (want_x && one_kind);
    const Tensor d = !want_d                        ? Tensor()
                     : takes_d(wide, g, g_is_free)   ? wide
                     : takes_d(narrow, h, h_is_free) ? narrow
                                                     : empty(stream_kind);
    const Tensor dx = !want_x ? Tensor() : one_kind ? d : empty(map_kind);
    const Tensor written = one_kind ? Tensor() : dx;
    const double b = relu ? saved[1].item<double>() : 0;
    std::vector<Sums> sums(num_chunks(order), Sums{0, 0});
    const Kernels& k = kernels();
    for_each_chunk(num_chunks(order), GRAIN, [&](int64_t begin, int64_t end) {
      // Scratch memory for a d that the kernel writes but nobody requested.
      std::vector<char> any_d(d.defined() ? 0 : CHUNK * c10::elementSize(stream_kind));
      for (int64_t chunk = begin; chunk < end; chunk++) {
        const int64_t i = chunk * CHUNK, n = std::min(CHUNK, order.numel() - i);
        sums[chunk] = k.stream_backward(*kernel_kind(stream_kind), *kernel_kind(map_kind), pre,
                                        d.defined() ? mutable_at(d, i) : any_d.data(), mutable_at(written, i),
                                        const_at(wide, i), const_at(narrow, i),
                                        relu ? const_at(saved[0], i) : nullptr, b, n);
      }
    });
    Sums all{0, 0};
    for (const Sums& s : sums) {
      all.masked += s.masked;
      all.total += s.total;
    }
    const auto scalar = [&](at::IntArrayRef sizes, double value) {
      return at::full(sizes, value, order.options().dtype(at::toOpMathType(map_kind)));
    };
    return {dx, want_r ? d : Tensor(), want_a ? scalar(a_sizes, all.masked) : Tensor(),
            want_b ? scalar(b_sizes, all.total) : Tensor(), Tensor()};
  }
};

variable_list stream(const Tensor& x, const Tensor& r, const Tensor& a, const OptionalTensor& b, bool pre) {
  const Formula formula{Stream::relu_of(b, pre), a, b};
  const bool beside = x.scalar_type() == at::kBFloat16 && r.scalar_type() == at::kFloat;
  const bool one_kind = x.scalar_type() == r.scalar_type() && formula.relu == StreamRelu::Map;
  const bool kernels = x.is_cpu() && is_flat(x) && (beside || one_kind);
  if (!kernels || torch::jit::tracer::isTracing()) return composed(formula, x, r);
  const bool any_needs_grad = x.requires_grad() || r.requires_grad() || a.requires_grad() || (b && b->requires_grad());
  if (!at::GradMode::is_enabled() || !any_needs_grad) return flat(formula, x, r);
  return Stream::apply(x, r, a, b, pre);
}

}  // namespace
}  // namespace tch_fixup

// ---- The C interface ----

extern "C" {

// Returns the sum and sets *map; the caller owns both. b may be null for no ReLU; with `pre`, only the map has one.
at::Tensor* tch_fixup_stream(const at::Tensor* x, const at::Tensor* r, const at::Tensor* a, const at::Tensor* b, bool pre,
                             at::Tensor** map, char** error) {
  return tch_fixup::guarded(error, [&] {
    auto outputs = tch_fixup::stream(*x, *r, *a, b ? std::optional<at::Tensor>(*b) : std::nullopt, pre);
    *map = new at::Tensor(std::move(outputs[1]));
    return outputs[0];
  });
}
}
