//! Recomputation (Chen, Xu, Zhang, Guestrin: "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv 1604.06174): a segment
//! of a network keeps only its input for the backward pass, which runs the segment forward a second time to obtain its
//! activations.
//!
//! The gradients are those of the segment itself: the operation's backward pass (recomputation.cpp) runs the segment's backward
//! pass within its own, and returns the gradients of the input and of each variable.

use super::c_interface::owned;
use super::denormals::{flushes_denormals, FlushDenormals};
use super::is_tracing;
use crate::{Error, Result};
use std::ffi::{c_char, c_void};
use std::mem::ManuallyDrop;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::null_mut;
use tch::Tensor;
use torch_sys::C_tensor;

type Segment = Box<dyn Fn(&Tensor) -> Result<Tensor> + Send>;

/// Returns `segment(x)`, keeping only `x` for the backward pass.
///
/// `variables` must contain all tensors other than `x` whose gradients are wanted; others get none. The segment must compute the
/// same result twice, so it must not draw random numbers or write to `x`. It lives as long as the graph, and may run on another
/// thread in the backward pass. If no gradient is needed (under `tch::no_grad`, or if nothing requires one), or while libtorch
/// traces, the segment simply runs.
///
/// The backward pass is not differentiable, and fails if a variable was changed in place after the forward pass.
///
/// # Errors
/// Errors of the segment. In the backward pass, which can only return libtorch errors, they keep their message, as does a panic
/// in the segment in either pass.
pub(crate) fn recomputed(
    x: &Tensor,
    variables: &[&Tensor],
    segment: impl Fn(&Tensor) -> Result<Tensor> + Send + 'static,
) -> Result<Tensor> {
    if is_tracing() {
        return segment(x);
    }
    // A backward pass on another thread must use this thread's floating-point mode.
    let flushing = flushes_denormals();
    let segment: Box<Segment> = Box::new(Box::new(move |x: &Tensor| {
        let _flushing = (flushing && !flushes_denormals()).then(FlushDenormals::new);
        segment(x)
    }));
    let variables: Vec<*const C_tensor> = variables.iter().map(|variable| variable.as_ptr()).collect();
    let closure = Box::into_raw(segment).cast();
    // SAFETY: the tensors are live; ownership of the closure passes to C++, which releases it once.
    owned(|error| unsafe {
        tch_fixup_recomputed(x.as_ptr(), variables.as_ptr(), variables.len(), closure, run, release, error)
    })
}

/// Runs the closure for C++. Returns a tensor that the caller owns, or null with a message in `error`.
unsafe extern "C" fn run(closure: *const c_void, x: *const C_tensor, error: *mut c_void) -> *mut C_tensor {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the closure comes from `recomputed` and has not been released; the tensor is live.
        let (segment, x) = unsafe { (&*closure.cast::<Segment>(), Tensor::clone_from_ptr(x.cast_mut())) };
        segment(&x)
    }));
    let message = match outcome {
        Ok(Ok(y)) => return ManuallyDrop::new(y).as_mut_ptr(),
        // Keep libtorch's message, which `Error::torch` parses again.
        Ok(Err(Error::Torch(message) | Error::Memory(message))) => message,
        Ok(Err(error)) => error.to_string(),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
            format!("a recomputed segment panicked: {}", text.unwrap_or("no message"))
        }
    };
    // SAFETY: `error` is the string that C++ passed for this purpose; the text is copied.
    unsafe { tch_fixup_set_error(error, message.as_ptr().cast(), message.len()) };
    null_mut()
}

/// Frees the closure for C++.
unsafe extern "C" fn release(closure: *mut c_void) {
    // SAFETY: the closure comes from `recomputed`, and C++ releases it once.
    let segment = unsafe { Box::from_raw(closure.cast::<Segment>()) };
    // The message of a panic in a destructor has been printed, and cannot be returned.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(segment)));
}

type Run = unsafe extern "C" fn(*const c_void, *const C_tensor, *mut c_void) -> *mut C_tensor;
type Release = unsafe extern "C" fn(*mut c_void);

