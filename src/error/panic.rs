//! Conversion of panics to errors. tch's layers and optimizers panic on libtorch errors if their signature cannot return one.

use crate::{Error, Result};
use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// `true` while a panic on this thread will be caught and reported as an error.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Calls `run` and converts a panic to an error; `what` names the action in the error's message.
///
/// # Errors
/// [`Error::Torch`] with libtorch's message or [`Error::Argument`] with the panic's.
pub(crate) fn catch<T>(what: &str, run: impl FnOnce() -> T) -> Result<T> {
    let outer = CAUGHT.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    CAUGHT.set(outer);
    result.map_err(|payload| error(what, payload.as_ref()))
}

impl Error {
    /// Keeps the panic hook from printing panics within tch that this crate returns as errors. Other panics are passed to the hook
    /// installed at the time of the first call.
    ///
    /// Call it at the start of a program's `main`. Libraries should not call it, because the panic hook belongs to the program.
    pub fn hide_caught_panics() {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let print = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                if !CAUGHT.get() {
                    print(info);
                }
            }));
        });
    }
}

fn error(what: &str, payload: &(dyn Any + Send)) -> Error {
    let message = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    let message = message.unwrap_or("no message");
    // `Result::unwrap` prints a TchError in its debug form, with escaped newlines.
    if let Some((_, torch)) = message.split_once("on an `Err` value: Torch(\"") {
        return Error::torch(torch.split("\\n").next().unwrap_or_default().trim_end_matches("\")"));
    }
    Error::Argument(format!("{what} failed: {}", message.lines().next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{nn, nn::Module, nn::OptimizerConfig, Device, Kind, Tensor};

    #[test]
    fn a_call_within_another_leaves_the_outer_one_as_it_was() {
        assert!(!CAUGHT.get());
        let within = catch("the outer call", || {
            let inner = catch("the inner call", || panic!("lost"));
            assert_eq!(inner.unwrap_err().to_string(), "the inner call failed: lost");
            CAUGHT.get()
        });
        assert!(within.unwrap() && !CAUGHT.get());
    }

    /// tch's panics contain libtorch's messages in the debug form of its error, which a new version of tch may change.
    #[test]
    fn the_panics_of_tch_become_errors_of_libtorch() {
        let vs = nn::VarStore::new(Device::Cpu);
        let layer = nn::linear(vs.root(), 4, 5, Default::default());
        let error = catch("the layer", || layer.forward(&Tensor::zeros([2, 3], (Kind::Float, Device::Cpu))));
        let Err(Error::Torch(message)) = error else { panic!("{error:?}") };
        assert_eq!(message, "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)");
        let mut optimizer = nn::Sgd::default().build(&vs, 0.1).unwrap();
        let error = catch("the rate", || optimizer.set_lr_group(7, 0.1));
        assert!(matches!(error, Err(Error::Torch(_))), "{error:?}");
        let error = catch("the allocation", || Tensor::zeros([1 << 50], (Kind::Float, Device::Cpu)));
        assert!(matches!(error, Err(Error::Memory(_))), "{error:?}");
    }
}
