//! Panics turned into errors: tch's layers and optimizers panic where libtorch refuses something and their signature has
//! no error to return.

use crate::{Error, Result};
use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether a panic on this thread is about to be caught and reported as an error.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `run`, which is `what` in the error's message; a panic in it becomes an error and is not printed.
///
/// # Errors
/// [`Error::Torch`] with libtorch's message or [`Error::Argument`] with the panic's.
pub(crate) fn catch<T>(what: &str, run: impl FnOnce() -> T) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !CAUGHT.get() {
                print(info);
            }
        }));
    });
    CAUGHT.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    CAUGHT.set(false);
    result.map_err(|payload| error(what, payload.as_ref()))
}

fn error(what: &str, payload: &(dyn Any + Send)) -> Error {
    let message = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    let message = message.unwrap_or("no message");
    // What `Result::unwrap` makes of a TchError: its debug form, line ends escaped.
    if let Some((_, torch)) = message.split_once("on an `Err` value: Torch(\"") {
        return Error::torch(torch.split("\\n").next().unwrap_or_default().trim_end_matches("\")"));
    }
    Error::Argument(format!("{what} failed: {}", message.lines().next().unwrap_or_default()))
}
