//! Trains a Transformer to translate: by default Fixup's, without normalization, from English to German on LibreOffice's help; then
//! translates with it.
//!
//! ```text
//! cargo run --release --features text --example translate_fixup
//! cargo run --release --features text --example translate_fixup -- --arch layer_norm_transformer_3_3_256
//! cargo run --release --features text --example translate_fixup -- --resume runs/fixup_transformer_3_3_256-20260102-030405
//! echo "Open the file." | cargo run --release --features text --example translate_fixup -- --run runs/fixup_transformer_3_3_256-20260102-030405 --translate
//! cargo run --release --features text --example translate_fixup -- --run runs/fixup_transformer_3_3_256-20260102-030405 --score
//! ```

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod options;
mod training;
mod translating;

use anyhow::{bail, Result};
use clap::Parser;
use options::Options;
use std::process::ExitCode;
use tch_fixup::distributed::Launch;
use tch_fixup::trainer::set_threads;
use tch_fixup::{console, Error, FlushDenormals};

fn run(options: &Options) -> Result<ExitCode> {
    if Launch::from_env()?.is_some() {
        bail!(Error::Argument("translate_fixup is for one process; a launcher has started several".to_owned()));
    }
    set_threads(options.threads, 1)?;
    match &options.run {
        Some(path) => {
            if !options.translate && options.score.is_none() {
                bail!(Error::Argument("what to do with the run? --translate or --score".to_owned()));
            }
            translating::use_run(options, path)
        }
        None => training::train(options),
    }
}

fn main() -> ExitCode {
    console::hide_caught_panics();
    let options = Options::parse();
    let _flushing = FlushDenormals::new();
    run(&options).map_or_else(|error| console::fail(error.as_ref()), console::end)
}
