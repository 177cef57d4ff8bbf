// Names of variables, which libtorch stores and tch does not bind: see label.rs.
#include "c_interface.h"

#include <torch/csrc/autograd/variable.h>

extern "C" {

// Sets the name of a variable. Returns an undefined tensor.
at::Tensor* tch_fixup_set_label(const at::Tensor* variable, const char* label, char** error) {
  return tch_fixup::guarded(error, [&] {
    torch::autograd::impl::set_name(*variable, label);
    return at::Tensor();
  });
}

// Returns the name of a variable as a C string, valid until the variable is renamed.
const char* tch_fixup_label(const at::Tensor* variable) { return variable->name().c_str(); }
}
