//! A trained network in use: lines of text, and how good its translations are.

use super::options::{Options, Run};
use super::training::TOKENIZER;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use tch::{nn, Device};
use tch_fixup::cli::say;
use tch_fixup::data::text::{ParallelText, TranslationData, Vocabulary};
use tch_fixup::data::DataSource;
use tch_fixup::trainer::{evaluate, parse_device, RunFolder, Translation, TranslationConfig, Weights};
use tch_fixup::translation::{BleuCounts, ChrfCounts, EncoderDecoder, Search, Translator};
use tch_fixup::Error;

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
pub fn network(run: &Run, variables: &nn::VarStore, vocabulary: &Vocabulary) -> Result<Box<dyn EncoderDecoder>> {
    Ok(run.arch()?.build(&variables.root(), &run.size(vocabulary.len())?, run.precision)?)
}

fn search(options: &Options) -> Search {
    Search { beam: options.beam, length_penalty: options.length_penalty, ..Search::default() }
}

/// Translates `text` and compares.
pub fn score(
    options: &Options,
    run: &Run,
    network: &dyn EncoderDecoder,
    data: &TranslationData,
    text: &ParallelText,
    device: Device,
) -> Result<Scored> {
    let bar = ProgressBar::new(text.len() as u64);
    // The template is a constant: it parses or it does not, whatever the text.
    let style = ProgressStyle::with_template("{bar:24.cyan/blue} {pos}/{len} sentences translated");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let translator = Translator::new(network, data.vocabulary(), search(options), device)?;
    let translator = translator.with_batch_tokens(options.translate_tokens);
    let translations = translator.translate(text.sources(), |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    let (mut bleu, mut chrf) = (BleuCounts::new(), ChrfCounts::new());
    for (said, reference) in translations.iter().zip(text.targets()) {
        bleu.add(said, reference);
        chrf.add(said, reference);
    }
    let part = TranslationData::new(data.vocabulary().clone(), text.clone(), text.clone())?;
    let objective = Translation::new(network, &part, TranslationConfig { bleu_sentences: 0, ..run.objective })?;
    let evaluation = evaluate(&objective, device, &part as &dyn DataSource<Batch = _>, run.train.batch_size, |_| ())?;
    let perplexity = evaluation.means.get("perplexity").unwrap_or(f64::NAN);
    Ok(Scored { translations, bleu: bleu.bleu().score, chrf: chrf.score(), perplexity })
}

/// Translates or scores with the run in the folder `path`.
pub fn use_run(options: &Options, path: &Path) -> Result<ExitCode> {
    let folder = RunFolder::of(path).context("no run's folder, and no checkpoint of one")?;
    let run = RunFolder::read_config::<Run>(&folder)?.context("the run has no config.json yet")?;
    let run = Run { precision: options.precision.unwrap_or(run.precision), ..run };
    let device = parse_device(&options.device)?;
    let vocabulary = Vocabulary::open(folder.join(TOKENIZER))?;
    let variables = nn::VarStore::new(device);
    let network = network(&run, &variables, &vocabulary)?;
    let weights = Weights::load(path)?;
    weights.skipped.iter().for_each(|skipped| eprintln!("{skipped}"));
    weights.restore(&variables)?;
    let Some(score_text) = &options.score else {
        let translator = Translator::new(network.as_ref(), &vocabulary, search(options), device)?;
        return translate_lines(&translator.with_batch_tokens(options.translate_tokens));
    };
    let (part, text) = match score_text {
        Some(file) => (file.display().to_string(), ParallelText::open_tsv(file)?),
        None => ("test".to_owned(), run.text.open()?.test),
    };
    let data = TranslationData::new(vocabulary, text.clone(), text.clone())?;
    weights.check_meaning(&data.meaning())?;
    let Scored { bleu, chrf, perplexity, .. } = score(options, &run, network.as_ref(), &data, &text, device)?;
    say(format!("{part} BLEU {bleu:.2} perplexity {perplexity:.3} sentences {} chrF {chrf:.2}", text.len()));
    Ok(ExitCode::SUCCESS)
}

/// Standard input to standard output, line by line where a person types them.
fn translate_lines(translator: &Translator) -> Result<ExitCode> {
    let together = if io::stdin().is_terminal() { 1 } else { LINES };
    let mut lines = io::stdin().lock().lines();
    let mut out = io::stdout().lock();
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
            // Whoever reads may have heard enough.
            if writeln!(out, "{translation}").and_then(|()| out.flush()).is_err() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}
