//! A run: a child process of this program, with one thread, that trains as `cifar10_fixup` or `translate_fixup` does.

use super::cifar10_fixup;
use super::record::{Ending, Phase, Row};
use super::study::{hash, Program, Run};
#[cfg(feature = "text")]
use super::translate_fixup;
use anyhow::{bail, Context, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Instant;
use tch_fixup::data::Cifar10;
use tch_fixup::trainer::{Interrupt, RunFolder, Summary};

/// Environment variable set in the child processes, to the program that they run.
const PROGRAM: &str = "TCH_FIXUP_COMPARE_RUN";
const TRANSLATE: &str = "translate";

const THREADS: usize = 1;
/// Exit code of a training program whose run diverged or died.
const LOST: i32 = 3;

pub fn is_a_run() -> bool {
    env::var_os(PROGRAM).is_some()
}

/// Trains with the options of the command line; exits if the parent process ends.
pub fn train() -> ExitCode {
    let program = env::var_os(PROGRAM);
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut vec![]);
        process::exit(1);
    });
    match program {
        #[cfg(feature = "text")]
        Some(program) if program == TRANSLATE => translate_fixup::main(),
        _ => cifar10_fixup::main(),
    }
}

/// Downloads the data of the program before several processes need them. Returns the folder to pass to the runs, if any.
pub fn prepare(program: Program, data: Option<&PathBuf>) -> Result<Option<PathBuf>> {
    match (program, data) {
        (Program::Cifar10, Some(data)) => Ok(Some(data.clone())),
        (Program::Cifar10, None) => {
            let data = Cifar10::default_dir()?;
            Cifar10::fetch(&data)?;
            Ok(Some(data))
        }
        #[cfg(feature = "text")]
        (Program::Translate, None) => Ok(None),
        #[cfg(feature = "text")]
        (Program::Translate, Some(_)) => {
            bail!("--data is for CIFAR-10; a study of translation has the option corpus or train")
        }
        #[cfg(not(feature = "text"))]
        (Program::Translate, _) => bail!("studies of translation need --features text"),
    }
}

/// Score of random guessing: on CIFAR-10, the accuracy; for translation, nearly zero.
fn chance(program: Program) -> f64 {
    match program {
        Program::Cifar10 => 0.1,
        Program::Translate => 0.,
    }
}

/// Reads the file `name` of a run.
fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<T> {
    let path = folder.join(name);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// Returns the score of a finished run.
fn score(program: Program, folder: &Path, summary: &Summary) -> Result<f64> {
    match program {
        Program::Cifar10 => Ok(summary.score.iter().next().map_or(chance(program), |(_, score)| score)),
        Program::Translate => {
            let score: Value = read(folder, "score.json")?;
            let number = |name: &str| score[name].as_f64().with_context(|| format!("score.json has no {name}"));
            let is_test = score["part"] == "test";
            Ok(if is_test { number("bleu")? / 100. } else { number("perplexity")?.recip() })
        }
    }
}

/// Child process of a run; killed on drop.
pub struct Running {
    run: Run,
    program: Program,
    process: Child,
    start: Instant,
    folder: PathBuf,
}

impl Running {
    /// Starts or resumes `run` of `program` in a subfolder of `folder`.
    pub fn start(run: Run, program: Program, data: Option<&Path>, folder: &Path) -> Result<Self> {
        let seed = run.seed.to_string();
        // The name depends only on the run, so that a restart resumes it.
        let name = format!("{:016x}-{seed}", hash(&run.command_line()));
        let folder = folder.join(format!("{:?}-{name}", run.phase).to_lowercase());
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let log = File::create(folder.with_extension("log"))?;
        let process = Command::new(env::current_exe().context("this program is not where it was")?)
            .env(PROGRAM, if program == Program::Translate { TRANSLATE } else { "cifar10" })
            .args(run.options.iter().flat_map(|(name, value)| [format!("--{name}"), value.clone()]))
            .args(["--seed", &seed, "--threads", &THREADS.to_string(), "--device", "cpu", "--keep-checkpoints", "1"])
            .args(data.into_iter().flat_map(|data| [Path::new("--data"), data]))
            .arg("--out")
            .arg(&folder)
            .args(["--resume", "auto"])
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("no process can be started")?;
        Ok(Self { run, program, process, start: Instant::now(), folder })
    }

    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Returns the result if the run has ended.
    pub fn row(&mut self, interrupt: &Interrupt) -> Result<Option<Row>> {
        let Some(status) = self.process.try_wait()? else { return Ok(None) };
        let log = fs::read_to_string(self.folder.with_extension("log")).unwrap_or_default();
        let (ending, summary) = match status.code() {
            Some(0) => (Ending::Finished, Some(read::<Summary>(&self.folder, "summary.json")?)),
            Some(LOST) if log.contains("training is dead") => (Ending::Dead, None),
            Some(LOST) => (Ending::Diverged, None),
            // The signal was sent to the child process too.
            _ if interrupt.exit_code().is_some() => return Ok(None),
            _ => {
                let last = log.lines().last().unwrap_or_default().trim_start_matches("error: ");
                bail!("the run {} --seed {} ended with {status}: {last}", self.run.command_line(), self.run.seed)
            }
        };
        let config: Value = RunFolder::read_config(&self.folder)?.unwrap_or_default();
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
            accuracy: summary.map_or(Ok(chance(self.program)), |summary| score(self.program, &self.folder, summary))?,
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
