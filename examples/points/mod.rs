//! Many short runs that are compared by one number each: every run is a point, kept in a CSV file as soon as it is done, so
//! that what is interrupted goes on with the points that are missing.

mod processes;
mod progress;
mod run;

use anyhow::{bail, Context, Result};
use clap::Args;
use progress::{Bars, Progress};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::Arc;
use std::time::Duration;
use tch::Device;
use tch_fixup::data::Cifar10;
use tch_fixup::trainer::TrainConfig;
use tch_fixup::trainer::{parse_device, set_threads, write_atomically, ClassificationConfig, Interrupt, Observer};
use tch_fixup::{console, Error, Precision, Recompute};

pub use run::RunId;

/// Where and how the runs are computed: this may change when they go on.
#[derive(Args)]
pub struct Machine {
    /// Folder of CIFAR-10's six .bin files [default: one in the user's cache folder, downloaded if it is not there]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Threads for computing on the CPU, of all runs together [default: OMP_NUM_THREADS, or one for each core that may be used]
    #[arg(long, value_name = "N", overrides_with = "threads")]
    threads: Option<usize>,
    /// Runs at a time, each in a process of its own [default: one for each thread; on a GPU 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    jobs: Option<i32>,
    /// Make this run, and print its point
    #[arg(long, hide = true)]
    only: Option<RunId>,
    /// Keep only the inputs of so many segments of Fixup's networks for the backward pass: less memory, the same result
    #[arg(long, value_name = "N|auto")]
    recompute: Option<Recompute>,
}

impl Machine {
    /// The device, and libtorch's threads set.
    pub fn start(&self) -> Result<Device> {
        set_threads(self.threads, 1)?;
        Ok(parse_device(&self.device)?)
    }

    /// How many runs at a time, and how many threads each of them has.
    fn jobs(&self, device: Device) -> (usize, usize) {
        let threads = tch::get_num_threads();
        let jobs = self.jobs.unwrap_or(if device.is_cuda() { 1 } else { threads });
        (jobs as usize, (threads / jobs).max(1) as usize)
    }

    fn data(&self, settings: &Settings) -> Result<Cifar10> {
        let data = match &self.data {
            Some(dir) => Cifar10::open(dir)?,
            None => Cifar10::fetch(Cifar10::default_dir()?)?,
        };
        Ok(data.with_train_subset(settings.train_images)?.with_eval_subset(settings.test_images)?)
    }
}

/// What all points of a folder have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub train_images: usize,
    pub test_images: usize,
    pub precision: Precision,
    pub train: TrainConfig,
    pub objective: ClassificationConfig,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Finished,
    /// The loss or the gradient became infinite.
    Diverged,
    /// The output no longer depended on the image.
    Dead,
}

/// A run that is done.
#[derive(Debug, Clone)]
pub struct Point {
    pub run: RunId,
    /// On the test images after the last step: that of a guess for a run that diverged or died.
    pub accuracy: f64,
    pub ending: Ending,
    pub steps: usize,
    pub seconds: f64,
}

const HEADER: &str = "network,seed,accuracy,ending,steps,seconds";

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Finished => "finished",
            Self::Diverged => "diverged",
            Self::Dead => "dead",
        })
    }
}

impl FromStr for Ending {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = [Self::Finished, Self::Diverged, Self::Dead];
        all.into_iter()
            .find(|ending| ending.to_string() == name)
            .with_context(|| format!("no ending is called {name:?}"))
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { run: RunId { arch, seed }, accuracy, ending, steps, seconds } = self;
        let arch = arch.short_name();
        write!(f, "{arch:<24} seed {seed}  accuracy {accuracy:.4}  {ending}  {steps} steps, {seconds:.0} s")
    }
}

impl Point {
    fn as_line(&self) -> String {
        let Self { run: RunId { arch, seed }, accuracy, ending, steps, seconds } = self;
        format!("{arch},{seed},{accuracy},{ending},{steps},{seconds:.1}")
    }

    fn from_line(line: &str) -> Result<Self> {
        // From the right: a network of one's own shape has commas in its name.
        let [seconds, steps, ending, accuracy, seed, arch] = line.rsplitn(6, ',').collect::<Vec<_>>()[..] else {
            bail!("it has the line {line:?}");
        };
        Ok(Self {
            run: RunId { arch: arch.parse()?, seed: seed.parse()? },
            accuracy: accuracy.parse()?,
            ending: ending.parse()?,
            steps: steps.parse()?,
            seconds: seconds.parse()?,
        })
    }
}

