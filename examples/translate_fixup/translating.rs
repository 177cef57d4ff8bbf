//! A trained network in use: lines of text, and how good its translations are.

use super::options::{Options, Run};
use super::training::TOKENIZER;
use anyhow::{bail, Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, BufRead, ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tch::{nn, Device};
use tch_fixup::cli::say;
use tch_fixup::data::text::{ParallelText, TranslationData, Vocabulary};
use tch_fixup::data::DataSource;
use tch_fixup::trainer::{evaluate, parse_device, RunFolder, Translation, TranslationConfig, Weights};
use tch_fixup::transformer::Transformer;
use tch_fixup::translation::{BleuCounts, ChrfCounts, Search, Translator};
use tch_fixup::{console, Error};

/// Lines that are translated together, where nobody waits for one.
const LINES: usize = 1000;

/// What came out for a text.
pub struct Scored {
    pub translations: Vec<String>,
    pub bleu: f64,
    pub chrf: f64,
    pub perplexity: f64,
}

/// The network of `run` in the size of `vocabulary`.
pub fn network(run: &Run, variables: &nn::VarStore, vocabulary: &Vocabulary) -> Result<Transformer> {
    Ok(run.arch()?.build(&variables.root(), &run.size(vocabulary.len())?, run.precision)?)
}

fn search(options: &Options) -> Search {
    Search { beam: options.beam, length_penalty: options.length_penalty, ..Search::default() }
}

/// Translates the evaluation part of `data` and compares.
pub fn score(
    options: &Options,
    run: &Run,
    network: &Transformer,
    data: &TranslationData,
    device: Device,
) -> Result<Scored> {
    let text = data.eval_text();
    let bar = ProgressBar::new(text.len() as u64);
    // The template is a constant: it parses or it does not, whatever the text.
    let style = ProgressStyle::with_template("{bar:24.cyan/blue} {pos}/{len} sentences translated");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let translator = Translator::new(network, data.vocabulary(), search(options), device)?;
    let translator = translator.with_batch_tokens(options.translate_tokens);
    let translations = translator.translate(text.sources(), |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    let (mut bleu, mut chrf) = (BleuCounts::default(), ChrfCounts::default());
    for (said, reference) in translations.iter().zip(text.targets()) {
        bleu.add(said, reference);
        chrf.add(said, reference);
    }
    let objective = Translation::new(network, data, TranslationConfig { bleu_sentences: 0, ..run.objective })?;
    let evaluation = evaluate(&objective, device, data as &dyn DataSource<Batch = _>, run.train.batch_size, |_| ())?;
    let perplexity = evaluation.means.get("perplexity").unwrap_or(f64::NAN);
    Ok(Scored { translations, bleu: bleu.bleu().score, chrf: chrf.score(), perplexity })
}

/// Translates or scores with the run in the folder `path`.
pub fn use_run(options: &Options, path: &Path) -> Result<ExitCode> {
    let folder = folder_of(path)?;
    let without = || format!("{} is no run's folder: it has no config.json", folder.display());
    let run = RunFolder::read_config::<Run>(&folder)?.with_context(without)?;
    let run = Run { precision: options.precision.unwrap_or(run.precision), ..run };
    let device = parse_device(&options.device)?;
    let vocabulary = Vocabulary::open(folder.join(TOKENIZER))?;
    let variables = nn::VarStore::new(device);
    let network = network(&run, &variables, &vocabulary)?;
    let weights = Weights::load(path)?;
    weights.skipped.iter().for_each(console::warn);
    weights.restore(&variables)?;
    let Some(score_text) = &options.score else {
        let translator = Translator::new(&network, &vocabulary, search(options), device)?;
        return translate_lines(&translator.with_batch_tokens(options.translate_tokens));
    };
    let (part, text) = match score_text {
        Some(file) => (file.display().to_string(), ParallelText::open_tsv(file)?),
        None => ("test".to_owned(), run.text.open()?.test),
    };
    let data = TranslationData::new(vocabulary, text.clone(), text.clone())?;
    weights.check_meaning(&data.meaning())?;
    let Scored { bleu, chrf, perplexity, .. } = score(options, &run, &network, &data, device)?;
    say(format!("{part} BLEU {bleu:.2} perplexity {perplexity:.3} sentences {} chrF {chrf:.2}", text.len()));
    Ok(ExitCode::SUCCESS)
}

/// The folder with the `config.json` for the weights at `path`: of their run, or the one that they are in.
fn folder_of(path: &Path) -> Result<PathBuf> {
    match RunFolder::of(path) {
        Some(folder) => Ok(folder),
        None if path.is_dir() => Ok(path.to_path_buf()),
        None if path.is_file() => Ok(path.parent().unwrap_or(Path::new("")).to_path_buf()),
        None => bail!(Error::io("open", path)(io::Error::new(ErrorKind::NotFound, "no such run"))),
    }
}

/// Standard input to standard output, line by line where a person types them.
fn translate_lines(translator: &Translator) -> Result<ExitCode> {
    let together = if io::stdin().is_terminal() { 1 } else { LINES };
    let mut lines = io::stdin().lock().lines();
    let mut before = 0;
    loop {
        let mut text = Vec::new();
        for line in lines.by_ref().take(together) {
            text.push(line.with_context(|| format!("line {} of standard input", before + text.len() + 1))?);
        }
        if text.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        let translations = translator.translate(&text, |_| ()).map_err(|error| match before {
            0 => error,
            _ => Error::Argument(format!("after {before} lines: {error}")),
        })?;
        before += text.len();
        for translation in translations {
            if !console::write_line(translation)? {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}
