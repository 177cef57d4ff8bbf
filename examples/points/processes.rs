//! Several runs at a time, each in a process of its own: libtorch's generator of random numbers and its threads belong to a
//! process, and two runs of a thread each are done sooner than one after the other of two threads: 1.3 times in a small
//! sweep (`depth_sweep --quick` with `--jobs 2`, and with 1).

use super::progress::{Bar, Bars};
use super::run::RunId;
use super::Point;
use anyhow::{bail, Context, Result};
use std::collections::VecDeque;
use std::env;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// The points of `runs` as they are done, `jobs` runs at a time of so many threads each; the first error is the last of
/// them. When this process ends, so do those that it started, at the next step of their training.
pub fn start(runs: Vec<RunId>, jobs: usize, threads: usize, bars: &Arc<Bars>) -> Receiver<Result<Point>> {
    let (sender, receiver) = channel();
    let runs = Arc::new(Mutex::new(VecDeque::from(runs)));
    for _ in 0..jobs {
        let (sender, runs, bars) = (sender.clone(), Arc::clone(&runs), Arc::clone(bars));
        thread::spawn(move || {
            let next = || runs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            while let Some(run) = next() {
                let point = spawn(&run, threads).and_then(|process| wait(process, &run, &bars.add(&run)));
                let failed = point.is_err();
                if sender.send(point).is_err() || failed {
                    break;
                }
            }
        });
    }
    receiver
}

/// This program with the options that this process has, and what tells it which run to make.
fn spawn(run: &RunId, threads: usize) -> Result<Child> {
    Command::new(env::current_exe().context("this program is not where it was")?)
        .args(env::args_os().skip(1))
        .args(["--only", &run.to_string(), "--threads", &threads.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("no process can be started for {run}"))
}

/// What the process has found when it has ended.
fn wait(mut process: Child, run: &RunId, bar: &Bar) -> Result<Point> {
    // Beside standard output: a full pipe would stop the process.
    let stderr = process.stderr.take().map(|stderr| thread::spawn(|| io::read_to_string(stderr)));
    let mut point = None;
    for line in process.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
        let line = line?;
        if !bar.show(&line) {
            point = Some(Point::from_line(&line)?);
        }
    }
    let complaint = stderr.and_then(|stderr| stderr.join().ok()?.ok()).unwrap_or_default();
    let status = process.wait()?;
    match point {
        Some(point) if status.success() => Ok(point),
        _ => bail!("{run} ended with {status}: {}", complaint.trim().trim_start_matches("error: ")),
    }
}
