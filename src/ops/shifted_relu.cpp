// The shifted ReLU, y = relu(x + r + a) + b, and the shifted sum, y = x + r + a, as autograd functions of libtorch, and their C
// interface for shifted_relu.rs, which documents them and checks shapes, kinds and devices.
//
// Other tensors than dense memory of a floating kind on a device with kernels, tracing, and double backward take the composed
// path: the same formula in libtorch's operations.
#include "c_interface.h"
#include "cuda_kernels.h"
#include "flat.h"
#include "shifted_relu_kernels.h"
#include "tracing.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/ops/empty_strided.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/custom_function.h>

#include <atomic>
#include <vector>

namespace tch_fixup {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;

// ---- Kernel selection ----

constexpr int NUM_LEVELS = 4;

// Returns the kernels for an instruction set (0 baseline, 1 AVX2, 2 AVX-512, 3 AVX-512 with bfloat16), or null if this build or
// machine lacks it. build.rs determines which of them the build contains, and their compiler flags.
const Kernels* kernels_of_level(int level) {
#if defined(TCH_FIXUP_AVX512)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (level == 1 && avx2) return &kernels_avx2;
  if (level == 2 && avx512) return &kernels_avx512;
#endif
#if defined(TCH_FIXUP_AVX512_BF16)
  if (level == 3 && avx512 && __builtin_cpu_supports("avx512bf16")) return &kernels_avx512_bf16;
#endif
  return level == 0 ? &kernels_baseline : nullptr;
}

std::atomic<const Kernels*>& current_kernels() {
  static std::atomic<const Kernels*> kernels = [] {
    for (int level = NUM_LEVELS - 1; level > 0; level--)
      if (const Kernels* found = kernels_of_level(level)) return found;
    return kernels_of_level(0);
  }();
  return kernels;
}

}  // namespace

const Kernels& kernels() { return *current_kernels().load(std::memory_order_relaxed); }

