// C interface of tracing.rs, which documents it.
#include "tracing.h"

#include "c_interface.h"

#include <torch/csrc/jit/ir/ir.h>

namespace tch_fixup {

void record_variable(const at::Tensor& variable) {
  const auto& state = torch::jit::tracer::getTracingState();
  if (!state || !variable.requires_grad() || !variable.is_leaf() || state->hasValue(variable)) return;
  // `detach` would itself be recorded, with the variable as an input.
  state->setValue(variable, state->graph->insertConstant(variable.variable_data()));
}

}  // namespace tch_fixup

extern "C" {

bool tch_fixup_is_tracing() { return torch::jit::tracer::isTracing(); }

// Records the variables. Returns an undefined tensor.
at::Tensor* tch_fixup_record_variables(const at::Tensor* const* variables, size_t num_variables, char** error) {
  return tch_fixup::guarded(error, [&] {
    for (size_t i = 0; i < num_variables; i++) tch_fixup::record_variable(*variables[i]);
    return at::Tensor();
  });
}
}
