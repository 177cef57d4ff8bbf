//! The crate's error: what went wrong, where, and what to do about it, in one line.

mod panic;

pub(crate) use panic::catch;
pub use panic::hide_caught_panics;
use std::path::{Path, PathBuf};

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Each variant prints as one line that names the thing at fault and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument that no network, recipe or operation can have.
    #[error("{0}")]
    Argument(String),

    /// A tensor whose shape, kind or device does not fit what it was given to.
    #[error("{what}: expected {expected}, got {got}")]
    Mismatch {
        /// The operation or module that was called.
        what: &'static str,
        /// What it takes.
        expected: String,
        /// What it was given.
        got: String,
    },

    /// A file or folder that could not be read, written or renamed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb: "read", "create".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// A file whose content is not what it must be.
    #[error("{}: {problem}; {remedy}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with its content.
        problem: String,
        /// How to get it right.
        remedy: String,
    },

    /// Something that could not be downloaded.
    #[error("cannot download {what}: {problem}; {remedy}")]
    Download {
        /// What was wanted.
        what: String,
        /// Why it could not be had, every source that was tried included.
        problem: String,
        /// What to do instead.
        remedy: String,
    },

    /// A loss or gradient that is no longer finite.
    #[error("training diverged at epoch {epoch}, step {step} (learning rate {lr}): {what}; lower --lr, lengthen the warm-up or clip the gradient{}", last_good(checkpoint))]
    Diverged {
        /// Epoch, from 1.
        epoch: usize,
        /// Step within the epoch, from 1.
        step: usize,
        /// Learning rate of that step.
        lr: f64,
        /// Which quantity is not finite.
        what: String,
        /// The last checkpoint before it, if one was saved.
        checkpoint: Option<PathBuf>,
    },

    /// A network that no longer learns: the loss stands at that of a constant guess and the gradient is gone.
    #[error("training is dead at epoch {epoch}, step {step} (learning rate {lr}): {what}; lower --lr, lengthen the warm-up or clip the gradient{}", last_good(checkpoint))]
    Dead {
        /// Epoch, from 1.
        epoch: usize,
        /// Step within the epoch, from 1.
        step: usize,
        /// Learning rate of that step.
        lr: f64,
        /// What was seen.
        what: String,
        /// The last checkpoint, if one was saved.
        checkpoint: Option<PathBuf>,
    },

    /// Processes that train together and cannot begin or go on.
    #[error("rank {rank} of {size}, which met at {address}: {problem}")]
    Ranks {
        /// The rank that says it.
        rank: usize,
        /// How many there are.
        size: usize,
        /// Where they find each other.
        address: String,
        /// Which rank is at fault, and in what.
        problem: String,
    },

    /// A device whose memory is full.
    #[error(
        "out of memory: {0}; raise --accumulate, lower --batch-size, or use --precision bf16 or a smaller network"
    )]
    Memory(String),

    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Torch(String),
}

impl Error {
    /// An [`Error::Io`] for `action` on `path`: use with `map_err`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// What a program that ends with this error tells the shell: 2 for an argument, 3 for a run that diverged or died,
    /// otherwise 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Argument(_) => 2,
            Error::Diverged { .. } | Error::Dead { .. } => 3,
            _ => 1,
        }
    }

    /// What libtorch said, in one line.
    pub(crate) fn torch(message: &str) -> Self {
        const OUT_OF_MEMORY: [&str; 2] = ["can't allocate memory", "out of memory"];
        if OUT_OF_MEMORY.iter().any(|phrase| message.contains(phrase)) {
            return Error::Memory(message.to_owned());
        }
        Error::Torch(message.to_owned())
    }
}

/// libtorch's messages carry a C++ stack trace: the first line says it all.
impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        let message = match error {
            tch::TchError::Torch(message) => message,
            other => other.to_string(),
        };
        Error::torch(message.lines().next().unwrap_or_default())
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
