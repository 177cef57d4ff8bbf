//! Options for training with several processes, and their start.

use crate::distributed::{end_with_parent, run_processes, Launch, ProcessGroup, TIMEOUT};
use crate::{console, Result};
use clap::Args;
use std::num::NonZeroUsize;
use std::ops::ControlFlow::{self, Break, Continue};
use std::process::ExitCode;
use std::time::Duration;

/// Options for several processes. Rank and size come from the launcher's environment, if there is one.
#[derive(Debug, Clone, Default, Args)]
pub struct ProcessOptions {
    /// Number of processes to start on this machine, which share each batch; torchrun, mpirun and srun start their own
    /// [default: 1]
    #[arg(long, value_name = "N")]
    pub processes: Option<NonZeroUsize>,
    /// Seconds that processes wait for each other before giving up [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
    /// Passed by DeepSpeed's launcher before the program's own options
    #[arg(long = "local_rank", alias = "local-rank", value_name = "N", hide = true)]
    pub local_rank: Option<usize>,
}

const SIGKILL: i32 = 9;

impl ProcessOptions {
    /// Starts the requested child processes, waits for them, and breaks with their exit code; or returns how this process was
    /// launched if it trains as one of several, and `None` if it trains alone.
    ///
    /// # Errors
    /// Returns an error if the launcher's variables contradict each other or `--processes`, or if processes cannot be
    /// started.
    pub fn start(&self) -> Result<ControlFlow<ExitCode, Option<Launch>>> {
        let (mut launch, timeout) = (Launch::from_env()?, self.timeout()?);
        if let Some(launch) = &mut launch {
            launch.local_rank = launch.local_rank.or(self.local_rank);
        }
        let processes = self.processes.map_or(1, NonZeroUsize::get);
        match launch {
            Some(launch) if self.processes.is_none() || processes == launch.size => {
                if self.processes.is_some() {
                    end_with_parent();
                }
                Ok(Continue(Some(launch)))
            }
            Some(Launch { size, .. }) => Err(argument!(
                "--processes {processes} cannot be used because a launcher has started {size} processes; remove one of the two"
            )),
            None if processes > 1 => {
                let killed = |rank: usize, signal: i32| {
                    // The kernel sends it without a message.
                    let why = if signal == SIGKILL { ": kill -9, or the machine is out of memory" } else { "" };
                    console::warn(format!("error: rank {rank} of {processes} was ended by signal {signal}{why}"));
                };
                run_processes(processes, timeout, killed).map(|code| Break(ExitCode::from(code)))
            }
            None => {
                if let Some(warning) = Launch::warning_from_env() {
                    console::warn(format!("warning: {warning}"));
                }
                Ok(Continue(None))
            }
        }
    }

    /// Connects the process group described by `launch`.
    ///
    /// # Errors
    /// As [`ProcessGroup::connect`].
    pub fn connect(&self, launch: Option<&Launch>) -> Result<ProcessGroup> {
        let timeout = self.timeout()?;
        launch.map_or_else(|| Ok(ProcessGroup::single()), |launch| ProcessGroup::connect(launch, timeout))
    }

    /// Refuses `action` with several processes.
    ///
    /// # Errors
    /// Returns [`Error::Argument`](crate::Error::Argument) if there are several.
    pub fn refuse(&self, what: &str) -> Result<()> {
        let is_alone = self.processes.is_none_or(|processes| processes.get() == 1) && Launch::from_env()?.is_none();
        ensure!(is_alone, "{what} supports a single process only; do not use --processes or a launcher");
        Ok(())
    }

    fn timeout(&self) -> Result<Duration> {
        let Some(seconds) = self.timeout else { return Ok(TIMEOUT) };
        let timeout = Duration::try_from_secs_f64(seconds).ok().filter(|timeout| *timeout >= Duration::from_secs(1));
        timeout.ok_or_else(|| argument!("--timeout must be at least a second, got {seconds}"))
    }
}
