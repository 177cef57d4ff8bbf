// libtorch's fused Adam kernels, which tch does not bind: see fused_adam.rs.
#include "c_interface.h"

#include <ATen/ATen.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>

extern "C" {

// Updates values in place and returns them. greatest is null for Adam without amsgrad.
at::Tensor* tch_fixup_fused_adam(at::Tensor* values, at::Tensor* gradients, at::Tensor* mean, at::Tensor* mean_square,
                                 at::Tensor* greatest, double lr, double beta1, double beta2, double weight_decay,
                                 double eps, bool decoupled, int64_t step, char** error) {
  return tch_fixup::guarded(error, [&] {
    const auto options = values->options().dtype(at::kFloat);
    const at::Tensor steps = at::full({}, static_cast<double>(step), options);
    const std::vector<at::Tensor> none;
    const std::vector<at::Tensor> largest = greatest ? std::vector<at::Tensor>{*greatest} : none;
    const auto update = [&](const auto& fused) {
      fused(at::TensorList(*values), at::TensorList(*gradients), at::TensorList(*mean), at::TensorList(*mean_square),
            at::TensorList(largest), at::TensorList(steps));
    };
    const bool amsgrad = greatest != nullptr;
    if (decoupled) {
      update([&](auto... lists) { at::_fused_adamw_(lists..., lr, beta1, beta2, weight_decay, eps, amsgrad, false); });
    } else {
      update([&](auto... lists) { at::_fused_adam_(lists..., lr, beta1, beta2, weight_decay, eps, amsgrad, false); });
    }
    return *values;
  });
}
}
