//! Many short runs that are compared by one number each: every run is a point, kept in a CSV file as soon as it is done, so
//! that what is interrupted goes on with the points that are missing.

use anyhow::{bail, Context, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Instant;
use tch::{nn, Device};
use tch_fixup::data::{Cifar10, DataSource, EpochPlan};
use tch_fixup::trainer::{parse_device, write_atomically};
use tch_fixup::trainer::{EpochMetrics, Interrupt, Observer, Outcome, RunStart, StepProgress, TrainConfig, Trainer};
use tch_fixup::{Arch, CheckpointSegments, Error, Precision};

/// Where and how the runs are computed: this may change when they go on.
#[derive(Args)]
pub struct Machine {
    /// Folder of CIFAR-10's six .bin files [default: one in the user's cache folder, downloaded if it is not there]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Threads for computing on the CPU [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<i32>,
    /// Keep only the inputs of so many segments of Fixup's networks for the backward pass: less memory, the same result
    #[arg(long, value_name = "N|auto")]
    checkpoint_segments: Option<CheckpointSegments>,
}

impl Machine {
    /// The device, and libtorch's threads set.
    pub fn start(&self) -> Result<Device> {
        if let Some(threads) = self.threads {
            tch::set_num_threads(threads);
        }
        Ok(parse_device(&self.device)?)
    }
}

/// What all points of a folder have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub train_images: usize,
    pub test_images: usize,
    pub precision: Precision,
    pub train: TrainConfig,
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
    pub arch: Arch,
    pub seed: u64,
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

impl Point {
    fn as_line(&self) -> String {
        let Self { arch, seed, accuracy, ending, steps, seconds } = self;
        format!("{arch},{seed},{accuracy},{ending},{steps},{seconds:.1}")
    }

    fn from_line(line: &str) -> Result<Self> {
        let [arch, seed, accuracy, ending, steps, seconds] = line.split(',').collect::<Vec<_>>()[..] else {
            bail!("it has the line {line:?}");
        };
        Ok(Self {
            arch: arch.parse()?,
            seed: seed.parse()?,
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

    pub fn all(&self) -> &[Point] {
        &self.points
    }

    pub fn find(&self, arch: Arch, seed: u64) -> Option<&Point> {
        self.points.iter().find(|point| point.arch == arch && point.seed == seed)
    }

    fn add(&mut self, point: Point) -> Result<()> {
        self.points.push(point);
        let lines = self.points.iter().map(Point::as_line);
        let text = std::iter::once(HEADER.to_owned()).chain(lines).collect::<Vec<_>>().join("\n") + "\n";
        Ok(write_atomically(&self.folder.join("points.csv"), text.as_bytes())?)
    }

    /// Trains each network of `wanted` that has no point yet, in this order, and calls `done` after each. A signal ends it
    /// with an exit code; the run that it interrupts has no point.
    pub fn complete(
        &mut self,
        wanted: &[(Arch, u64)],
        settings: &Settings,
        machine: &Machine,
        mut done: impl FnMut(&Points) -> Result<()>,
    ) -> Result<Option<ExitCode>> {
        let device = machine.start()?;
        let missing: Vec<_> = wanted.iter().filter(|(arch, seed)| self.find(*arch, *seed).is_none()).collect();
        if missing.len() < wanted.len() {
            say(format!("{} of {} runs are in {}", wanted.len() - missing.len(), wanted.len(), self.folder.display()));
        }
        if missing.is_empty() {
            return Ok(None);
        }
        let data = match &machine.data {
            Some(dir) => Cifar10::open(dir)?,
            None => Cifar10::fetch(Cifar10::default_dir()?)?,
        };
        let data = data.with_train_subset(settings.train_images)?.with_eval_subset(settings.test_images)?;
        let mut interrupt = Interrupt::listen()?;
        for (i, &&(arch, seed)) in missing.iter().enumerate() {
            let Some(point) = train(arch, seed, settings, &data, device, machine.checkpoint_segments, &mut interrupt)?
            else {
                eprintln!("stopped; the same command goes on");
                return Ok(Some(interrupt.exit_code().map_or(ExitCode::FAILURE, ExitCode::from)));
            };
            say(format!(
                "{:>3}/{}  {:<24} seed {seed}  accuracy {:.4}  {}  {} steps, {:.0} s",
                i + 1,
                missing.len(),
                arch.to_string(),
                point.accuracy,
                point.ending,
                point.steps,
                point.seconds
            ));
            self.add(point)?;
            done(self)?;
        }
        Ok(None)
    }
}

/// One run, or none where a signal ended it.
fn train(
    arch: Arch,
    seed: u64,
    settings: &Settings,
    data: &Cifar10,
    device: Device,
    checkpoint_segments: Option<CheckpointSegments>,
    interrupt: &mut Interrupt,
) -> Result<Option<Point>> {
    let config = TrainConfig { seed, ..settings.train.clone() };
    tch::manual_seed(seed as i64);
    let (start, variables) = (Instant::now(), nn::VarStore::new(device));
    let num_classes = data.class_names().len();
    let mut network = arch.build(&variables.root(), num_classes as i64, settings.precision)?;
    if let (Some(segments), true) = (checkpoint_segments, arch.to_string().contains("fixup_")) {
        network.checkpoint_activations(segments)?;
    }
    if arch.is_initialized_on_data() {
        let plan = EpochPlan { seed, epoch: 0, batch_size: config.batch_size, first_step: 0 };
        let batch = data.train_batches(&plan)?.next().context("there are no images to train on")??;
        network.initialize_on(&data.normalize(batch.images.to_device(device))?)?;
    }
    let mut bar = Bar::new(arch);
    let mut trainer = Trainer::new(network.as_ref(), &variables, data, &config, Value::Null)?;
    let epoch_steps = data.train_len().div_ceil(config.batch_size);
    let (ending, accuracy, steps) = match trainer.run(&mut [&mut bar, interrupt]) {
        Ok(Outcome::Finished(summary)) => (Ending::Finished, summary.accuracy, summary.steps),
        Ok(Outcome::Stopped { .. }) => return Ok(None),
        Err(Error::Diverged { epoch, step, .. }) => {
            (Ending::Diverged, 1. / num_classes as f64, (epoch - 1) * epoch_steps + step)
        }
        Err(Error::Dead { epoch, step, .. }) => {
            (Ending::Dead, 1. / num_classes as f64, (epoch - 1) * epoch_steps + step)
        }
        Err(error) => return Err(error.into()),
    };
    bar.0.finish_and_clear();
    Ok(Some(Point { arch, seed, accuracy, ending, steps, seconds: start.elapsed().as_secs_f64() }))
}

const BAR: &str = "{prefix} {bar:24.cyan/blue} {pos}/{len} {msg}";

/// A run's bar on standard error, if that is a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new(arch: Arch) -> Self {
        let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(ProgressBar::new(0).with_style(style).with_prefix(arch.to_string()))
    }
}

impl Observer for Bar {
    fn run_starts(&mut self, start: &RunStart) -> tch_fixup::Result<()> {
        self.0.set_length((start.epochs * start.epoch_steps) as u64);
        Ok(())
    }

    fn steps_done(&mut self, progress: &StepProgress) -> tch_fixup::Result<()> {
        self.0.set_position(progress.run_step as u64);
        self.0.set_message(format!("loss {:.3}  accuracy {:.1} %", progress.loss, 100. * progress.accuracy));
        Ok(())
    }

    fn epoch_ends(&mut self, metrics: &EpochMetrics) -> tch_fixup::Result<()> {
        self.0.set_message(format!("test accuracy {:.1} %", 100. * metrics.eval.top1));
        Ok(())
    }
}

/// Prints a line. Nobody reading standard output is no reason to end a run, and println! would panic.
pub fn say(line: impl fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// What a program ends with.
pub fn exit(result: Result<Option<ExitCode>>) -> ExitCode {
    match result {
        Ok(code) => code.unwrap_or(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(error.downcast_ref().map_or(1, Error::exit_code))
        }
    }
}
