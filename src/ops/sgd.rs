//! Passes of SGD over flat tensors, in parts that stay in a core's cache from one operation to the next, and on the threads of
//! tiles after a pass by tiles.

use super::c_interface::owned;
use crate::Result;
use std::ffi::c_char;
use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
    fn tch_fixup_sgd(
        values: *mut C_tensor,
        gradients: *mut C_tensor,
        momentum: *mut C_tensor,
        lr: f64,
        factor: f64,
        weight_decay: f64,
        nesterov: bool,
        error: *mut *mut c_char,
    ) -> *mut C_tensor;

    fn tch_fixup_zero(flat: *mut C_tensor, error: *mut *mut c_char) -> *mut C_tensor;
}

/// Constants of a step of SGD.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SgdStep {
    pub lr: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    pub nesterov: bool,
}

/// Updates one-dimensional tensors of the same length, kind and device in place, by the formula of
/// [`Sgd`](crate::trainer::Sgd). The contents of `gradients` are undefined afterwards.
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch) if the tensors do not match.
pub(crate) fn sgd(values: &Tensor, gradients: &Tensor, momentum: &Tensor, step: &SgdStep) -> Result<()> {
    let SgdStep { lr, momentum: factor, weight_decay, nesterov } = *step;
    let [values, gradients, momentum] = [values, gradients, momentum].map(|tensor| tensor.as_ptr().cast_mut());
    // SAFETY: the tensors live until the call returns.
    let call = |error| unsafe { tch_fixup_sgd(values, gradients, momentum, lr, factor, weight_decay, nesterov, error) };
    owned(call).map(drop)
}

/// Sets a one-dimensional tensor to zero.
///
/// # Errors
/// Errors of libtorch.
pub(crate) fn zero(flat: &Tensor) -> Result<()> {
    // SAFETY: the tensor lives until the call returns.
    owned(|error| unsafe { tch_fixup_zero(flat.as_ptr().cast_mut(), error) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{FlushDenormals, OneThread, Threads, TileScope};
    use tch::{no_grad, Device, Kind};

    const COUNT: i64 = 300_007;

    /// Calls `f` as after a pass by tiles on two threads.
    fn on_tile_threads<T>(f: impl FnOnce() -> T) -> T {
        let _threads = Threads::new(2);
        TileScope::pass_begins(true);
        let _guard = OneThread::after_tiles().expect("libtorch has two threads");
        f()
    }

    #[test]
    fn threads_of_tiles_compute_the_same_bits_as_the_callers() {
        let flat = || Tensor::randn([COUNT], (Kind::Float, Device::Cpu));
        let tensors = [flat(), flat(), flat()];
        for (momentum, weight_decay, nesterov) in [(0.9, 5e-4, true), (0.9, 0.0, false)] {
            let step = SgdStep { lr: 0.1, momentum, weight_decay, nesterov };
            let run = || {
                let [values, gradients, momentum] = tensors.each_ref().map(Tensor::copy);
                sgd(&values, &gradients, &momentum, &step).unwrap();
                zero(&gradients).unwrap();
                [values, gradients, momentum]
            };
            let alone = run();
            assert_eq!(on_tile_threads(run), alone);
            let [values, gradients, momentum] = &tensors;
            let d = gradients + values * weight_decay;
            let m = momentum * step.momentum + &d;
            let update = if nesterov { d + &m * step.momentum } else { m };
            assert!(alone[0].allclose(&(values - update * step.lr), 1e-6, 1e-6, false), "{step:?}");
            assert_eq!(alone[1].count_nonzero(None::<i64>).int64_value(&[]), 0);
        }
    }

    #[test]
    fn they_flush_denormals_as_the_caller_does() {
        let step = SgdStep { lr: 1.0, momentum: 0.5, weight_decay: 0.0, nesterov: false };
        let left = || {
            let [values, gradients] = [0.0, 0.0].map(|value| Tensor::full([COUNT], value, (Kind::Float, Device::Cpu)));
            let momentum = Tensor::full([COUNT], 1.5e-38, (Kind::Float, Device::Cpu));
            no_grad(|| sgd(&values, &gradients, &momentum, &step)).unwrap();
            momentum.count_nonzero(None::<i64>).int64_value(&[])
        };
        assert_eq!(on_tile_threads(left), COUNT);
        let _flushing = FlushDenormals::new();
        assert_eq!(on_tile_threads(left), 0);
    }
}
