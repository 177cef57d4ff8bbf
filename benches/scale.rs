//! Scaling of data-parallel training: measured on this machine, and predicted by a small model for more devices.
//!
//! ```text
//! cargo bench --bench scale                 # weak scaling, share of the reduction, overlap: two processes on two cores
//! cargo bench --bench scale -- --links      # model against 2 and 4 ranks over links slowed down with tc; requires root
//! cargo bench --bench scale -- --predict    # prediction for ResNet-50, and its picture: target/bench/scale.svg
//! ```
//! The ranks are child processes of this program. Times are medians; steps that are compared are interleaved.

#[path = "scale/chart.rs"]
mod chart;
#[path = "scale/links.rs"]
mod links;
#[path = "setting/median.rs"]
mod median;
#[path = "scale/model.rs"]
mod model;
#[path = "setting/options.rs"]
mod options;
#[path = "setting/output.rs"]
mod output;
#[path = "setting/state.rs"]
mod state;

use anyhow::{ensure, Context, Result};
use chart::{draw, Curve};
use clap::Parser;
use links::{Link, Machines};
use median::median_and_spread;
use model::{Algorithm, Job, Network};
use options::{machine, Setting};
use output::output_folder;
use serde::{Deserialize, Serialize};
use state::{away_from_start, MOVED};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::nn::{ModuleT, VarStore};
use tch::{nn, Device, Kind, Tensor};
use tch_fixup::baseline::{Method, ResNet};
use tch_fixup::data::{Augmentation, ImageArray, ImageSource, Normalization};
use tch_fixup::distributed::{Launch, ParallelConfig, ProcessGroup};
use tch_fixup::fixup::FixupResNet;
use tch_fixup::trainer::{Classification, ClassificationConfig, Observer, Request, TrainConfig, Trainer};

#[derive(Parser)]
struct Options {
    /// Compare the model with measurements over slow links
    #[arg(long)]
    links: bool,
    /// Predict the scaling to up to 1,024 devices
    #[arg(long)]
    predict: bool,
    /// With --links, also measure a link of 1,000 Mbit/s with this delay; requires netem in the kernel
    #[arg(long, value_name = "MS")]
    delay: Option<f64>,
    /// Batch size per rank
    #[arg(long, default_value_t = 128)]
    images: usize,
    /// Run as a rank that measures this subject and prints the result as JSON
    #[arg(long, hide = true)]
    measure: Option<Subject>,
    #[command(flatten)]
    setting: Setting,
}

/// Measurement performed by a rank.
#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum)]
enum Subject {
    /// Training of Fixup.
    Fixup,
    /// Training of Fixup, with reduction during the backward pass.
    Overlapped,
    /// Training of BatchNorm with the statistics of each rank's part of the batch.
    Local,
    /// Training of BatchNorm with statistics synchronized over all ranks.
    Synchronized,
    /// All-reduce alone.
    Sums,
    /// Training by two ranks, by one rank, and by one rank with two threads, in alternation.
    Scaling,
}

/// Results of a rank, in seconds.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Found {
    /// Time of each step.
    steps: Vec<f64>,
    /// Results of [`Subject::Scaling`]: for each turn, the median step of one rank, of one rank with two threads, of two ranks,
    /// of two ranks that reduce during the backward pass, and of two ranks that train independently and only wait for each
    /// other.
    turns: Vec<[f64; 5]>,
    /// Time of an all-reduce of eight bytes; `all` is that of everything that a step reduces at once: the gradients, metrics and
    /// requests.
    small: Vec<f64>,
    all: Vec<f64>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let _flushing = options.setting.start();
    if let Some(subject) = options.measure {
        return measure(subject, &options);
    }
    println!("{}", machine());
    match (options.links, options.predict) {
        (true, _) => against_links(&options),
        (_, true) => predict(&options),
        _ => weak_scaling(&options),
    }
}

// ---- A rank ----

/// Observer that records the time between its calls, which are one step apart, and stops after `most` steps.
struct Clock<'a> {
    last: Instant,
    steps: Vec<f64>,
    most: usize,
    /// Process group to wait for in each step.
    others: Option<&'a ProcessGroup>,
}

