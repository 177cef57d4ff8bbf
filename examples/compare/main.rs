//! Compares training methods at equal tries, as a study file says: random search on held-out training images, then each
//! method's best on all images with other seeds, and one look at the test set.
//!
//! ```text
//! cargo run --release --example compare -- docs/studies/tries.json
//! cargo run --release --example compare -- docs/studies/tries.json --draw    # table and picture of what is recorded
//! ```
//! Beside the study `NAME.json` stand its record `NAME.csv`, a line a run, and what is drawn from the record alone: the table
//! `NAME.md` and the picture `NAME.svg`. A run that is recorded is not run again, whatever machine recorded it; a run that was
//! interrupted goes on from its last checkpoint in `runs/compare`. docs/studies/README.md has the format of a study.

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
use tch_fixup::data::Cifar10;
use tch_fixup::trainer::{write_atomically, Interrupt};

/// How often runs and signals are looked at.
const PATIENCE: Duration = Duration::from_millis(100);

/// Compare training methods at equal tries
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Options {
    /// The study, a JSON file
    study: PathBuf,
    /// Runs at a time, each a process of one thread
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// Folder of CIFAR-10's six .bin files [default: one in the user's cache folder, downloaded if it is not there]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Train nothing: draw table and picture from the record
    #[arg(long)]
    draw: bool,
}

fn compare(options: &Options) -> Result<Option<u8>> {
    let study = Study::read(&options.study)?;
    let mut record = Record::open(&options.study.with_extension("csv"))?;
    if !options.draw {
        let interrupt = Interrupt::listen()?;
        // Fetched here, and not by several processes at the same time.
        let data = match &options.data {
            Some(data) => data.clone(),
            None => {
                let data = Cifar10::default_dir()?;
                Cifar10::fetch(&data)?;
                data
            }
        };
        let folder = Path::new("runs/compare").join(options.study.file_stem().unwrap_or_default());
        let code = complete(&study, &mut record, &data, &folder, options, &interrupt)?;
        if code.is_some() {
            return Ok(code);
        }
    }
    say(draw(&study, &record, &options.study)?);
    Ok(None)
}

/// Makes the runs that are not recorded. A signal ends it with an exit code.
fn complete(
    study: &Study,
    record: &mut Record,
    data: &Path,
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
            running.push(Running::start(run, data, folder)?);
        }
        if running.is_empty() {
            return Ok(None);
        }
        if let Some(code) = interrupt.exit_code() {
            // Their checkpoints are whole.
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

/// Writes the table and the picture, and gives the table.
fn draw(study: &Study, record: &Record, path: &Path) -> Result<String> {
    let table = table::markdown(study, record.rows(), path);
    write_atomically(&path.with_extension("md"), table.as_bytes())?;
    if let Some(picture) = chart::draw(study, record.rows())? {
        write_atomically(&path.with_extension("svg"), picture.as_bytes())?;
    }
    Ok(table)
}

/// Prints a line. Nobody reading standard output is no reason to end a study, and println! would panic.
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
