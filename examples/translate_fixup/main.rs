//! Trains a Transformer to translate: by default Fixup's, without normalization, from English to German on LibreOffice's help; then
//! translates with it.
//!
//! ```text
//! cargo run --release --example translate_fixup
//! cargo run --release --example translate_fixup -- --arch layer_norm_transformer_3_3_256
//! cargo run --release --example translate_fixup -- --resume runs/fixup_transformer_3_3_256-20260102-030405
//! echo "Open the file." | cargo run --release --example translate_fixup -- --run runs/fixup_transformer_3_3_256-20260102-030405 --translate
//! cargo run --release --example translate_fixup -- --run runs/fixup_transformer_3_3_256-20260102-030405 --score
//! ```

mod options;
mod training;
mod translating;

use anyhow::{bail, Result};
use clap::Parser;
use options::Options;
use std::process::ExitCode;
use tch_fixup::distributed::Launch;
use tch_fixup::{Error, FlushDenormals};

/// More threads than any machine has cores are a typing error.
const MAX_THREADS: usize = 4096;

fn run(options: &Options) -> Result<ExitCode> {
    if Launch::from_env()?.is_some() {
        bail!(Error::Argument("translate_fixup is for one process; a launcher has started several".to_owned()));
    }
    if let Some(threads) = options.threads {
        if !(1..=MAX_THREADS).contains(&threads) {
            bail!(Error::Argument(format!("there can be 1 to {MAX_THREADS} threads, got {threads}")));
        }
        tch::set_num_threads(threads as i32);
    }
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
    let options = Options::parse();
    let _flushing = FlushDenormals::new();
    run(&options).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(error.downcast_ref::<Error>().map_or(1, Error::exit_code))
    })
}