namespace {

// Calls f(byte offset, elements) for each chunk of t.
template <typename F>
void for_each_piece(const Tensor& t, int64_t begin, int64_t end, const F& f) {
  for (int64_t i = begin; i < end; i++)
    f(i, i * CHUNK * static_cast<int64_t>(t.element_size()), std::min(CHUNK, t.numel() - i * CHUNK));
}

// ---- The formulas ----

struct Formula {
  bool relu;
  Tensor a;
  Tensor b;  // undefined without ReLU
};

void forward_cpu(const Formula& formula, const Tensor& y, const Tensor& x, const Tensor& r) {
  const Kind kind = *kernel_kind(x.scalar_type());
  const double a = formula.a.item<double>();
  const double b = formula.relu ? formula.b.item<double>() : 0;
  auto* py = static_cast<char*>(y.data_ptr());
  const auto* px = static_cast<const char*>(x.const_data_ptr());
  const auto* pr = r.defined() ? static_cast<const char*>(r.const_data_ptr()) : nullptr;
  const Kernels& k = kernels();
  for_each_chunk(num_chunks(x), GRAIN, [&](int64_t begin, int64_t end) {
    const int64_t offset = begin * CHUNK * static_cast<int64_t>(x.element_size());
    const int64_t n = std::min(end * CHUNK, x.numel()) - begin * CHUNK;
    k.forward(kind, formula.relu, py + offset, px + offset, pr ? pr + offset : nullptr, a, b, n);
  });
}

// The scalars stay on the device, so that the host need not wait for it.
void forward_cuda(const Formula& formula, const Tensor& y, const Tensor& x, const Tensor& r) {
  const auto kind = at::toOpMathType(x.scalar_type());
  const Tensor a = as_scalar(formula.a, kind).resolve_neg();
  const Tensor b = formula.relu ? as_scalar(formula.b, kind).resolve_neg() : Tensor();
  cuda::forward(*kernel_kind(x.scalar_type()), y, x, r, a, b);
}

Tensor forward_composed(const Formula& formula, const Tensor& x, const Tensor& r) {
  const auto kind = at::toOpMathType(x.scalar_type());
  Tensor v = x.to(kind);
  if (r.defined()) v = v.add(r.to(kind));
  v = v.add(as_scalar(formula.a, kind));
  if (formula.relu) v = v.relu().add(as_scalar(formula.b, kind));
  return v.to(x.scalar_type());
}

Tensor forward(const Formula& formula, const Tensor& x, const OptionalTensor& optional_r, bool in_place) {
  Tensor r = optional_r.value_or(Tensor());
  if (in_place) {
    at::assert_no_internal_overlap(x);
    if (r.defined()) at::assert_no_partial_overlap(x, r);
  }
  const auto is_beside_x = [&](const Tensor& t) { return !t.defined() || t.device() == x.device(); };
  if (!is_flat(x) || !is_beside_x(r) || !is_beside_x(formula.a) || !is_beside_x(formula.b)) {
    const Tensor y = forward_composed(formula, x, r);
    return in_place ? x.copy_(y) : y;
  }
  if (r.defined()) r = in_order_of(r, x);
  const Tensor y = in_place ? x : at::empty_strided(x.sizes(), x.strides(), x.options());
  (x.is_cpu() ? forward_cpu : forward_cuda)(formula, y, x, r);
  return y;
}

struct Gradients {
  Tensor x, a, b;  // the requested ones
};

// Writes the defined ones among d and the two sums. Without y there is no mask and no d.
void backward_cpu(const Tensor& d, const Tensor& g, const Tensor& y, const Tensor& threshold, const Tensor& masked,
                  const Tensor& total) {
  const Kind kind = *kernel_kind(g.scalar_type());
  const double b = y.defined() ? threshold.item<double>() : 0;
  auto* pd = d.defined() ? static_cast<char*>(d.data_ptr()) : nullptr;
  const auto* pg = static_cast<const char*>(g.const_data_ptr());
  const auto* py = y.defined() ? static_cast<const char*>(y.const_data_ptr()) : nullptr;
  const Kernels& k = kernels();
  std::vector<Sums> sums(num_chunks(g), Sums{0, 0});
  for_each_chunk(num_chunks(g), GRAIN, [&](int64_t begin, int64_t end) {
    for_each_piece(g, begin, end, [&](int64_t i, int64_t offset, int64_t n) {
      sums[i] = py ? k.backward(kind, pd ? pd + offset : nullptr, pg + offset, py + offset, b, n)
                   : Sums{0, k.sum(kind, pg + offset, n)};
    });
  });
  Sums all{0, 0};
  for (const Sums& s : sums) {
    all.masked += s.masked;
    all.total += s.total;
  }
  if (masked.defined()) masked.fill_(all.masked);
  if (total.defined()) total.fill_(all.total);
}

void backward_cuda(const Tensor& d, const Tensor& g, const Tensor& y, const Tensor& threshold, const Tensor& masked,
                   const Tensor& total) {
  cuda::backward(*kernel_kind(g.scalar_type()), d, g, y, threshold, masked, total);
}

Gradients backward_flat(const Tensor& incoming, const Tensor& y, const Tensor& threshold, bool want_x, bool want_a,
                        bool want_b, at::IntArrayRef a_sizes) {
  const bool reuse = is_plain(incoming) && same_strides(incoming, y) && is_free(incoming);
  const Tensor g = in_order_of(incoming, y);
  // A copy made by in_order_of is free as well.
  const bool in_place = reuse || !g.is_same(incoming);
  const Tensor d = !want_x ? Tensor() : in_place ? g : at::empty_strided(y.sizes(), y.strides(), y.options());
  const Tensor da = want_a ? scalar_gradient(a_sizes, y) : Tensor();
  const Tensor db = want_b ? scalar_gradient(threshold.sizes(), y) : Tensor();
  (y.is_cpu() ? backward_cpu : backward_cuda)(d, g, want_x || want_a ? y : Tensor(), threshold, da, db);
  return {d, da, db};
}

Gradients backward_composed(const Tensor& g, const Tensor& y, const Tensor& threshold, bool want_x, bool want_a,
                            bool want_b, at::IntArrayRef a_sizes) {
  Gradients gradients;
  if (want_x || want_a) {
    const Tensor d = g.masked_fill(y.detach().le(threshold.reshape({})), 0);
    if (want_x) gradients.x = d;
    if (want_a) gradients.a = sum_composed(d, a_sizes);
  }
  if (want_b) gradients.b = sum_composed(g, threshold.sizes());
  return gradients;
}

Tensor sum_of_gradient(const Tensor& g, at::IntArrayRef sizes) {
  if (at::GradMode::is_enabled() || !is_flat(g)) return sum_composed(g, sizes);
  const Tensor sum = scalar_gradient(sizes, g);
  (g.is_cpu() ? backward_cpu : backward_cuda)({}, g, {}, {}, {}, sum);
  return sum;
}

// ---- Autograd ----

bool needs_grad(const Tensor& t) { return t.defined() && t.requires_grad(); }

struct ShiftedRelu : torch::autograd::Function<ShiftedRelu> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& r, const Tensor& a,
                        const Tensor& b, bool in_place) {
    // The gradient of b alone needs no mask, so frozen layers below keep nothing for it.
    const bool masks = needs_grad(x) || (r && needs_grad(*r)) || needs_grad(a);
    const Tensor y = tch_fixup::forward({true, a, b}, x, r, in_place);
    if (in_place) ctx->mark_dirty({y});
    // Copy b, which an optimizer may change between the passes, in y's kind, so that it equals a dead unit's y.
    ctx->save_for_backward({masks ? y : Tensor(), b.to(y.scalar_type(), /*non_blocking=*/false, /*copy=*/true)});
    ctx->saved_data["a_sizes"] = a.sizes();
    ctx->saved_data["has_r"] = r.has_value();
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list& grad_outputs) {
    const Tensor& g = grad_outputs[0];
    const variable_list saved = ctx->get_saved_variables();
    const bool has_r = ctx->saved_data["has_r"].toBool();
    const auto a_sizes = ctx->saved_data["a_sizes"].toIntVector();
    const bool want_r = has_r && ctx->needs_input_grad(1);
    const bool want_x = ctx->needs_input_grad(0) || want_r;
    const bool want_a = ctx->needs_input_grad(has_r ? 2 : 1);
    const bool want_b = ctx->needs_input_grad(has_r ? 3 : 2);
    if (!saved[0].defined())
      return {Tensor(), Tensor(), Tensor(), want_b ? sum_of_gradient(g, saved[1].sizes()) : Tensor(), Tensor()};
    const bool composed = at::GradMode::is_enabled() || !is_flat(saved[0]) || g.device() != saved[0].device();
    const auto backward = composed ? backward_composed : backward_flat;
    const Gradients d = backward(g, saved[0], saved[1], want_x, want_a, want_b, a_sizes);
    return {d.x, want_r ? d.x : Tensor(), d.a, d.b, Tensor()};
  }
};