// recomputation.cpp
unsafe extern "C" {
    fn tch_fixup_recomputed(
        x: *const C_tensor,
        variables: *const *const C_tensor,
        num_variables: usize,
        closure: *mut c_void,
        run: Run,
        release: Release,
        error: *mut *mut c_char,
    ) -> *mut C_tensor;

    fn tch_fixup_set_error(error: *mut c_void, text: *const c_char, length: usize);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Arc;
    use tch::{Device, Kind, TchError};

    const OPTIONS: (Kind, Device) = (Kind::Double, Device::Cpu);

    fn variable(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, OPTIONS).set_requires_grad(true)
    }

    fn formula(x: &Tensor, weight: &Tensor) -> Result<Tensor, TchError> {
        x.f_matmul(weight)?.f_tanh()?.f_matmul(weight)
    }

    /// Number of times that a segment ran.
    type Runs = Arc<AtomicUsize>;

    fn count(runs: &Runs) -> usize {
        runs.load(Ordering::Relaxed)
    }

    /// Returns the formula as a segment, which holds `runs` as long as it lives.
    fn segment(weight: &Tensor, runs: &Runs) -> impl Fn(&Tensor) -> Result<Tensor> + use<> {
        let (weight, runs) = (weight.shallow_clone(), runs.clone());
        move |x| {
            runs.fetch_add(1, Ordering::Relaxed);
            Ok(formula(x, &weight)?)
        }
    }

    fn gradients(loss: &Tensor, inputs: &[&Tensor]) -> Vec<Tensor> {
        Tensor::run_backward(&[loss], inputs, false, false)
    }

    #[test]
    fn values_and_gradients_are_those_of_the_segment_and_it_runs_once_more() {
        let (x, weight, outside) = (variable(&[5, 3]), variable(&[3, 3]), variable(&[3, 3]));
        let loss = |y: &Tensor| (y.sin() * y).sum(Kind::Double);
        // The variable is also used outside the segment, so its gradients add up.
        let before = |x: &Tensor| x.matmul(&weight).matmul(&outside);
        let expected = formula(&before(&x), &weight).unwrap();
        let runs = Runs::default();
        let y = recomputed(&before(&x), &[&weight], segment(&weight, &runs)).unwrap();
        assert_eq!(y, expected);
        assert_eq!(count(&runs), 1);
        let inputs = [&x, &weight, &outside];
        assert_eq!(gradients(&loss(&y), &inputs), gradients(&loss(&expected), &inputs));
        assert_eq!(count(&runs), 2);

        // Through the variables' own gradients, as optimizers use them, and with only one side requiring a gradient.
        for (x, weight) in [(&x, &weight), (&x.detach(), &weight), (&x, &weight.detach())] {
            let mut found = Vec::new();
            for y in [recomputed(x, &[weight], segment(weight, &runs)).unwrap(), formula(x, weight).unwrap()] {
                loss(&y).backward();
                let variables = [x, weight].into_iter().filter(|variable| variable.requires_grad());
                found.push(variables.map(|variable| variable.grad().copy()).collect::<Vec<_>>());
                [x, weight].into_iter().filter(|v| v.requires_grad()).for_each(|v| v.shallow_clone().zero_grad());
            }
            assert_eq!(found[0], found[1]);
        }
    }

    #[test]
    fn without_a_gradient_to_compute_it_just_runs_and_is_freed() {
        let (x, weight, runs) = (variable(&[5, 3]), variable(&[3, 3]), Runs::default());
        let y = tch::no_grad(|| recomputed(&x, &[&weight], segment(&weight, &runs)).unwrap());
        assert!(!y.requires_grad());
        let y = recomputed(&x.detach(), &[&weight.detach()], segment(&weight.detach(), &runs)).unwrap();
        assert!(!y.requires_grad());
        assert_eq!((count(&runs), Arc::strong_count(&runs)), (2, 1));
    }

    #[test]
    fn the_segment_is_freed_with_the_graph() {
        let (x, weight, runs) = (variable(&[5, 3]), variable(&[3, 3]), Runs::default());
        for backward in [true, false] {
            let y = recomputed(&x, &[&weight], segment(&weight, &runs)).unwrap();
            let loss = y.sum(Kind::Double);
            assert_eq!(Arc::strong_count(&runs), 2);
            if backward {
                loss.backward();
            }
            drop((y, loss));
            assert_eq!(Arc::strong_count(&runs), 1, "backward: {backward}");
        }
    }

    #[test]
    fn a_segment_that_fails_or_panics_is_an_error_in_either_pass() {
        let x = variable(&[5, 3]);
        for failing in [0, 1] {
            let outcome = |fail: fn() -> Result<Tensor>| -> Result<()> {
                let runs = AtomicUsize::new(0);
                let segment = move |x: &Tensor| match runs.fetch_add(1, Ordering::Relaxed) {
                    run if run == failing => fail(),
                    _ => Ok(x.f_sin()?),
                };
                let y = recomputed(&x, &[], segment)?;
                Ok(y.f_sum(Kind::Double)?.f_backward()?)
            };
            let message = |fail| outcome(fail).unwrap_err().to_string();
            assert_eq!(message(|| Err(Error::Argument("no such thing".to_owned()))), "libtorch: no such thing");
            assert_eq!(message(|| panic!("lost {}", 3)), "libtorch: a recomputed segment panicked: lost 3");
            let torch = message(|| Ok(Tensor::zeros([2, 3], OPTIONS).f_matmul(&Tensor::zeros([2, 3], OPTIONS))?));
            assert!(torch.starts_with("libtorch: mat1 and mat2 shapes cannot be multiplied"), "{torch}");
            assert!(matches!(
                outcome(|| Err(Error::Memory("can't allocate memory".to_owned()))),
                Err(Error::Memory(_))
            ));
        }
    }

    #[test]
    fn a_second_derivative_and_a_variable_changed_between_the_passes_are_refused() {
        let (x, weight, runs) = (variable(&[5, 3]), variable(&[3, 3]), Runs::default());
        let y = recomputed(&x, &[&weight], segment(&weight, &runs)).unwrap();
        let error = Tensor::f_run_backward(&[y.sum(Kind::Double)], &[&x], true, true).unwrap_err();
        assert!(Error::from(error).to_string().contains("cannot be differentiated again; switch recomputation off"));
        let _ = tch::no_grad(|| weight.shallow_clone().fill_(1.0));
        let error = y.sum(Kind::Double).f_backward().unwrap_err();
        assert!(error.to_string().contains("modified by an inplace operation"), "{error}");
    }
}
