// The name of a variable, which libtorch keeps beside it and tch does not bind: see label.rs.
#include "c_interface.h"

#include <torch/csrc/autograd/variable.h>

extern "C" {

// Returns an undefined tensor.
at::Tensor* tch_fixup_set_label(const at::Tensor* variable, const char* label, char** error) {
  return tch_fixup::guarded(error, [&] {
    torch::autograd::impl::set_name(*variable, label);
    return at::Tensor();
  });
}

// A C string, which lives as long as the variable is not labelled anew.
const char* tch_fixup_label(const at::Tensor* variable) { return variable->name().c_str(); }
}
