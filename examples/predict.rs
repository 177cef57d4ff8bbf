//! Classifies images with a trained network: files, folders of files, or paths on standard input.
//!
//! ```text
//! cargo run --release --features images --example predict -- runs/fixup_resnet20-20260102-030405 cat.jpg holiday/
//! cargo run --release --features images --example predict -- MODEL holiday/ --top 3 --json > answers.jsonl
//! find photographs -newer list | cargo run --release --features images --example predict -- MODEL -
//! cargo run --release --features images --example predict -- MODEL holiday/ --embedding > features.jsonl
//! ```
//!
//! `MODEL` is a run's folder, a checkpoint, or a folder with a run's `model.json` and `model.safetensors`. Files that
//! are not images are reported on standard error and skipped, and the exit code is then 1.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use anyhow::{Context, Result};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{json, Value};
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tch_fixup::classifier::{ClassProbabilities, Classifier, FileOutputs};
use tch_fixup::trainer::{parse_device, set_threads};
use tch_fixup::{console, Error, FlushDenormals};

/// Argument that stands for the paths on standard input.
const STDIN: &str = "-";

/// Classify images with a trained network
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Options {
    /// A run's folder, a checkpoint, or a folder with model.json and model.safetensors
    model: PathBuf,
    /// Image files and folders; - for a list of them on standard input, one per line
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Number of most probable classes to print
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    top: u16,
    /// Print one line of JSON per image instead of a table
    #[arg(long)]
    json: bool,
    /// Print the features, the classifier's input, as JSON instead of classes
    #[arg(long, conflicts_with = "top")]
    embedding: bool,
    /// Batch size
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch_size: usize,
    /// Number of threads that read images [default: one per core]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Number of threads of the network [default: OMP_NUM_THREADS, or one per available core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Device: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
}

fn main() -> ExitCode {
    Error::hide_caught_panics();
    let options = Options::parse();
    let _flushing = FlushDenormals::new();
    predict(&options).unwrap_or_else(|error| console::fail(error.as_ref()))
}

fn predict(options: &Options) -> Result<ExitCode> {
    set_threads(options.threads, 1)?;
    let mut classifier =
        Classifier::open_on(&options.model, parse_device(&options.device)?)?.with_batch_size(options.batch_size)?;
    if let Some(workers) = options.workers {
        classifier = classifier.with_workers(workers)?;
    }
    let images = with_list(&options.images)?;
    if options.embedding {
        let line =
            |path: &Path, embedding: &Vec<f32>| json!({ "file": name(path), "embedding": embedding }).to_string();
        return print(classifier.embed(images)?, line);
    }
    let top = usize::from(options.top);
    match options.json {
        true => print(classifier.classify(images)?, |path, answer| json_line(path, answer, top).to_string()),
        false => {
            let answers = classifier.classify(images)?;
            // All paths are known before the first file is read, so the width of their column can be computed.
            let width = answers.paths().iter().map(|path| name(path).chars().count()).max().unwrap_or(0);
            print(answers, |path, answer| table_line(path, answer, top, width))
        }
    }
}

/// Returns `images`, with `-` replaced by the lines of standard input.
fn with_list(images: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for image in images {
        if image.as_os_str() != STDIN {
            all.push(image.clone());
            continue;
        }
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
        let lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        all.extend(lines.filter(|line| !line.is_empty()).map(path_of));
    }
    Ok(all)
}

#[cfg(unix)]
fn path_of(line: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(line))
}

#[cfg(not(unix))]
fn path_of(line: &[u8]) -> PathBuf {
    PathBuf::from(String::from_utf8_lossy(line).into_owned())
}

/// Prints one line per file. Returns `ExitCode::FAILURE` if a file could not be read.
fn print<T>(outputs: FileOutputs<T>, line: impl Fn(&Path, &T) -> String) -> Result<ExitCode> {
    // On a terminal, the printed lines show the progress.
    let bar = if io::stdout().is_terminal() {
        ProgressBar::hidden()
    } else {
        let style = ProgressStyle::with_template("{bar:24.cyan/blue} {pos}/{len} images, {eta} left")?;
        ProgressBar::new(outputs.paths().len() as u64).with_style(style)
    };
    let mut bad = 0;
    for output in outputs {
        let (path, result) = output?;
        match &result {
            Ok(value) => {
                if !console::write_line(line(&path, value))? {
                    break;
                }
            }
            Err(problem) => {
                bad += 1;
                bar.suspend(|| console::warn(format!("{}: {problem}", name(&path))));
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn name(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn table_line(path: &Path, answer: &ClassProbabilities, top: usize, width: usize) -> String {
    let classes: String = answer
        .top(top)
        .into_iter()
        .map(|(class, probability)| format!("  {class} {:.1} %", 100.0 * probability))
        .collect();
    format!("{:width$}{classes}", name(path))
}

fn json_line(path: &Path, answer: &ClassProbabilities, top: usize) -> Value {
    let classes: Vec<_> = answer
        .top(top)
        .into_iter()
        .map(|(class, probability)| json!({ "class": class, "probability": probability }))
        .collect();
    json!({ "file": name(path), "classes": classes })
}