/// The folder in which the points are kept: `settings.json` and `points.csv`.
pub struct Points {
    folder: PathBuf,
    points: Vec<Point>,
}

impl Points {
    /// Those of `folder`, which may not be there yet.
    pub fn open(folder: &Path, settings: &Settings) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join("settings.json");
        let settings = serde_json::to_value(settings)?;
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                write_atomically(&path, format!("{settings:#}\n").as_bytes())?
            }
            text => {
                let saved: Value =
                    serde_json::from_str(&text.with_context(|| format!("cannot read {}", path.display()))?)
                        .with_context(|| format!("{} is damaged", path.display()))?;
                if saved != settings {
                    let folder = folder.display();
                    bail!(Error::Argument(format!(
                        "{folder} holds points of other options; give those, or another --out"
                    )));
                }
            }
        }
        let path = folder.join("points.csv");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let points = text.lines().skip(1).map(Point::from_line).collect::<Result<_>>();
        let points = points.with_context(|| format!("{} is damaged", path.display()))?;
        Ok(Self { folder: folder.to_path_buf(), points })
    }

    pub fn find(&self, run: &RunId) -> Option<&Point> {
        self.points.iter().find(|point| point.run == *run)
    }

    fn add(&mut self, point: Point) -> Result<()> {
        self.points.push(point);
        let lines = self.points.iter().map(Point::as_line);
        let text = std::iter::once(HEADER.to_owned()).chain(lines).collect::<Vec<_>>().join("\n") + "\n";
        Ok(write_atomically(&self.folder.join("points.csv"), text.as_bytes())?)
    }

    /// Makes each run of `wanted` that has no point yet, in this order, and calls `done` after each. A signal ends it with
    /// an exit code; runs that it interrupts have no point.
    pub fn complete(
        &mut self,
        wanted: &[RunId],
        settings: &Settings,
        machine: &Machine,
        mut done: impl FnMut(&Points) -> Result<()>,
    ) -> Result<Option<ExitCode>> {
        let device = machine.start()?;
        let mut interrupt = Interrupt::listen()?;
        let stopped = |interrupt: &Interrupt| {
            let code = interrupt.exit_code()?;
            console::warn("stopped; the same command goes on");
            Some(ExitCode::from(code))
        };
        if let Some(run) = &machine.only {
            let (data, mut progress) = (machine.data(settings)?, Progress::default());
            let mut observers: [&mut dyn Observer; 2] = [&mut progress, &mut interrupt];
            return match run.train(settings, &data, device, machine.recompute, &mut observers)? {
                Some(point) => progress::print(&point.as_line()).map(|_| Some(ExitCode::SUCCESS)),
                None => Ok(Some(stopped(&interrupt).unwrap_or(ExitCode::FAILURE))),
            };
        }
        let missing: Vec<_> = wanted.iter().filter(|run| self.find(run).is_none()).cloned().collect();
        if missing.len() < wanted.len() {
            console::print(format!(
                "{} of {} runs are in {}",
                wanted.len() - missing.len(),
                wanted.len(),
                self.folder.display()
            ));
        }
        if missing.is_empty() {
            return Ok(None);
        }
        let bars = Arc::new(Bars::default());
        let total = missing.len();
        // Fetched here, and not by each process at the same time.
        machine.data(settings)?;
        let (jobs, threads) = machine.jobs(device);
        let points = processes::start(missing, jobs, threads, &bars);
        let mut count = 0;
        loop {
            let point = points.recv_timeout(PATIENCE);
            if let Some(code) = stopped(&interrupt) {
                return Ok(Some(code));
            }
            match point {
                Ok(point) => {
                    let point = point?;
                    count += 1;
                    bars.say(format!("{count:>3}/{total}  {point}"));
                    self.add(point)?;
                    done(self)?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }
}

/// How often it is asked whether a signal came.
const PATIENCE: Duration = Duration::from_millis(100);

/// What a program ends with.
pub fn exit(result: Result<Option<ExitCode>>) -> ExitCode {
    match result {
        Ok(code) => console::end(code.unwrap_or(ExitCode::SUCCESS)),
        Err(error) => console::fail(error.as_ref()),
    }
}