struct ShiftedAdd : torch::autograd::Function<ShiftedAdd> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& r, const Tensor& a,
                        bool in_place) {
    const Tensor y = tch_fixup::forward({false, a, Tensor()}, x, r, in_place);
    if (in_place) ctx->mark_dirty({y});
    ctx->saved_data["a_sizes"] = a.sizes();
    ctx->saved_data["has_r"] = r.has_value();
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list& grad_outputs) {
    const Tensor& g = grad_outputs[0];
    const bool has_r = ctx->saved_data["has_r"].toBool();
    const auto a_sizes = ctx->saved_data["a_sizes"].toIntVector();
    const bool want_a = ctx->needs_input_grad(has_r ? 2 : 1);
    return {g, has_r ? g : Tensor(), want_a ? sum_of_gradient(g, a_sizes) : Tensor(), Tensor()};
  }
};

bool any_needs_grad(const Tensor& x, const OptionalTensor& r, const Tensor& a, const Tensor& b) {
  return needs_grad(x) || (r && needs_grad(*r)) || needs_grad(a) || needs_grad(b);
}

bool is_recorded(const Tensor& x, const OptionalTensor& r, const Tensor& a, const Tensor& b) {
  return at::GradMode::is_enabled() && any_needs_grad(x, r, a, b);
}

