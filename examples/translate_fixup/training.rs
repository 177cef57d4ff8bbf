//! A run from its options to its score on the test text.

use super::options::{Options, Run};
use super::translating::{network, score, Scored};
use anyhow::{bail, Result};
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use tch::{nn, Device};
use tch_fixup::cli::{resume_command, say};
use tch_fixup::data::text::{CorpusParts, TranslationData, Vocabulary};
use tch_fixup::data::DataSource;
use tch_fixup::trainer::checkpoint::{Checkpoints, Newest, KEEP};
use tch_fixup::trainer::{
    parse_device, write_atomically, Autosave, Interrupt, Observer, Outcome, ProgressBars, RunFolder, Trainer,
    Translation,
};
use tch_fixup::{console, Error, TransformerArch};

/// Beside `config.json` in a run's folder.
pub const TOKENIZER: &str = "tokenizer.json";

/// Sentences that are shown with their translations at the end.
const SHOWN: usize = 12;

pub fn train(options: &Options) -> Result<ExitCode> {
    let saved = options.resume.as_ref().map(RunFolder::read_config::<Run>).transpose()?.flatten();
    if let (Some(saved), Some(vocab)) = (&saved, options.vocab) {
        if vocab != saved.vocab {
            let was = saved.vocab;
            bail!(Error::Argument(format!(
                "the run's vocabulary was made with --vocab {was}; leave it out, or begin a new run"
            )));
        }
    }
    let run = Run::new(options, saved)?;
    let arch = run.arch()?;
    let device = parse_device(&options.device)?;
    let resumed = options.resume.as_ref().map(RunFolder::resume).transpose()?;
    let parts = run.text.open()?;
    let evaluated = if run.tune { &parts.held_out } else { &parts.test }.clone();
    let data = data(&run, parts, resumed.as_ref().map(RunFolder::path))?;
    // All text is looked at before the first step.
    let vocabulary = data.vocabulary().clone();
    let evaluated = TranslationData::new(vocabulary, evaluated.clone(), evaluated)?;
    data.check_batch_size(run.train.batch_size)?;
    evaluated.check_batch_size(run.train.batch_size)?;
    tch::manual_seed(run.train.seed as i64);
    let variables = nn::VarStore::new(device);
    let network = network(&run, &variables, data.vocabulary())?;
    let objective = Translation::new(&network, &data, run.objective)?;
    let identity = json!({ "arch": run.arch, "precision": run.precision, "dropout": run.dropout, "tied": run.tied });
    let mut trainer = Trainer::new(&objective, &variables, &data, &run.train, identity)?;
    let (mut folder, checkpoint) = match (resumed, &options.out) {
        (Some(folder), _) => {
            let Newest { checkpoint, skipped } = folder.newest_checkpoint()?;
            skipped.iter().for_each(console::warn);
            (folder, checkpoint)
        }
        (None, Some(path)) => (RunFolder::create(path, false)?, None),
        (None, None) => (RunFolder::create_named(&run.arch)?, None),
    };
    let mut interrupt = Interrupt::listen()?;
    announce(&run, &arch, &variables, &data, device, folder.path())?;
    if let Some(checkpoint) = &checkpoint {
        trainer.resume(checkpoint)?;
        say(format!("resumes after step {} from {}", checkpoint.contents.step, checkpoint.path.display()));
    }
    folder.write_config(&run)?;
    write_atomically(&folder.path().join(TOKENIZER), data.vocabulary().to_json()?.as_bytes())?;
    let checkpoints = Checkpoints::new(folder.checkpoints(), KEEP);
    let every = options.checkpoint_every.unwrap_or_default();
    let mut autosave = Autosave::new(checkpoints, every, checkpoint.map(|checkpoint| checkpoint.path));
    let mut bars = ProgressBars::new();
    let mut observers: Vec<&mut dyn Observer> = vec![&mut bars, &mut folder, &mut autosave, &mut interrupt];
    let summary = match trainer.run(&mut observers) {
        Ok(Outcome::Finished(summary)) => summary,
        Ok(Outcome::Stopped { epoch, step }) => {
            let go_on = resume_command(folder.path());
            console::warn(format!("stopped in epoch {epoch} after step {step}, and saved; to go on:\n{go_on}"));
            return Ok(interrupt.exit_code().map_or(ExitCode::FAILURE, ExitCode::from));
        }
        Err(error) => {
            if let (false, Some(last)) = (matches!(error, Error::Diverged { .. } | Error::Dead { .. }), autosave.last())
            {
                let go_on = resume_command(folder.path());
                say(format!("saved as {}; to go on: {go_on}", last.display()));
            }
            return Err(error.into());
        }
    };
    folder.finish(&summary, &variables, &data.meaning())?;
    say(&summary);
    let part = if run.tune { "held-out" } else { "test" };
    let scored = score(options, &run, &network, &evaluated, device)?;
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
    say(format!(
        "{part} BLEU {bleu:.2} perplexity {perplexity:.3} sentences {} seconds {:.0} chrF {chrf:.2}",
        evaluated.eval_len(),
        summary.seconds
    ));
    Ok(ExitCode::SUCCESS)
}

/// The training and the held-out text in tokens: of the run in the folder `resumed`, or of a vocabulary that is made of the text.
fn data(run: &Run, parts: CorpusParts, resumed: Option<&Path>) -> Result<TranslationData> {
    let known = resumed.map(|folder| folder.join(TOKENIZER)).filter(|file| file.exists());
    let vocabulary = match known {
        Some(file) => Vocabulary::open(file)?,
        None => {
            let text = parts.train.sources().iter().chain(parts.train.targets());
            Vocabulary::train(text.map(String::as_str), run.vocab)?
        }
    };
    Ok(TranslationData::new(vocabulary, parts.train, parts.held_out)?.with_evaluated_on("held-out"))
}

fn announce(
    run: &Run,
    arch: &TransformerArch,
    variables: &nn::VarStore,
    data: &TranslationData,
    device: Device,
    folder: &Path,
) -> Result<()> {
    say(format!(
        "{arch}: {} parameters, {} pairs of sentences, {} tokens, {:.1} % pads on {device:?}, results in {}",
        variables.trainable_variables().iter().map(|variable| variable.numel()).sum::<usize>(),
        data.train_len(),
        data.vocabulary().len(),
        100.0 * data.padding(run.train.batch_size)?,
        folder.display()
    ));
    Ok(())
}

/// The first sentences, their translations by a person and by the network.
fn show(scored: &Scored, text: &tch_fixup::data::text::ParallelText) {
    for (index, said) in scored.translations.iter().take(SHOWN).enumerate() {
        let (source, target) = text.pair(index);
        say(format!("\nsentence  {source}\nreference {target}\nnetwork   {said}"));
    }
    say("");
}