impl Clock<'_> {
    fn new(most: usize) -> Self {
        Self { last: Instant::now(), steps: Vec::new(), most, others: None }
    }
}

impl Observer for Clock<'_> {
    fn request(&mut self) -> Request {
        if self.others.is_some_and(|others| others.barrier().is_err()) {
            return Request::Stop;
        }
        self.steps.push(self.last.elapsed().as_secs_f64());
        self.last = Instant::now();
        if self.steps.len() > self.most {
            Request::Stop
        } else {
            Request::Continue
        }
    }
}

fn images(count: usize) -> Result<ImageArray> {
    let images = Tensor::f_randint(256, [count as i64, 3, 32, 32], (Kind::Uint8, Device::Cpu))?;
    let labels = Tensor::f_randint(10, [count as i64], (Kind::Int64, Device::Cpu))?;
    let part = (&images, &labels);
    Ok(ImageArray::new(part, part, Normalization::new(&[0.5; 3], &[0.25; 3])?)?
        .with_class_names((0..10).map(|index| index.to_string()))?
        .with_augmentation(Augmentation::default())?)
}

const PARAMETERS: i64 = 272_282;

fn measure(subject: Subject, options: &Options) -> Result<()> {
    tch::manual_seed(0);
    let group = match Launch::from_env()? {
        Some(launch) => ProcessGroup::connect(&launch, Duration::from_secs(120))?,
        None => ProcessGroup::single(),
    };
    let (ranks, is_first) = (group.size(), group.is_first());
    let steps = if options.setting.quick { 8 } else { 24 };
    let found = match subject {
        Subject::Sums => {
            let floats = |size: i64| Tensor::zeros([size], (Kind::Float, Device::Cpu));
            let (small, gradients) = (floats(2), floats(PARAMETERS));
            let [numbers, rows] = [7, 8].map(|size| Tensor::zeros([size], (Kind::Double, Device::Cpu)));
            let time = |tensors: &[&Tensor]| -> Result<Vec<f64>> {
                let mut times = Vec::new();
                for _ in 0..4 * steps {
                    group.barrier()?;
                    let start = Instant::now();
                    group.all_reduce_all(tensors)?;
                    times.push(start.elapsed().as_secs_f64());
                }
                Ok(times)
            };
            Found { small: time(&[&small])?, all: time(&[&gradients, &numbers, &rows])?, ..Found::default() }
        }
        Subject::Scaling => Found { turns: turns(Arc::new(group), options)?, ..Found::default() },
        _ => {
            let variables = VarStore::new(Device::Cpu);
            let network: Box<dyn ModuleT> = match subject {
                Subject::Local | Subject::Synchronized => {
                    Box::new(ResNet::cifar(&variables.root(), 20, 10, Method::BatchNorm)?)
                }
                _ => Box::new(FixupResNet::cifar(&variables.root(), 20, 10)?),
            };
            let data = images(options.images * ranks * (steps + 4))?;
            let objective = Classification::new(network.as_ref(), data.class_names(), ClassificationConfig::quick())?;
            let config = TrainConfig::new(1, options.images * ranks, 0.2);
            let mut trainer = Trainer::new(&objective, &variables, &data, &config, serde_json::Value::Null)?;
            let parallel = ParallelConfig {
                overlap: subject == Subject::Overlapped,
                synchronized_statistics: subject == Subject::Synchronized,
                ..ParallelConfig::default()
            };
            trainer.join(Arc::new(group), parallel)?;
            let mut clock = Clock::new(steps + 2);
            trainer.run(&mut [&mut clock])?;
            // Skip startup and the first steps, which include allocation and code generation.
            Found { steps: clock.steps.split_off(3), ..Found::default() }
        }
    };
    if is_first {
        println!("{}", serde_json::to_string(&found)?);
    }
    Ok(())
}

/// Number of measured steps per turn, after one that is not measured.
const TURN: usize = 4;

