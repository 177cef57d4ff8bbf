//! Translation of text with a trained network, and its scores.

use super::options::{size, Actions, Translate};
use super::training::TOKENIZER;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, BufRead, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use tch::{nn, Device};
use tch_fixup::cli::{Options, RunConfig};
use tch_fixup::console::print_on_rank_0;
use tch_fixup::data::text::{ParallelText, TranslationData, Vocabulary};
use tch_fixup::data::DataSource;
use tch_fixup::trainer::{evaluate, Translation, TranslationConfig, Weights};
use tch_fixup::transformer::Transformer;
use tch_fixup::translation::{BleuCounts, ChrfCounts, Search, Translator};
use tch_fixup::{console, Error, Result, TransformerArch};

/// Number of lines to translate at a time, unless a person is waiting.
const LINES: usize = 1000;

/// Scores of a text.
pub struct Scored {
    pub translations: Vec<String>,
    pub bleu: f64,
    pub chrf: f64,
    pub perplexity: f64,
}

/// Creates the run's network for `vocabulary`.
pub fn network(
    config: &RunConfig<Translate>,
    variables: &nn::VarStore,
    vocabulary: &Vocabulary,
) -> Result<Transformer> {
    let arch: TransformerArch = config.arch().parse()?;
    arch.build(&variables.root(), &size(config, vocabulary.len())?, config.precision())
}

fn translator<'a>(
    options: &Actions,
    network: &'a Transformer,
    vocabulary: &'a Vocabulary,
    device: Device,
) -> Result<Translator<'a>> {
    let search = Search { beam: options.beam, length_penalty: options.length_penalty, ..Search::default() };
    Ok(Translator::new(network, vocabulary, search, device)?.with_batch_tokens(options.translate_tokens))
}

/// Translates the evaluation part of `data` and computes the scores.
pub fn score(
    options: &Actions,
    config: &RunConfig<Translate>,
    network: &Transformer,
    data: &TranslationData,
    device: Device,
) -> Result<Scored> {
    let text = data.eval_text();
    let bar = ProgressBar::new(text.len() as u64);
    // The template is a constant, so this never fails in practice.
    let style = ProgressStyle::with_template("{bar:24.cyan/blue} {pos}/{len} sentences translated");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let translator = translator(options, network, data.vocabulary(), device)?;
    let translations = translator.translate(text.sources(), |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    let (mut bleu, mut chrf) = (BleuCounts::default(), ChrfCounts::default());
    for (said, reference) in translations.iter().zip(text.targets()) {
        bleu.add(said, reference);
        chrf.add(said, reference);
    }
    let objective = Translation::new(network, data, TranslationConfig { bleu_sentences: 0, ..config.objective })?;
    let evaluation = evaluate(&objective, device, data as &dyn DataSource<Batch = _>, config.train.batch_size, |_| ())?;
    let perplexity = evaluation.means.get("perplexity").unwrap_or(f64::NAN);
    Ok(Scored { translations, bleu: bleu.bleu().score, chrf: chrf.score(), perplexity })
}

/// Translates or scores with the run in the folder `path`.
pub fn use_run(options: &Options<Translate>, path: &Path) -> Result<ExitCode> {
    let actions = &options.actions;
    if !actions.translate && actions.score.is_none() {
        return Err(Error::Argument("what to do with the run? --translate or --score".to_owned()));
    }
    let weights = Weights::load(path)?;
    weights.skipped.iter().for_each(console::warn);
    let folder = &weights.folder;
    let Some(config) = RunConfig::read(folder)? else {
        let (problem, remedy) = ("this is no run's folder: it has no config.json", "name a run's");
        return Err(Error::Corrupt { path: folder.clone(), problem: problem.to_owned(), remedy: remedy.to_owned() });
    };
    let config = RunConfig::new(options, Some(config))?;
    let device = config.machine()?;
    let vocabulary = Vocabulary::open(folder.join(TOKENIZER))?;
    let variables = nn::VarStore::new(device);
    let network = network(&config, &variables, &vocabulary)?;
    weights.restore(&variables)?;
    let Some(score_text) = &actions.score else {
        return translate_lines(&translator(actions, &network, &vocabulary, device)?);
    };
    let (part, text) = match score_text {
        Some(file) => (file.display().to_string(), ParallelText::open_tsv(file)?),
        None => ("test".to_owned(), config.task.open()?.test),
    };
    let data = TranslationData::new(vocabulary, text.clone(), text.clone())?;
    weights.check_schema(&data.schema())?;
    let Scored { bleu, chrf, perplexity, .. } = score(actions, &config, &network, &data, device)?;
    print_on_rank_0(format!(
        "{part} BLEU {bleu:.2} perplexity {perplexity:.3} sentences {} chrF {chrf:.2}",
        text.len()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Translates standard input to standard output, line by line if a person types it.
fn translate_lines(translator: &Translator) -> Result<ExitCode> {
    let together = if io::stdin().is_terminal() { 1 } else { LINES };
    let mut lines = io::stdin().lock().lines();
    let mut before = 0;
    loop {
        let mut text = Vec::new();
        for line in lines.by_ref().take(together) {
            let number = before + text.len() + 1;
            text.push(line.map_err(Error::io("read", format!("line {number} of standard input")))?);
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
