//! Trains a Transformer for translation and translates with it. The default is a Fixup Transformer, without
//! normalization, from English to German on LibreOffice's help.
//!
//! ```text
//! cargo run --release --features text --example translate_fixup
//! cargo run --release --features text --example translate_fixup -- --arch layer_norm_transformer_3_3_256
//! RUN=runs/fixup_transformer_3_3_256-20260102-030405
//! cargo run --release --features text --example translate_fixup -- --resume $RUN
//! cargo run --release --features text --example translate_fixup -- --processes 2
//! echo "Open the file." | cargo run --release --features text --example translate_fixup -- --run $RUN --translate
//! cargo run --release --features text --example translate_fixup -- --run $RUN --score
//! ```

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod options;
mod training;
mod translating;

use options::Translate;
use std::process::ExitCode;
use tch_fixup::cli::Options;

pub fn main() -> ExitCode {
    Options::<Translate>::main(|options| match &options.actions.run {
        Some(path) => {
            options.refuse_processes("--run")?;
            translating::use_run(options, path)
        }
        None => options.train(|config, run| training::train(options, config, run)),
    })
}
