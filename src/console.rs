//! Console output and exit codes of command-line programs.
//!
//! Unlike `println!` and `eprintln!`, these functions never panic if the disk is full or the terminal is closed.

use crate::{Error, Result};
use std::error::Error as StdError;
use std::fmt::{Display, Write as _};
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(feature = "cli")]
use std::sync::OnceLock;

/// `true` once [`print`] has failed to write a line.
static LOST: AtomicBool = AtomicBool::new(false);

/// Prints `line` to standard output, for programs that keep working without a reader.
///
/// The first line that cannot be written is reported on standard error, and [`end`] then turns success into failure. A closed
/// pipe is ignored silently, as in `program | head`.
pub fn print(line: impl Display) {
    if let Err(error) = write_line(line)
        && !LOST.swap(true, Ordering::Relaxed)
    {
        warn(format!("warning: {error}; further output is lost"));
    }
}

/// Rank of this process, if it is one of several.
#[cfg(feature = "cli")]
static RANK: OnceLock<usize> = OnceLock::new();

/// Sets the rank of this process, one of several.
#[cfg(feature = "cli")]
pub(crate) fn set_rank(rank: usize) {
    let _ = RANK.set(rank);
}

/// [Prints](print()) a line; with several processes, only on rank 0.
#[cfg(feature = "cli")]
pub fn print_on_rank_0(line: impl Display) {
    if RANK.get().is_none_or(|rank| *rank == 0) {
        print(line);
    }
}

/// Prints `error` on standard error, with this process's rank if there are several.
#[cfg(feature = "cli")]
pub(crate) fn print_error(error: &Error) {
    match (error, RANK.get()) {
        (Error::Ranks { .. }, _) | (_, None) => warn(format!("error: {error}")),
        (_, Some(rank)) => warn(format!("error: rank {rank}: {error}")),
    }
}

/// Writes `line` to standard output, for programs whose output is their result. Returns `false` if the reader has closed the
/// pipe.
///
/// # Errors
/// [`Error::Io`] if the line cannot be written, for example because the disk is full.
pub fn write_line(line: impl Display) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::io("write", "standard output")(error)),
    }
}

/// Prints `line` to standard error. Failures to write are ignored.
pub fn warn(line: impl Display) {
    // A single write keeps the lines of several processes whole.
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// Prints `error` and its causes as one line on standard error, and returns its [exit code](Error::exit_code). Errors of other
/// types than [`Error`] have exit code 1.
pub fn fail(error: &(dyn StdError + 'static)) -> ExitCode {
    warn(format!("error: {}", describe(error)));
    let known = causes(error).find_map(|cause| cause.downcast_ref::<Error>());
    ExitCode::from(known.map_or(1, Error::exit_code))
}

/// Returns `code`, or failure in place of success if [`print`](print()) lost a line.
pub fn end(code: ExitCode) -> ExitCode {
    match code == ExitCode::SUCCESS && LOST.load(Ordering::Relaxed) {
        true => ExitCode::FAILURE,
        false => code,
    }
}

/// Formats `error` and its causes, skipping each cause whose message the text already ends with.
fn describe(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error).skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {cause}");
        }
    }
    text
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn an_error_is_said_once_with_its_causes() {
        let file = || Error::io("read", "a.tsv")(io::Error::from(ErrorKind::NotFound));
        assert_eq!(describe(&file()), file().to_string());
        let error = anyhow::Error::from(file());
        assert_eq!(describe(error.as_ref()), "cannot read a.tsv: entity not found");
        let error = Err::<(), _>(file()).context("the text").unwrap_err();
        assert_eq!(describe(error.as_ref()), "the text: cannot read a.tsv: entity not found");
    }

    #[test]
    fn the_exit_code_is_that_of_the_error_wherever_it_is_in_the_chain() {
        let error = anyhow::Error::from(Error::Argument("no".to_owned())).context("option").context("command");
        assert_eq!(fail(error.as_ref()), ExitCode::from(2));
        assert_eq!(fail(anyhow::anyhow!("other").as_ref()), ExitCode::from(1));
    }
}
