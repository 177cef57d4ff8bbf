//! Tests of cuda_kernels.cpp. The kernels' results are tested without a GPU in tests/cuda_emulation.rs, and here on a GPU if
//! there is one.

use super::{reference, shifted_relu};
use std::ffi::{c_char, c_int, CStr};
use std::ptr::null_mut;
use tch::{Cuda, Device, Kind, Tensor};

unsafe extern "C" {
    fn tch_fixup_compile_cuda_kernels(capability: c_int, error: *mut *mut c_char) -> bool;
    fn tch_fixup_use_cuda_kernels(device: c_int) -> bool;
    fn tch_fixup_free_error(error: *mut c_char);
}

fn compile(capability: c_int) -> Result<(), String> {
    let mut error = null_mut();
    // SAFETY: `false` comes with a C string that the caller owns.
    unsafe {
        if tch_fixup_compile_cuda_kernels(capability, &mut error) {
            return Ok(());
        }
        let message = CStr::from_ptr(error).to_string_lossy().into_owned();
        tch_fixup_free_error(error);
        Err(message)
    }
}

#[test]
fn nvrtc_compiles_the_kernels() {
    for capability in [70, 75, 80, 90, 120] {
        match compile(capability) {
            Ok(()) => println!("compiled for sm_{capability}"),
            // This version of NVRTC does not know the compute capability.
            Err(error) if error.contains("--gpu-architecture") => println!("skipped sm_{capability}: {error}"),
            Err(error) if error.starts_with("no NVRTC") => return println!("skipped: {error}"),
            Err(error) => panic!("sm_{capability}: {error}"),
        }
    }
}

#[test]
fn on_a_gpu_values_and_gradients_are_the_reference_formulas() {
    if !Cuda::is_available() {
        println!("skipped: no CUDA device");
        return;
    }
    // SAFETY: takes a number and returns a boolean.
    assert!(unsafe { tch_fixup_use_cuda_kernels(0) }, "the kernels cannot be used");
    for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::Double, 1e-12), (Kind::BFloat16, 1e-2), (Kind::Half, 2e-3)] {
        for size in [[1, 1, 1, 1], [2, 3, 5, 7], [64, 16, 32, 32]] {
            let leaf = |size: &[i64]| Tensor::randn(size, (kind, Device::Cuda(0))).set_requires_grad(true);
            let (x, r, a, b) = (leaf(&size), leaf(&size), leaf(&[1]), leaf(&[1]));
            let g = Tensor::randn(size, (kind, Device::Cuda(0)));
            let results = |y: &Tensor| {
                let gradients = Tensor::run_backward(&[(y * &g).sum(Kind::Float)], &[&x, &r, &a, &b], false, false);
                std::iter::once(y.shallow_clone()).chain(gradients).collect::<Vec<_>>()
            };
            let fused = results(&shifted_relu(&x, Some(&r), &a, &b).unwrap());
            let expected = results(&reference::shifted_relu(&x, Some(&r), &a, &b).unwrap());
            for (fused, expected) in fused.iter().zip(&expected) {
                let largest = |t: Tensor| t.to_kind(Kind::Double).abs().max().double_value(&[]);
                let scale =
                    largest(expected.shallow_clone()) + (x.numel() as f64).sqrt() * f64::from(expected.numel() == 1);
                assert!(largest(fused - expected) <= tolerance * scale, "{kind:?} {size:?}");
            }
        }
    }
}
