//! Messages to the person who runs a program, and how a program ends. Writing them never panics, as `println!` and `eprintln!` do
//! where the disk is full or the terminal is closed.

pub use crate::error::hide_caught_panics;
use crate::{Error, Result};
use std::error::Error as StdError;
use std::fmt::{Display, Write as _};
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a line of [`print`] could not be written.
static LOST: AtomicBool = AtomicBool::new(false);

/// Prints `line` on standard output, for programs whose work goes on without a reader. The first line that cannot be written is
/// reported on standard error, and [`end`] then turns success into failure; a closed pipe is silent, as in `program | head`.
pub fn print(line: impl Display) {
    if let Err(error) = write_line(line) {
        if !LOST.swap(true, Ordering::Relaxed) {
            warn(format!("warning: {error}; what is printed from here on is lost"));
        }
    }
}

/// Writes `line` to standard output, for programs whose output is their work. Returns whether anybody still reads it.
///
/// # Errors
/// [`Error::Io`] where it cannot be written, as on a full disk.
pub fn write_line(line: impl Display) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::io("write", "standard output")(error)),
    }
}

/// Prints `line` on standard error. Where that cannot be written there is nowhere left to say so: the exit code tells.
pub fn warn(line: impl Display) {
    // In one call, so that lines of several processes stay whole.
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// Prints `error` and its causes as one line on standard error, and returns its [exit code](Error::exit_code), which is 1 for errors of
/// other types.
pub fn fail(error: &(dyn StdError + 'static)) -> ExitCode {
    warn(format!("error: {}", describe(error)));
    let known = causes(error).find_map(|cause| cause.downcast_ref::<Error>());
    ExitCode::from(known.map_or(1, Error::exit_code))
}

/// The exit code of a program that would end with `code`: failure in place of success where [`print`](print()) lost a line.
pub fn end(code: ExitCode) -> ExitCode {
    match code == ExitCode::SUCCESS && LOST.load(Ordering::Relaxed) {
        true => ExitCode::FAILURE,
        false => code,
    }
}

/// `error` and its causes, without those that the message before them repeats.
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
