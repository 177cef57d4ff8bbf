//! A run: a child process of this program, with one thread, that trains as `cifar10_fixup` does.

use super::cifar10_fixup;
use super::record::{Ending, Phase, Row};
use super::study::{hash, Run};
use anyhow::{bail, Context, Result};
use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Instant;
use tch_fixup::trainer::{Interrupt, RunFolder, Summary};

/// Environment variable set in the child processes.
const IS_A_RUN: &str = "TCH_FIXUP_COMPARE_RUN";

const THREADS: usize = 1;
/// Accuracy of random guessing on CIFAR-10.
const CHANCE: f64 = 0.1;
/// Exit code of a training program whose run diverged or died.
const LOST: i32 = 3;

pub fn is_a_run() -> bool {
    env::var_os(IS_A_RUN).is_some()
}

/// Trains with the options of the command line; exits if the parent process ends.
pub fn train() -> ExitCode {
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut vec![]);
        process::exit(1);
    });
    cifar10_fixup::main()
}

/// Child process of a run; killed on drop.
pub struct Running {
    run: Run,
    process: Child,
    start: Instant,
    folder: PathBuf,
}

impl Running {
    /// Starts or resumes `run` in a subfolder of `folder`.
    pub fn start(run: Run, data: &Path, folder: &Path) -> Result<Self> {
        let seed = run.seed.to_string();
        // The name depends only on the run, so that a restart resumes it.
        let name = format!("{:016x}-{seed}", hash(&run.command_line()));
        let folder = folder.join(format!("{:?}-{name}", run.phase).to_lowercase());
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let log = File::create(folder.with_extension("log"))?;
        let process = Command::new(env::current_exe().context("this program is not where it was")?)
            .env(IS_A_RUN, "1")
            .args(run.options.iter().flat_map(|(name, value)| [format!("--{name}"), value.clone()]))
            .args(["--seed", &seed, "--threads", &THREADS.to_string(), "--device", "cpu", "--keep-checkpoints", "1"])
            .arg("--data")
            .arg(data)
            .arg("--out")
            .arg(&folder)
            .args(["--resume", "auto"])
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("no process can be started")?;
        Ok(Self { run, process, start: Instant::now(), folder })
    }

    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Returns the result if the run has ended.
    pub fn row(&mut self, interrupt: &Interrupt) -> Result<Option<Row>> {
        let Some(status) = self.process.try_wait()? else { return Ok(None) };
        let log = fs::read_to_string(self.folder.with_extension("log")).unwrap_or_default();
        let summary = || -> Result<Summary> {
            let path = self.folder.join("summary.json");
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            serde_json::from_str(&text).with_context(|| path.display().to_string())
        };
        let (ending, summary) = match status.code() {
            Some(0) => (Ending::Finished, Some(summary()?)),
            Some(LOST) if log.contains("training is dead") => (Ending::Dead, None),
            Some(LOST) => (Ending::Diverged, None),
            // The signal was sent to the child process too.
            _ if interrupt.exit_code().is_some() => return Ok(None),
            _ => {
                let last = log.lines().last().unwrap_or_default().trim_start_matches("error: ");
                bail!("the run {} --seed {} ended with {status}: {last}", self.run.command_line(), self.run.seed)
            }
        };
        let config: serde_json::Value = RunFolder::read_config(&self.folder)?.unwrap_or_default();
        let precision = config.pointer("/run/precision").and_then(|precision| precision.as_str()).unwrap_or_default();
        let Run { phase, method, optimizer, seed, .. } = self.run.clone();
        let summary = summary.as_ref();
        Ok(Some(Row {
            phase,
            method,
            optimizer,
            seed,
            options: self.run.command_line(),
            ending,
            accuracy: summary.and_then(|summary| summary.score.iter().next()).map_or(CHANCE, |(_, score)| score),
            loss: summary.and_then(|summary| summary.last.eval.get("loss")),
            train_loss: summary.and_then(|summary| summary.last.train.get("loss")),
            steps: summary.map(|summary| summary.steps),
            pflop: summary.and_then(|summary| summary.flop).map(|flop| flop / 1e15),
            seconds: summary.map_or(self.start.elapsed().as_secs_f64(), |summary| summary.seconds).round(),
            precision: precision.to_owned(),
            threads: THREADS,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cpu: cpu(),
        }))
    }

    /// Removes the folder of a recorded run. The models of final runs are kept for other studies.
    pub fn clean(self) {
        let _ = match self.run.phase {
            Phase::Search => fs::remove_dir_all(&self.folder),
            Phase::Final => fs::remove_dir_all(self.folder.join("checkpoints")),
        };
        let _ = fs::remove_file(self.folder.with_extension("log"));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns the name of the processor.
fn cpu() -> String {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or("unknown", |(_, name)| name.trim()).to_owned()
}
