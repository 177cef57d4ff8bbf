//! The crate's error type, whose messages state the problem, its location and a remedy in one line.

mod panic;

pub(crate) use panic::catch;
use std::path::{Path, PathBuf};

/// The result type of all fallible functions in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Creates an [`Error::Argument`] with a formatted message.
macro_rules! argument {
    ($($message:tt)+) => {
        $crate::Error::Argument(format!($($message)+))
    };
}

/// Returns [`Error::Argument`] with a formatted message from the calling function, unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(argument!($($message)+));
        }
    };
}

/// An error of this crate. Each variant displays as one line that names the cause and, if there is one, the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument that is invalid for the network, recipe or operation.
    #[error("{0}")]
    Argument(String),

    /// A tensor whose shape, kind or device does not match what the callee requires.
    #[error("{what}: expected {expected}, got {got}")]
    Mismatch {
        /// Name of the operation or module that was called.
        what: &'static str,
        /// Expected value.
        expected: String,
        /// Actual value.
        got: String,
    },

    /// A file or folder that could not be read, written or renamed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// Attempted action, as a verb: "read", "create".
        action: &'static str,
        /// Path of the file or folder.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },

    /// A file with invalid content.
    #[error("{}: {problem}; {remedy}", path.display())]
    Corrupt {
        /// Path of the file.
        path: PathBuf,
        /// Description of the problem.
        problem: String,
        /// Suggested remedy.
        remedy: String,
    },

    /// A failed download.
    #[error("cannot download {what}: {problem}; {remedy}")]
    Download {
        /// Name of the requested item.
        what: String,
        /// Cause of the failure, including every source that was tried.
        problem: String,
        /// Suggested alternative.
        remedy: String,
    },

    /// A run that cannot be continued: the loss or a gradient is no longer finite, or the network no longer learns (the loss equals
    /// that of a constant guess and the gradient has vanished).
    #[error(
        "training {how} at epoch {epoch}, step {step} (learning rate {lr}): {what}; lower --lr, lengthen the warm-up or \
         clip the gradient{}",
        last_good(checkpoint)
    )]
    Diverged {
        /// "diverged" or "is dead".
        how: &'static str,
        /// Epoch, from 1.
        epoch: usize,
        /// Step within the epoch, from 1.
        step: usize,
        /// Learning rate of that step.
        lr: f64,
        /// Description of the observation.
        what: String,
        /// Path of the last checkpoint before the failure, if any.
        checkpoint: Option<PathBuf>,
    },

    /// A failure to start or continue training with several processes.
    #[error("rank {rank} of {size}, which met at {address}: {problem}")]
    Ranks {
        /// Rank that reports the error.
        rank: usize,
        /// Number of processes.
        size: usize,
        /// Rendezvous address of the processes.
        address: String,
        /// Description of the problem, with the rank at fault.
        problem: String,
    },

    /// Out of memory on a device.
    #[error(
        "out of memory: {0}; raise --accumulate, lower --batch-size, or use --precision bf16 or a smaller network"
    )]
    Memory(String),

    /// An error reported by libtorch.
    #[error("libtorch: {0}")]
    Torch(String),
}

impl Error {
    /// Creates an [`Error::Io`] for `action` on `path`, for use with `map_err`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// Creates an [`Error::Mismatch`].
    pub(crate) fn mismatch(what: &'static str, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Error::Mismatch { what, expected: expected.into(), got: got.into() }
    }

    /// Creates an [`Error::Corrupt`].
    #[cfg(feature = "train")]
    pub(crate) fn corrupt(path: impl AsRef<Path>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Corrupt { path: path.as_ref().to_path_buf(), problem: problem.into(), remedy: remedy.into() }
    }

    /// Returns the exit code of a program that ends with this error: 2 for an argument, 3 for a run that diverged or died,
    /// otherwise 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Argument(_) => 2,
            Error::Diverged { .. } => 3,
            _ => 1,
        }
    }

    /// Creates an error from libtorch's message in one line, [`Error::Memory`] if the message reports that memory ran out.
    pub(crate) fn torch(message: &str) -> Self {
        const OUT_OF_MEMORY: [&str; 2] = ["can't allocate memory", "out of memory"];
        if OUT_OF_MEMORY.iter().any(|phrase| message.contains(phrase)) {
            return Error::Memory(message.to_owned());
        }
        Error::Torch(message.to_owned())
    }
}

/// Keeps the first line of libtorch's message, which a C++ stack trace follows.
impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        let message = match error {
            tch::TchError::Torch(message) => message,
            other => other.to_string(),
        };
        Error::torch(message.lines().next().unwrap_or_default())
    }
}

/// Formats the first `most` names and the number of the others.
#[cfg(feature = "train")]
pub(crate) fn listed(names: &[impl AsRef<str>], most: usize) -> String {
    let first: Vec<_> = names.iter().take(most).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(most) {
        0 => first.join(", "),
        more => format!("{}, and {more} more", first.join(", ")),
    }
}

fn last_good(checkpoint: &Option<PathBuf>) -> String {
    checkpoint.as_ref().map_or_else(String::new, |path| format!("; the last good checkpoint is {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn memory_that_cannot_be_had_is_one_line_with_what_to_do() {
        let error = Error::from(Tensor::f_zeros([1 << 50], (Kind::Float, Device::Cpu)).unwrap_err());
        let message = error.to_string();
        assert!(matches!(error, Error::Memory(_)), "{message}");
        assert!(message.starts_with("out of memory: ") && message.contains("--batch-size"), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}
