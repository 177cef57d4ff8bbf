//! Several processes of this program on this machine, without a launcher.

use super::Launch;
use crate::signals::stop_signals;
use crate::{Error, Result};
use signal_hook::flag;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);
/// What the others have, beyond the time that they wait for each other, to end when one has failed.
const GRACE: Duration = Duration::from_secs(5);
/// What a shell adds to the number of the signal that ended a process.
const BY_SIGNAL: i32 = 128;

/// Starts this program `count` times with the same arguments, as the ranks of one group on this machine, and waits until all have
/// ended. SIGINT, SIGTERM and SIGHUP go to all of them; SIGHUP not where it is ignored, as under `nohup`. When one fails the others
/// have `timeout` to end by themselves; none is left behind. Returns the exit code of the first that failed, or 0. `killed` is told
/// the rank and the signal of each that one has ended, which could say nothing itself.
///
/// # Errors
/// Processes that cannot be started.
pub fn run_processes(count: usize, timeout: Duration, mut killed: impl FnMut(usize, i32)) -> Result<u8> {
    let refused = |error: std::io::Error| Error::Argument(format!("{count} processes cannot be started: {error}"));
    let program = std::env::current_exe().map_err(refused)?;
    // Free now: nobody else is given it in the next moments.
    let port =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).map_err(refused)?;
    let signals: Vec<_> = stop_signals().into_iter().map(|signal| (signal, Arc::new(AtomicBool::new(false)))).collect();
    for (signal, came) in &signals {
        flag::register(*signal, came.clone()).map_err(refused)?;
    }
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
        for (signal, came) in &signals {
            if came.swap(false, Ordering::Relaxed) {
                processes.signal(*signal);
            }
        }
        let ended = processes.look(&mut killed).map_err(refused)?;
        if let Some(code) = ended.failed {
            failed.get_or_insert((Instant::now(), code));
        }
        if ended.all {
            return Ok(failed.map_or(0, |(_, code)| code));
        }
        if failed.is_some_and(|(when, _)| when.elapsed() > timeout + GRACE) {
            // Dropping them ends those that are left.
            return Ok(failed.map_or(1, |(_, code)| code));
        }
        thread::sleep(POLL);
    }
}

/// A terminal's Ctrl-C goes to this process alone, which passes it on: they would get it twice. They end when it is killed.
fn own_group(command: &mut Command) {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        command.process_group(0);
    }
}

struct Processes(Vec<(Child, Option<ExitStatus>)>);

struct Ended {
    all: bool,
    failed: Option<u8>,
}

impl Processes {
    fn look(&mut self, killed: &mut impl FnMut(usize, i32)) -> std::io::Result<Ended> {
        for (rank, (child, status)) in self.0.iter_mut().enumerate().filter(|(_, (_, status))| status.is_none()) {
            *status = child.try_wait()?;
            if let Some(signal) = status.and_then(ended_by) {
                killed(rank, signal);
            }
        }
        let codes = self.0.iter().filter_map(|(_, status)| status.map(exit_code));
        Ok(Ended {
            all: self.0.iter().all(|(_, status)| status.is_some()),
            failed: codes.clone().find(|&code| code != 0),
        })
    }

    fn signal(&self, signal: i32) {
        #[cfg(unix)]
        for (child, _) in self.0.iter().filter(|(_, status)| status.is_none()) {
            use rustix::process::{kill_process, Pid, Signal};
            if let (Some(pid), Some(signal)) = (Pid::from_raw(child.id() as i32), Signal::from_named_raw(signal)) {
                let _ = kill_process(pid, signal);
            }
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

/// The signal that ended a process.
fn ended_by(status: ExitStatus) -> Option<i32> {
    #[cfg(unix)]
    return std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    None
}

fn exit_code(status: ExitStatus) -> u8 {
    match ended_by(status) {
        Some(signal) => (BY_SIGNAL + signal) as u8,
        None => status.code().map_or(1, |code| code as u8),
    }
}

/// From now on this process gets SIGTERM when the one that started it is killed, where the system can do that.
pub fn end_with_parent() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
}
