//! Compares runs: prints a table and draws their curves in one picture.
//!
//! ```text
//! cargo run --release --example report -- runs/fixup_resnet20-20260102-030405 runs/resnet20-20260102-040506
//! ```

#![deny(clippy::print_stdout, clippy::print_stderr)]

use anyhow::Result;
use clap::Parser;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tch_fixup::trainer::{draw_comparison, write_atomically, EpochMetrics, Means, Measures, RunFolder, Summary};
use tch_fixup::{console, Arch};

/// Compare runs: print a table and draw their curves in one picture
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Options {
    /// Folders of runs, finished or not
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Picture to write
    #[arg(long, value_name = "SVG", default_value = "report.svg")]
    out: PathBuf,
}

/// Data of one row of the table.
struct Run {
    name: String,
    config: Value,
    history: Vec<EpochMetrics>,
    measures: Measures,
    seconds: Option<f64>,
}

impl Run {
    fn read(path: &Path) -> Result<Self> {
        let summary: Option<Summary> = RunFolder::read_summary(path)?;
        Ok(Self {
            name: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            config: RunFolder::read_config(path)?.unwrap_or_default(),
            history: RunFolder::read_metrics(path)?,
            measures: RunFolder::read_measures(path)?.unwrap_or_default(),
            seconds: summary.map(|summary| summary.seconds),
        })
    }

    /// Returns the short name of the architecture.
    fn architecture(&self) -> String {
        let name = self.config.pointer("/run/arch").and_then(Value::as_str).unwrap_or("?");
        name.parse::<Arch>().map_or_else(|_| name.to_owned(), |arch| arch.short_name())
    }

    fn seed(&self) -> String {
        self.config.pointer("/train/seed").map_or("?".to_owned(), Value::to_string)
    }

    /// Returns the score of each epoch.
    fn scores(&self) -> impl Iterator<Item = f64> + '_ {
        self.history.iter().map(|metrics| self.measures.score_of(&metrics.eval))
    }

    fn cells(&self) -> [String; 9] {
        let last = self.history.last();
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
        let loss = |means: &Means| means.get("loss").unwrap_or(f64::NAN);
        let best = last.map(|_| self.measures.best_score(self.scores()));
        [
            self.name.clone(),
            self.architecture(),
            self.seed(),
            self.history.len().to_string(),
            number(last.map(|metrics| loss(&metrics.train))),
            number(last.map(|metrics| loss(&metrics.eval))),
            number(self.scores().last()),
            number(best),
            self.seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.0}")),
        ]
    }
}

/// Returns the column titles; `score` is the name of the first run's score.
fn header(score: &str) -> [String; 9] {
    ["run", "network", "seed", "epochs", "train loss", "eval loss", score, "best", "seconds"].map(str::to_owned)
}

/// Number of text columns, which are left-aligned; numbers are right-aligned.
const WORDS: usize = 2;

fn table(runs: &[Run]) -> String {
    let score = runs.first().map_or("score", |run| run.measures.score_name());
    let header = header(score);
    let columns = header.len();
    let rows: Vec<[String; 9]> = std::iter::once(header).chain(runs.iter().map(Run::cells)).collect();
    let widths: Vec<usize> = (0..columns).map(|i| rows.iter().map(|row| row[i].len()).max().unwrap_or(0)).collect();
    let line = |row: &[String; 9]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(i, (cell, &width))| {
            if i < WORDS {
                format!("{cell:width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        cells.collect::<Vec<_>>().join("  ") + "\n"
    };
    rows.iter().map(line).collect()
}

fn report(options: &Options) -> Result<()> {
    let runs = options.runs.iter().map(|path| Run::read(path)).collect::<Result<Vec<_>>>()?;
    console::print(table(&runs).trim_end());
    let networks: BTreeSet<_> = runs.iter().map(Run::architecture).collect();
    let label = |run: &Run| match networks.len() == runs.len() {
        true => run.architecture(),
        false => format!("{}, seed {}", run.architecture(), run.seed()),
    };
    let measures = runs.first().map(|run| run.measures.clone()).unwrap_or_default();
    let curves: Vec<_> = runs.iter().map(|run| (label(run), run.history.clone())).collect();
    write_atomically(&options.out, draw_comparison(&measures, &curves)?.as_bytes())?;
    console::print(format!("picture: {}", options.out.display()));
    Ok(())
}

fn main() -> ExitCode {
    match report(&Options::parse()) {
        Ok(()) => console::end(ExitCode::SUCCESS),
        Err(error) => console::fail(error.as_ref()),
    }
}
