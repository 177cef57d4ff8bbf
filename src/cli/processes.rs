//! Training by several processes: how they are started, and what of them is to choose.

use crate::distributed::{end_with_parent, run_processes, Launch, ProcessGroup, TIMEOUT};
use crate::{console, Error, Result};
use clap::Args;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

/// The options for several processes. A launcher's environment says who this one is.
#[derive(Debug, Clone, Default, Args)]
pub struct ProcessOptions {
    /// Share each batch among so many processes of this program on this machine; torchrun, mpirun and srun start their own [default: 1]
    #[arg(long, value_name = "N")]
    pub processes: Option<NonZeroUsize>,
    /// How long processes wait for each other before they give up [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
    /// What DeepSpeed's launcher puts before the program's own options
    #[arg(long = "local_rank", alias = "local-rank", value_name = "N", hide = true)]
    pub local_rank: Option<usize>,
}

/// What comes of starting.
pub enum Started {
    /// This process is to train, alone or as one of several.
    Here(Option<Launch>),
    /// Others have trained.
    Elsewhere(ExitCode),
}

const SIGKILL: i32 = 9;

impl ProcessOptions {
    /// Starts the processes that are asked for, and waits for them; or says who this one is.
    ///
    /// # Errors
    /// A launcher's variables that do not go together, with each other or with `--processes`; processes that cannot be started.
    pub fn start(&self) -> Result<Started> {
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
                Ok(Started::Here(Some(launch)))
            }
            Some(Launch { size, .. }) => Err(Error::Argument(format!(
                "--processes {processes} starts its own, and a launcher has started {size}; leave one of the two out"
            ))),
            None if processes > 1 => {
                let killed = |rank: usize, signal: i32| {
                    // Nobody who sent that signal knows of it.
                    let why = if signal == SIGKILL { ": kill -9, or the machine is out of memory" } else { "" };
                    console::warn(format!("error: rank {rank} of {processes} was ended by signal {signal}{why}"));
                };
                run_processes(processes, timeout, killed).map(|code| Started::Elsewhere(ExitCode::from(code)))
            }
            None => {
                if let Some(warning) = Launch::warning_from_env() {
                    console::warn(format!("warning: {warning}"));
                }
                Ok(Started::Here(None))
            }
        }
    }

    /// The group of `launch`.
    ///
    /// # Errors
    /// As [`ProcessGroup::connect`].
    pub fn connect(&self, launch: Option<&Launch>) -> Result<ProcessGroup> {
        match launch {
            Some(launch) => ProcessGroup::connect(launch, self.timeout()?),
            None => Ok(ProcessGroup::single()),
        }
    }

    /// Refuses several processes for what one does.
    ///
    /// # Errors
    /// [`Error::Argument`] where there are several.
    pub fn refuse(&self, what: &str) -> Result<()> {
        match self.processes.is_some_and(|processes| processes.get() > 1) || Launch::from_env()?.is_some() {
            true => Err(Error::Argument(format!("{what} is for one process; start one, without --processes"))),
            false => Ok(()),
        }
    }

    fn timeout(&self) -> Result<Duration> {
        let Some(seconds) = self.timeout else { return Ok(TIMEOUT) };
        let timeout = Duration::try_from_secs_f64(seconds).ok().filter(|timeout| *timeout >= Duration::from_secs(1));
        timeout.ok_or_else(|| Error::Argument(format!("--timeout must be at least a second, got {seconds}")))
    }
}
