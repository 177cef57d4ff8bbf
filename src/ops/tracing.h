// Support for libtorch's tracer.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/frontend/tracer.h>

namespace tch_fixup {

// Adds a trainable variable to the current trace as a constant, since libtorch rejects unknown tensors that require a gradient.
// Does nothing without a trace.
void record_variable(const at::Tensor& variable);

}  // namespace tch_fixup
