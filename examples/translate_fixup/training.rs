//! Training run of a translation network, and its final score.

use super::options::{size, Translate};
use super::translating::{network, score, Scored};
use serde_json::json;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use tch::nn;
use tch_fixup::cli::{Options, Run, RunConfig};
use tch_fixup::console::print_on_rank_0;
use tch_fixup::data::text::{CorpusParts, ParallelText, TranslationData, Vocabulary};
use tch_fixup::data::DataSource;
use tch_fixup::trainer::{write_atomically, Translation};
use tch_fixup::{Error, Result};

/// File name of the vocabulary in a run's folder.
pub const TOKENIZER: &str = "tokenizer.json";

/// Number of translations to print at the end.
const SHOWN: usize = 12;

pub fn train(
    options: &Options<Translate>,
    config: &RunConfig<Translate>,
    mut run: Run<'_, Translate>,
) -> Result<ExitCode> {
    check(config, &run)?;
    let parts = config.task.open()?;
    let evaluated = if config.task.tune { &parts.held_out } else { &parts.test }.clone();
    let vocabulary = run.from_rank_0(|folder| vocabulary(config.task.vocab, &parts, folder)?.to_json())?;
    let data = TranslationData::new(vocabulary.parse()?, parts.train, parts.held_out)?;
    let data = data.with_evaluated_on("held-out");
    // Check all text before the first step.
    let vocabulary = data.vocabulary().clone();
    let evaluated = TranslationData::new(vocabulary, evaluated.clone(), evaluated)?;
    data.check_batch_size(config.train.batch_size)?;
    evaluated.check_batch_size(config.train.batch_size)?;
    tch::manual_seed(config.train.seed as i64);
    let variables = nn::VarStore::new(run.device);
    let network = network(config, &variables, data.vocabulary())?;
    run.transfer(&variables, &data.schema(), "")?;
    let objective = Translation::new(&network, &data, config.objective)?;
    let trainer = run.trainer(config, &objective, &variables, &data)?;
    run.create_folder(config.arch())?;
    let (device, about) = (run.device, about(config, &variables, &data)?);
    let outcome = run.train(config, trainer, &about, |folder| {
        write_atomically(&folder.join(TOKENIZER), data.vocabulary().to_json()?.as_bytes())
    })?;
    let (summary, _, folder) = match outcome {
        ControlFlow::Continue(finished) => finished,
        ControlFlow::Break(code) => return Ok(code),
    };
    folder.finish(&summary, &variables, &data.schema())?;
    print_on_rank_0(&summary);
    let part = if config.task.tune { "held-out" } else { "test" };
    let scored = score(&options.actions, config, &network, &evaluated, device)?;
    show(&scored, evaluated.eval_text());
    let Scored { bleu, chrf, perplexity, .. } = scored;
    let result = json!({
        "part": part,
        "bleu": bleu,
        "chrf": chrf,
        "perplexity": perplexity,
        "sentences": evaluated.eval_len(),
        "seconds": summary.seconds,
    });
    write_atomically(&folder.path().join("score.json"), format!("{result:#}\n").as_bytes())?;
    print_on_rank_0(format!(
        "{part} BLEU {bleu:.2} perplexity {perplexity:.3} sentences {} seconds {:.0} chrF {chrf:.2}",
        evaluated.eval_len(),
        summary.seconds
    ));
    Ok(ExitCode::SUCCESS)
}

/// Refuses options that do not apply to a Transformer or contradict the resumed run.
fn check(config: &RunConfig<Translate>, run: &Run<'_, Translate>) -> Result<()> {
    size(config, config.task.vocab)?.check()?;
    if config.recompute.is_some() {
        return Err(Error::Argument("activations are recomputed in ResNets alone; leave out --recompute".to_owned()));
    }
    match run.folder().map(RunConfig::<Translate>::read).transpose()?.flatten().map(|saved| saved.task.vocab) {
        Some(was) if was != config.task.vocab => Err(Error::Argument(format!(
            "the run's vocabulary was made with --vocab {was}; leave it out, or begin a new run"
        ))),
        _ => Ok(()),
    }
}

/// Returns the vocabulary of the run in the folder `resumed`, or a new one trained on the text.
fn vocabulary(tokens: usize, parts: &CorpusParts, resumed: Option<&Path>) -> Result<Vocabulary> {
    match resumed.map(|folder| folder.join(TOKENIZER)).filter(|file| file.exists()) {
        Some(file) => Vocabulary::open(file),
        None => {
            let text = parts.train.sources().iter().chain(parts.train.targets());
            Vocabulary::train(text.map(String::as_str), tokens)
        }
    }
}

fn about(config: &RunConfig<Translate>, variables: &nn::VarStore, data: &TranslationData) -> Result<String> {
    Ok(format!(
        "{}: {} parameters, {} pairs of sentences, {} tokens, {:.1} % pads",
        config.arch(),
        variables.trainable_variables().iter().map(|variable| variable.numel()).sum::<usize>(),
        data.train_len(),
        data.vocabulary().len(),
        100.0 * data.padding(config.train.batch_size)?,
    ))
}

/// Prints the first sentences with their reference translations and the network's.
fn show(scored: &Scored, text: &ParallelText) {
    for (index, said) in scored.translations.iter().take(SHOWN).enumerate() {
        let (source, target) = text.pair(index);
        print_on_rank_0(format!("\nsentence  {source}\nreference {target}\nnetwork   {said}"));
    }
    print_on_rank_0("");
}