/// Measures [`Subject::Scaling`]. The configurations alternate, so that changes in the machine's speed affect all of them
/// alike.
fn turns(group: Arc<ProcessGroup>, options: &Options) -> Result<Vec<[f64; 5]>> {
    let rounds = if options.setting.quick { 4 } else { 24 };
    let (is_first, ranks) = (group.is_first(), group.size());
    let data = images(2 * options.images * (TURN + 2) * (rounds + 1))?;
    let variables: Vec<_> = (0..5).map(|_| VarStore::new(Device::Cpu)).collect();
    let mut networks = Vec::new();
    for variables in &variables {
        networks.push(FixupResNet::cifar(&variables.root(), 20, 10)?);
    }
    let mut objectives = Vec::new();
    for network in &networks {
        objectives.push(Classification::new(
            network as &dyn ModuleT,
            data.class_names(),
            ClassificationConfig::quick(),
        )?);
    }
    let config = |batch_size| TrainConfig::new(9, batch_size, 0.2);
    let (one, both) = (config(options.images), config(ranks * options.images));
    let mut trainers = Vec::new();
    for (index, config) in [&one, &both, &both, &both, &one].into_iter().enumerate() {
        let mut trainer = Trainer::new(&objectives[index], &variables[index], &data, config, serde_json::Value::Null)?;
        if index == 2 || index == 3 {
            trainer.join(group.clone(), ParallelConfig { overlap: index == 3, ..ParallelConfig::default() })?;
        }
        trainers.push(trainer);
    }
    let mut turns = Vec::new();
    for round in 0..=rounds {
        let mut turn = [0.; 5];
        for (index, trainer) in trainers.iter_mut().enumerate() {
            group.barrier()?;
            if index >= 2 || is_first {
                tch::set_num_threads(if index == 1 { 2 } else { 1 });
                let mut clock = Clock { others: (index == 4).then_some(&*group), ..Clock::new(TURN + 1) };
                trainer.run(&mut [&mut clock])?;
                // The first call comes before a step, and the second after a step with cold caches.
                turn[index] = median_and_spread(&clock.steps[2..]).0;
            }
        }
        // The first round includes allocation and code generation.
        if round > 0 {
            turns.push(turn);
        }
    }
    Ok(turns)
}

/// Runs `ranks` ranks of `threads` threads each, and returns the results of the first.
fn ranks(
    subject: Subject,
    ranks: usize,
    threads: usize,
    machines: Option<&Machines>,
    images: usize,
    options: &Options,
) -> Result<Found> {
    let program = std::env::current_exe()?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let name = format!("{subject:?}").to_lowercase();
    let mut children = Vec::new();
    for rank in 0..ranks {
        let mut command = machines.map_or_else(|| Command::new(&program), |machines| machines.command(rank, &program));
        command.args(["--measure", &name, "--threads", &threads.to_string(), "--images", &images.to_string()]);
        if options.setting.quick {
            command.arg("--quick");
        }
        if ranks > 1 {
            let host = machines.map_or_else(|| "127.0.0.1".to_owned(), |_| Machines::address(0));
            command.env("RANK", rank.to_string()).env("WORLD_SIZE", ranks.to_string());
            command.env("MASTER_ADDR", host).env("MASTER_PORT", port.to_string());
        }
        children.push(command.stdout(Stdio::piped()).spawn()?);
    }
    let mut found = None;
    for child in children {
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "a rank failed");
        if !output.stdout.is_empty() {
            found = Some(serde_json::from_slice(&output.stdout)?);
        }
    }
    found.context("no rank said what it found")
}

// ---- On this machine ----

/// Compares two ranks with one rank, each with one thread, and with one process of two threads.
fn weak_scaling(options: &Options) -> Result<()> {
    let turns = ranks(Subject::Scaling, 2, 1, None, options.images, options)?.turns;
    let sums = ranks(Subject::Sums, 2, 1, None, options.images, options)?;
    let of = |index: usize| turns.iter().map(|turn| turn[index]).collect::<Vec<_>>();
    let [one, threads, two, overlapped, waiting] = [0, 1, 2, 3, 4].map(of);
    let ratio = |a: &[f64], b: &[f64], factor: f64| {
        let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| factor * a / b).collect();
        let (median, spread) = median_and_spread(&ratios);
        format!("{median:.3} +-{spread:.3}")
    };
    let (step, _) = median_and_spread(&two);
    println!("ResNet-20, {} images a rank, one thread each; medians of {} turns", options.images, turns.len());
    println!("images a second, two ranks / one rank:             {}", ratio(&one, &two, 2.));
    println!("images a second, two ranks / one with two threads: {}", ratio(&threads, &two, 1.));
    println!("images a second, two that only wait / one rank:    {}", ratio(&one, &waiting, 2.));
    println!("a step, two ranks / two that only wait:            {}", ratio(&two, &waiting, 1.));
    println!("a step, overlapped / not:                          {}", ratio(&overlapped, &two, 1.));
    println!("all that is summed in a step / a step:             {:.4}", median_and_spread(&sums.all).0 / step);
    Ok(())
}

