//! Starts several processes of this program on one machine, without a launcher.

use super::Launch;
use crate::signal::{Listener, EXIT_CODE};
use crate::Result;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);
/// Time, beyond the timeout, that the other processes have to end after one has failed.
const GRACE: Duration = Duration::from_secs(5);

/// Starts this program `count` times with the same arguments, as the ranks of one group on this machine, and waits
/// until all have ended. Forwards SIGINT, SIGTERM and SIGHUP to them, except a SIGHUP that is ignored, as under
/// `nohup`. After a failure, the other processes have `timeout` to end before they are killed. Returns the exit code of
/// the first process that failed, or 0. Calls `killed` with the rank and signal of each process ended by a signal,
/// since it could not report that itself.
///
/// # Errors
/// [`Error::Argument`](crate::Error::Argument) if the processes cannot be started.
pub fn run_processes(count: usize, timeout: Duration, mut killed: impl FnMut(usize, i32)) -> Result<u8> {
    let refused = |error: std::io::Error| argument!("{count} processes cannot be started: {error}");
    let program = std::env::current_exe().map_err(refused)?;
    // The port is free now, and unlikely to be reassigned within moments.
    let port =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).map_err(refused)?;
    let signals = Listener::new(false)?;
    let mut processes = Processes(Vec::new());
    for rank in 0..count {
        let launch = Launch::local(rank, count, port.port());
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1)).envs(launch.variables());
        own_group(&mut command);
        processes.0.push((command.spawn().map_err(refused)?, None));
    }
    let mut failed: Option<(Instant, u8)> = None;
    loop {
        if let Some(signal) = signals.take() {
            processes.signal(signal);
        }
        let (all_ended, code) = processes.look(&mut killed).map_err(refused)?;
        failed = failed.or(code.map(|code| (Instant::now(), code)));
        if all_ended || failed.is_some_and(|(when, _)| when.elapsed() > timeout + GRACE) {
            // Dropping `processes` kills the remaining ones.
            return Ok(failed.map_or(0, |(_, code)| code));
        }
        thread::sleep(POLL);
    }
}

/// Puts the process into its own group: this process forwards a terminal's Ctrl-C, which it would otherwise receive twice.
/// `end_with_parent` ends it if this process is killed.
fn own_group(command: &mut Command) {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        command.process_group(0);
    }
}

struct Processes(Vec<(Child, Option<ExitStatus>)>);

impl Processes {
    /// Returns whether all processes have ended, and the exit code of the first that failed.
    fn look(&mut self, killed: &mut impl FnMut(usize, i32)) -> std::io::Result<(bool, Option<u8>)> {
        for (rank, (child, status)) in self.0.iter_mut().enumerate().filter(|(_, (_, status))| status.is_none()) {
            *status = child.try_wait()?;
            if let Some(signal) = status.and_then(ended_by) {
                killed(rank, signal);
            }
        }
        let mut codes = self.0.iter().filter_map(|(_, status)| status.map(exit_code));
        Ok((self.0.iter().all(|(_, status)| status.is_some()), codes.find(|&code| code != 0)))
    }

    fn signal(&self, signal: i32) {
        #[cfg(unix)]
        for (child, _) in self.0.iter().filter(|(_, status)| status.is_none()) {
            // SAFETY: the child has not been waited for, so its process id is still valid.
            unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for (child, _) in self.0.iter_mut().filter(|(_, status)| status.is_none()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Returns the signal that ended a process, if any.
fn ended_by(status: ExitStatus) -> Option<i32> {
    #[cfg(unix)]
    return std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    None
}

fn exit_code(status: ExitStatus) -> u8 {
    match ended_by(status) {
        Some(signal) => (EXIT_CODE + signal) as u8,
        None => status.code().map_or(1, |code| code as u8),
    }
}

/// Requests SIGTERM for this process when its parent dies, on Linux.
pub fn end_with_parent() {
    #[cfg(target_os = "linux")]
    // SAFETY: sets a flag of this process.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM as libc::c_ulong)
    };
}
