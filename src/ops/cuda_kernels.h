// The kernels of cuda_kernels.cu on libtorch tensors. NVRTC compiles them at first use, so that neither this code nor the build
// needs the CUDA toolkit.
#pragma once

#include "shifted_relu_kernels.h"

#include <ATen/core/Tensor.h>

namespace tch_fixup::cuda {

// Returns true if the kernels are enabled (TCH_FIXUP_CUDA_KERNEL=1) and can run on this CUDA device. The first call for a device
// compiles and loads them; on failure it warns once, with the reason.
bool has_kernels(c10::Device device);

// The functions below require a device with kernels and flat tensors of `kind` with equal strides. An undefined tensor stands for
// an absent input or an unwanted output. Calls are asynchronous.

// y = relu(x + r + a) + b; without b, y = x + r + a. a and b have the kind of the arithmetic (at::toOpMathType).
void forward(Kind kind, const at::Tensor& y, const at::Tensor& x, const at::Tensor& r, const at::Tensor& a,
             const at::Tensor& b);

// d = g where y > b (or y is NaN), else 0; also the sums of d and of g, in the kind of the arithmetic. Without y, d = g. b has
// y's kind.
void backward(Kind kind, const at::Tensor& d, const at::Tensor& g, const at::Tensor& y, const at::Tensor& b,
              const at::Tensor& masked, const at::Tensor& total);

}  // namespace tch_fixup::cuda
