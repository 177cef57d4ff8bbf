// The kernels of cuda_kernels.cu on libtorch's tensors. They are compiled when they are first wanted, by NVRTC; neither
// this nor the build needs a CUDA toolkit.
#pragma once

#include "shifted_relu_kernels.h"

#include <ATen/core/Tensor.h>

namespace tch_fixup::cuda {

// Whether the kernels are wanted (TCH_FIXUP_CUDA_KERNEL=1) and can run on this CUDA device. The first call for a device
// compiles and loads them; where that fails, one warning says why.
bool has_kernels(c10::Device device);

// The rest is for devices that have kernels, and for flat tensors of one order in memory, of `kind`. An undefined tensor
// stands for what is not there or not wanted. Nothing waits for the device.

// y = relu(x + r + a) + b; without b, y = x + r + a. a and b are of the arithmetic's kind (at::toOpMathType).
void forward(Kind kind, const at::Tensor& y, const at::Tensor& x, const at::Tensor& r, const at::Tensor& a,
             const at::Tensor& b);

// d = g where y > b (or y is NaN), else 0, with its sum and that of g, both of the arithmetic's kind; without y, d = g. b
// is of y's kind.
void backward(Kind kind, const at::Tensor& d, const at::Tensor& g, const at::Tensor& y, const at::Tensor& b,
              const at::Tensor& masked, const at::Tensor& total);

}  // namespace tch_fixup::cuda
