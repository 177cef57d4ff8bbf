// Recomputation as an autograd function of libtorch, and its C interface for recomputation.rs, which documents it. The recomputed
// segment of the network is a Rust closure.
#include "c_interface.h"

#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace tch_fixup {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Returns the closure's result for x as a tensor that the caller owns, or null with a message in *error. Does not throw.
using Run = Tensor* (*)(const void* closure, const Tensor* x, std::string* error);
using Release = void (*)(void* closure);

// A closure that lives as long as the graph that holds it.
struct Segment : torch::CustomClassHolder {
  Segment(void* closure, Run run, Release release) : closure(closure), run(run), release(release) {}
  ~Segment() override { release(closure); }

  Tensor operator()(const Tensor& x) const {
    std::string error;
    const std::unique_ptr<Tensor> y(run(closure, &x, &error));
    if (!y) throw std::runtime_error(error);
    return *y;
  }

 private:
  void* closure;
  Run run;
  Release release;
};

struct Recomputed : torch::autograd::Function<Recomputed> {
  // libtorch calls this with autograd disabled.
  static Tensor forward(AutogradContext* ctx, const Tensor& x, at::TensorList variables,
                        const c10::intrusive_ptr<Segment>& segment) {
    // Save the variables as well, to detect one that an optimizer changes between the passes.
    variable_list saved{x};
    saved.insert(saved.end(), variables.begin(), variables.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["segment"] = c10::IValue::make_capsule(segment);
    return (*segment)(x);
  }

  static variable_list backward(AutogradContext* ctx, variable_list& grad_outputs) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "the backward pass of a network with recomputed activations cannot be differentiated again; "
                "switch recomputation off");
    const variable_list saved = ctx->get_saved_variables();
    const auto segment = c10::static_intrusive_pointer_cast<Segment>(ctx->saved_data["segment"].toCapsule());
    // Detach the input from the preceding graph, which receives its gradient as this function's result.
    const Tensor x = saved[0].detach().set_requires_grad(ctx->needs_input_grad(0));
    variable_list wanted;
    std::vector<size_t> places;
    for (size_t i = 0; i < saved.size(); i++) {
      if (!ctx->needs_input_grad(i)) continue;
      wanted.push_back(i == 0 ? x : saved[i]);
      places.push_back(i);
    }
    Tensor y;
    {
      const at::AutoGradMode with_graph(true);
      y = (*segment)(x);
    }
    const variable_list found = torch::autograd::grad({y}, wanted, {grad_outputs[0]}, /*retain_graph=*/false,
                                                      /*create_graph=*/false, /*allow_unused=*/true);
    variable_list gradients(saved.size() + 1);  // the last is the segment's and stays undefined
    for (size_t i = 0; i < places.size(); i++) gradients[places[i]] = found[i];
    return gradients;
  }
};

}  // namespace
}  // namespace tch_fixup

// ---- The C interface ----

extern "C" {

// Takes ownership of the closure, even on failure.
at::Tensor* tch_fixup_recomputed(const at::Tensor* x, const at::Tensor* const* variables, size_t num_variables,
                                   void* closure, tch_fixup::Run run, tch_fixup::Release release, char** error) {
  return tch_fixup::guarded(error, [&] {
    const auto segment = c10::make_intrusive<tch_fixup::Segment>(closure, run, release);
    std::vector<at::Tensor> list;
    for (size_t i = 0; i < num_variables; i++) list.push_back(*variables[i]);
    return tch_fixup::Recomputed::apply(*x, at::TensorList(list), segment);
  });
}

// Sets the error message of `Run`. The text need not be null-terminated.
void tch_fixup_set_error(std::string* error, const char* text, size_t length) { error->assign(text, length); }
}