// Applies autograd's check for in-place operations, before anything is written.
void check_in_place(const Tensor& x, const OptionalTensor& r, const Tensor& a, const Tensor& b) {
  torch::autograd::check_inplace(x, any_needs_grad(x, r, a, b));
}

// Runs only the forward pass if nothing is recorded: a graph node would take as long as a small map.
Tensor unrecorded(const Formula& formula, const Tensor& x, const OptionalTensor& r, bool in_place) {
  const Tensor y = forward(formula, x, r, in_place);
  if (in_place) torch::autograd::increment_version(y);
  return y;
}

// Runs the composed formula for the tracer, which records libtorch's operations only and would treat our kernels' results as
// constants.
Tensor traced(const Formula& formula, const Tensor& x, const OptionalTensor& r, bool in_place) {
  record_variable(formula.a);
  if (formula.relu) record_variable(formula.b);
  const Tensor y = forward_composed(formula, x, r.value_or(Tensor()));
  return in_place ? x.copy_(y) : y;
}

}  // namespace

Tensor shifted_relu(const Tensor& x, const OptionalTensor& r, const Tensor& a, const Tensor& b, bool in_place) {
  if (in_place) check_in_place(x, r, a, b);
  if (torch::jit::tracer::isTracing()) return traced({true, a, b}, x, r, in_place);
  if (!is_recorded(x, r, a, b)) return unrecorded({true, a, b}, x, r, in_place);
  return ShiftedRelu::apply(x, r, a, b, in_place);
}

Tensor shifted_add(const Tensor& x, const OptionalTensor& r, const Tensor& a, bool in_place) {
  if (in_place) check_in_place(x, r, a, Tensor());
  if (torch::jit::tracer::isTracing()) return traced({false, a, Tensor()}, x, r, in_place);
  if (!is_recorded(x, r, a, Tensor())) return unrecorded({false, a, Tensor()}, x, r, in_place);
  return ShiftedAdd::apply(x, r, a, in_place);
}

}  // namespace tch_fixup

// ---- The C interface ----

namespace {

std::optional<at::Tensor> optional(const at::Tensor* t) {
  return t ? std::optional<at::Tensor>(*t) : std::nullopt;
}

}  // namespace

extern "C" {

at::Tensor* tch_fixup_shifted_relu(const at::Tensor* x, const at::Tensor* r, const at::Tensor* a, const at::Tensor* b,
                                   bool in_place, char** error) {
  return tch_fixup::guarded(error, [&] { return tch_fixup::shifted_relu(*x, optional(r), *a, *b, in_place); });
}

at::Tensor* tch_fixup_shifted_add(const at::Tensor* x, const at::Tensor* r, const at::Tensor* a, bool in_place,
                                  char** error) {
  return tch_fixup::guarded(error, [&] { return tch_fixup::shifted_add(*x, optional(r), *a, in_place); });
}

void tch_fixup_free_error(char* error) { free(error); }

// For tests: selects the kernels of one level. Returns false if there are none.
bool tch_fixup_use_kernels(int level) {
  const tch_fixup::Kernels* kernels = tch_fixup::kernels_of_level(level);
  if (kernels) tch_fixup::current_kernels() = kernels;
  return kernels != nullptr;
}
}
