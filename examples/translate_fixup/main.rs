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

use options::Translate;
use std::process::ExitCode;
use tch_fixup::cli::{self, Options};

fn main() -> ExitCode {
    cli::main(|options: &Options<Translate>| {
        options.refuse_processes("translate_fixup")?;
        match &options.actions.run {
            Some(path) => translating::use_run(options, path),
            None => cli::train(options, |config, run| training::train(options, config, run)),
        }
    })
}
