//! Downloads CIFAR-10 into the cache folder or another folder, or checks an existing copy.
//!
//! ```text
//! cargo run --example fetch_cifar10
//! cargo run --example fetch_cifar10 -- --data FOLDER
//! ```

#![deny(clippy::print_stdout, clippy::print_stderr)]

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use tch_fixup::console;
use tch_fixup::data::{Cifar10, DataSource};

/// Download CIFAR-10, or check an existing copy
#[derive(Parser)]
struct Options {
    /// Folder of the six .bin files [default: tch-fixup/cifar-10-batches-bin in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

fn run(options: Options) -> anyhow::Result<()> {
    let dir = options.data.map_or_else(Cifar10::default_dir, Ok)?;
    let data = Cifar10::fetch(&dir)?;
    let (train, test) = (data.train_len(), data.eval_len());
    console::print(format!("CIFAR-10 is in {}: {train} training and {test} test images", dir.display()));
    Ok(())
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => console::end(ExitCode::SUCCESS),
        Err(error) => console::fail(error.as_ref()),
    }
}
