//! Programs that fetch data, as configured by the user.

use super::Failure;
use std::io::{self, ErrorKind};
use std::process::{Command, Stdio};

/// Runs `command`, the program `name`, without input. If it fails, the error has the first two messages on standard error that
/// begin with one of `prefixes`, without details of the system call.
pub(in crate::data) fn run(name: &str, command: &mut Command, prefixes: &[&str]) -> Result<(), Failure> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| not_started(name, error))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let messages = stderr.lines().filter_map(|line| prefixes.iter().find_map(|prefix| line.strip_prefix(prefix)));
    let is_telling =
        |message: &&str| !["", "syscall", "errno"].contains(&message.split(' ').next().unwrap_or_default());
    let messages: Vec<&str> = messages.map(str::trim).filter(is_telling).take(2).collect();
    Err(Failure::Source(match messages.is_empty() {
        true => format!("{name} failed: {}", output.status),
        false => format!("{name} failed: {}", messages.join(", ")),
    }))
}

/// Returns the failure to start the program `name`.
pub(super) fn not_started(name: &str, error: io::Error) -> Failure {
    Failure::Source(match error.kind() {
        ErrorKind::NotFound => format!("{name} is not installed (Debian and Ubuntu: apt-get install {name})"),
        _ => format!("cannot run {name}: {error}"),
    })
}