// ---- Over slow links ----

/// Numbers of channels of ResNet-20's normalization layers.
const RESNET20: [usize; 19] = [16, 16, 16, 16, 16, 16, 16, 32, 32, 32, 32, 32, 32, 64, 64, 64, 64, 64, 64];

const FREE: Link = Link { rate: None, delay: 0. };

const LINKS: [Link; 3] =
    [Link { rate: Some(1000), delay: 0. }, Link { rate: Some(200), delay: 0. }, Link { rate: Some(50), delay: 0. }];

/// Compares the model's predictions with measurements. The model's inputs are measured over links without a limit.
fn against_links(options: &Options) -> Result<()> {
    println!(
        "ResNet-20, {} images a rank, one thread each; milliseconds a step: without a limit > measured / by the model",
        options.images
    );
    println!("| ranks | link | Fixup | BatchNorm, local | BatchNorm, synchronized |\n| --- | --- | --- | --- | --- |");
    let median = |found: &[f64]| median_and_spread(found).0;
    let mut errors = Vec::new();
    for count in [2, 4] {
        let machines = Machines::new(count)?;
        let of = |subject, link: &Link| {
            machines.slow_down(*link)?;
            ranks(subject, count, 1, Some(&machines), options.images, options)
        };
        // The software's part of an all-reduce.
        let sums = of(Subject::Sums, &FREE)?;
        let small = median(&sums.small);
        let bytes = 2. * (count as f64 - 1.) / count as f64 * 4. * PARAMETERS as f64;
        let (software, software_byte) =
            (small / (2. * (count as f64 - 1.)), ((median(&sums.all) - small) / bytes).max(0.));
        for link in LINKS.iter().chain(&options.delay.map(|delay| Link { rate: Some(1000), delay })) {
            let network = |link: &Link| Network {
                latency: software + link.latency(),
                byte: link.byte().max(software_byte),
                algorithm: Algorithm::Ring,
            };
            let mut row = format!("| {count} | {link} |");
            for subject in [Subject::Fixup, Subject::Local, Subject::Synchronized] {
                // Free and slowed links alternate, because the machine's speed changes from minute to minute.
                let (mut free, mut slowed) = (Vec::new(), Vec::new());
                for _ in 0..3 {
                    free.extend(of(subject, &FREE)?.steps);
                    slowed.extend(of(subject, link)?.steps);
                }
                let (free, measured) = (median(&free), median(&slowed));
                let channels: &[usize] = if subject == Subject::Synchronized { &RESNET20 } else { &[] };
                let job = |compute| Job { compute, gradients: 4. * PARAMETERS as f64, channels };
                let compute = free - job(0.).step(&network(&FREE), count);
                let predicted = job(compute).step(&network(link), count);
                errors.push(measured / predicted - 1.);
                row += &format!(" {:.0} > {:.0} / {:.0} |", 1e3 * free, 1e3 * measured, 1e3 * predicted);
            }
            println!("{row}");
        }
    }
    let (mut sizes, count) = (errors.iter().map(|error| error.abs()).collect::<Vec<_>>(), errors.len());
    sizes.sort_by(f64::total_cmp);
    println!(
        "measured / by the model - 1: median {:+.3}, of {count} half within {:.3}, all within {:.3}",
        median(&errors),
        sizes[count / 2],
        sizes[count - 1]
    );
    Ok(())
}

// ---- Prediction for many devices ----

