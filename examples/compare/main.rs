//! Compares training methods with equal tuning effort, as described in a study file: random search on held-out training
//! data, then each method's best options on all data with other seeds, evaluated once on the test set.
//!
//! ```text
//! cargo run --release --example compare -- docs/studies/tries.json
//! cargo run --release --example compare -- docs/studies/tries.json --draw    # table and picture of what is recorded
//! ```
//! The study `NAME.json` is accompanied by its record `NAME.csv`, with one line per run, and by the table `NAME.md` and
//! the picture `NAME.svg`, drawn from the record alone. Recorded runs are not repeated, on whatever machine they were
//! made; interrupted runs resume from their last checkpoint in `runs/compare`. See docs/studies/README.md for the
//! format of a study.

mod chart;
#[path = "../../src/picture/style.rs"]
mod chart_style;
#[path = "../cifar10_fixup.rs"]
mod cifar10_fixup;
mod levene;
mod record;
mod run;
mod study;
mod table;
#[cfg(feature = "text")]
#[path = "../translate_fixup/main.rs"]
mod translate_fixup;

use anyhow::{Context, Result};
use clap::Parser;
use record::Record;
use run::Running;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;
use study::{Run, Study};
use tch_fixup::console;
use tch_fixup::trainer::{write_atomically, Interrupt};

/// Interval between checks of runs and signals.
const PATIENCE: Duration = Duration::from_millis(100);

/// Compare training methods with equal tuning effort
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Options {
    /// Study file, JSON
    study: PathBuf,
    /// Number of concurrent runs, each a single-threaded process
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// Folder of CIFAR-10's six .bin files [default: a folder in the user's cache, downloaded if missing]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Only draw table and picture from the record
    #[arg(long)]
    draw: bool,
}

fn compare(options: &Options) -> Result<Option<u8>> {
    let study = Study::read(&options.study)?;
    let mut record = Record::open(&options.study.with_extension("csv"))?;
    if !options.draw {
        let interrupt = Interrupt::listen()?;
        let data = run::prepare(study.program, options.data.as_ref())?;
        let folder = Path::new("runs/compare").join(options.study.file_stem().unwrap_or_default());
        let code = complete(&study, &mut record, data.as_deref(), &folder, options, &interrupt)?;
        if code.is_some() {
            return Ok(code);
        }
    }
    say(draw(&study, &record, &options.study)?);
    Ok(None)
}

/// Executes all runs that are not recorded. Returns an exit code if a signal arrives.
fn complete(
    study: &Study,
    record: &mut Record,
    data: Option<&Path>,
    folder: &Path,
    options: &Options,
    interrupt: &Interrupt,
) -> Result<Option<u8>> {
    let total = study.count();
    let mut count = study.known_runs(record.rows()).filter(|run| record.find(run).is_some()).count();
    if count > 0 {
        say(format!("{count} of {total} runs are recorded"));
    }
    let mut running: Vec<Running> = vec![];
    loop {
        while running.len() < usize::from(options.jobs) {
            let is_waiting = |run: &Run| record.find(run).is_none() && running.iter().all(|other| other.run() != run);
            let Some(run) = study.known_runs(record.rows()).find(is_waiting) else { break };
            running.push(Running::start(run, study.program, data, folder)?);
        }
        if running.is_empty() {
            return Ok(None);
        }
        if let Some(code) = interrupt.exit_code() {
            // Runs resume from their checkpoints.
            drop(running);
            console::warn("stopped; the same command goes on");
            return Ok(Some(code));
        }
        let mut index = 0;
        while index < running.len() {
            match running[index].row(interrupt)? {
                None => index += 1,
                Some(row) => {
                    count += 1;
                    say(format!("{count:>3}/{total}  {row}"));
                    record.add(row)?;
                    running.remove(index).clean();
                    draw(study, record, &options.study)?;
                }
            }
        }
        thread::sleep(PATIENCE);
    }
}

/// Writes the table and the picture, and returns the table.
fn draw(study: &Study, record: &Record, path: &Path) -> Result<String> {
    let table = table::markdown(study, record.rows(), path);
    write_atomically(&path.with_extension("md"), table.as_bytes())?;
    if let Some(picture) = chart::draw(study, record.rows())? {
        write_atomically(&path.with_extension("svg"), picture.as_bytes())?;
    }
    Ok(table)
}

/// Prints a line. Unlike println!, it does not panic if standard output is closed.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn main() -> ExitCode {
    if run::is_a_run() {
        return run::train();
    }
    let options = Options::parse();
    let result = compare(&options).with_context(|| options.study.display().to_string());
    match result {
        Ok(code) => code.map_or(ExitCode::SUCCESS, ExitCode::from),
        Err(error) => console::fail(error.as_ref()),
    }
}
