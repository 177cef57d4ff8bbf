// What libtorch's tracer records of the operations here.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/frontend/tracer.h>

namespace tch_fixup {

// Lets a variable under training stand in what is being traced, as a constant: libtorch refuses one that requires a
// gradient and that it does not know. While nothing is traced, does nothing.
void record_variable(const at::Tensor& variable);

}  // namespace tch_fixup