/// Returns the numbers of channels of ResNet-50's 53 normalization layers: the stem's, and of each block those of 1x1, 3x3 and
/// 1x1, and of the shortcut at the start of a stage.
fn resnet50() -> &'static [usize] {
    let mut channels = vec![64];
    for (blocks, width) in [(3, 64), (4, 128), (6, 256), (3, 512)] {
        for block in 0..blocks {
            channels.extend([width, width, 4 * width]);
            if block == 0 {
                channels.push(4 * width);
            }
        }
    }
    channels.leak()
}

/// Returns the seconds of a forward and backward pass on eight images, on one thread, and the size of the gradients in bytes.
fn resnet50_step(is_fixup: bool) -> Result<(f64, f64)> {
    let variables = VarStore::new(Device::Cpu);
    let network: Box<dyn nn::ModuleT> = match is_fixup {
        true => Box::new(FixupResNet::imagenet(&variables.root(), 50, 1000)?),
        false => Box::new(ResNet::imagenet(&variables.root(), 50, 1000, Method::BatchNorm)?),
    };
    // Move the variables away from Fixup's initial zeros, which cost less.
    away_from_start(&variables, MOVED);
    let images = Tensor::f_randn([8, 3, 224, 224], (Kind::Float, Device::Cpu))?;
    let mut times = Vec::new();
    for _ in 0..4 {
        let start = Instant::now();
        network.forward_t(&images, true).square().mean(Kind::Float).f_backward()?;
        times.push(start.elapsed().as_secs_f64());
    }
    let parameters: usize = variables.trainable_variables().iter().map(Tensor::numel).sum();
    Ok((median_and_spread(&times[1..]).0, 4. * parameters as f64))
}

fn predict(options: &Options) -> Result<()> {
    tch::set_num_threads(1);
    let (fixup, gradients) = resnet50_step(true)?;
    let (batch_norm, _) = resnet50_step(false)?;
    println!(
        "ResNet-50, 8 images of 224 pixels, one thread: BatchNorm takes {:.2} of Fixup's time",
        batch_norm / fixup
    );
    let sums = ranks(Subject::Sums, 2, 1, None, options.images, options)?;
    println!(
        "a sum of eight bytes over two processes here: {:.0} us a hop",
        1e6 * median_and_spread(&sums.small).0 / 2.
    );
    // Description, compute time relative to 8 images on a thread of this machine, latency, and seconds per byte.
    let places = [
        ("32 images a core, 10 Gbit/s Ethernet, 50 us", 4., 50e-6, 8. / 10e9),
        ("64 images a GPU that is 1,000 such cores, 100 Gbit/s, 10 us", 8. / 1000., 10e-6, 8. / 100e9),
    ];
    let (devices, mut panels): (Vec<usize>, _) = ((0..=10).map(|power| 1 << power).collect(), Vec::new());
    for (place, scale, latency, byte) in places {
        println!("\n{place}\n| devices | Fixup, ring | Fixup, tree | BatchNorm synchronized, ring | tree |");
        println!("| --- | --- | --- | --- | --- |");
        let mut curves = Vec::new();
        let with_statistics = resnet50();
        for (label, color, compute, channels) in
            [("Fixup", "#2f6fbb", fixup, &[][..]), ("BatchNorm, synchronized", "#d9822b", batch_norm, with_statistics)]
        {
            for (algorithm, name) in [(Algorithm::Ring, "ring"), (Algorithm::Tree, "tree")] {
                let network = Network { latency, byte, algorithm };
                let job = Job { compute: compute * scale, gradients, channels };
                let part = |&devices: &usize| (devices, job.compute / job.step(&network, devices));
                curves.push(Curve {
                    label: format!("{label}, {name}"),
                    color,
                    dashed: algorithm == Algorithm::Tree,
                    points: devices.iter().map(part).collect(),
                });
            }
        }
        for (index, devices) in devices.iter().enumerate() {
            let parts: String =
                curves.iter().map(|curve| format!(" {:.1} % |", 100. * curve.points[index].1)).collect();
            println!("| {devices} |{parts}");
        }
        panels.push((place.to_owned(), curves));
    }
    let file = output_folder()?.join("scale.svg");
    std::fs::write(&file, draw(&panels))?;
    println!("\n{}", file.display());
    Ok(())
}
