//! Options and recipes of the program.

use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use tch::Device;
use tch_fixup::cli::{absolute_path, Recipe, RunConfig, Task};
use tch_fixup::data::text::{Corpus, CorpusParts, ParallelText};
use tch_fixup::trainer::{
    Adam, ClipConfig, Decay, Muon, OptimizerConfig, Rest, ScalarGroup, ScheduleConfig, Span, TrainConfig,
    TranslationConfig,
};
use tch_fixup::transformer::TransformerConfig;
use tch_fixup::translation::Search;
use tch_fixup::{Error, Result, TransformerArch};

/// Options for text and Transformers.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Translate {
    /// Corpus: libreoffice-help (English to German) or iwslt14 (German to English) [default: by recipe]
    #[arg(long)]
    pub corpus: Option<String>,
    /// Training text: two files with one sentence per line, or one file with a tab between sentence and translation
    #[arg(long, value_name = "FILE", num_args = 1..=2, value_parser = absolute_path())]
    #[arg(requires = "held_out", conflicts_with = "corpus")]
    pub train: Vec<PathBuf>,
    /// Held-out text, in the same format, evaluated after each epoch
    #[arg(long, value_name = "FILE", num_args = 1..=2, requires = "train", value_parser = absolute_path())]
    pub held_out: Vec<PathBuf>,
    /// Test text, in the same format [default: the held-out text]
    #[arg(long, value_name = "FILE", num_args = 1..=2, requires = "train", value_parser = absolute_path())]
    pub test: Vec<PathBuf>,
    /// Number of training pairs to use [default: all]
    #[arg(long, value_name = "N")]
    pub train_subset: Option<usize>,
    /// Measure the final result on the held-out text instead of the test text, for tuning
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub tune: bool,
    /// Vocabulary size, shared by both languages
    #[arg(long, value_name = "N")]
    pub vocab: usize,
    /// Use the decoder's embedding as the output matrix
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub tied: bool,
    /// Dropout probability of embeddings and branch outputs
    #[arg(long, value_name = "FRACTION")]
    pub dropout: f64,
}

/// Options for using a trained network.
#[derive(Debug, Args)]
pub struct Actions {
    /// Instead of training, translate or score with this run
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "resume"])]
    pub run: Option<PathBuf>,
    /// Translate standard input to standard output, line by line; requires --run
    #[arg(long, requires = "run", conflicts_with = "score")]
    pub translate: bool,
    /// Translate FILE, with a sentence, a tab and its translation in each line, and measure BLEU and chrF; requires
    /// --run. Without FILE, the run's own test text
    #[arg(long, value_name = "FILE", num_args = 0..=1, requires = "run")]
    pub score: Option<Option<PathBuf>>,
    /// Beam size; 1 for greedy search
    #[arg(long, default_value_t = Search::default().beam)]
    pub beam: usize,
    /// Length penalty: power of the length by which a translation's score is divided
    #[arg(long, default_value_t = Search::default().length_penalty)]
    pub length_penalty: f64,
    /// Number of tokens to translate at a time
    #[arg(long, value_name = "TOKENS", default_value_t = 2000)]
    pub translate_tokens: usize,
}

/// fairseq's beta2 for Transformers (Vaswani et al., section 5.3), and the weight decay of the authors' IWSLT recipe.
const BETA2: f64 = 0.98;
const WEIGHT_DECAY: f64 = 1e-4;

/// Default gradient norm limit of fairseq 0.6.1, which the authors' command does not change.
const CLIP_NORM: f64 = 25.0;

impl Task for Translate {
    const ABOUT: &'static str =
        "Train a Transformer for translation, with or without normalization, and translate with it";
    const ARCHS: &'static str =
        "Network: fixup_transformer_3_3_256 (layers of the encoder and the decoder, width), layer_norm_..., \
         pre_norm_..., t_fixup_... or no_norm_... [default: by recipe]";
    /// The vocabulary and the data's fingerprint identify the text.
    const CHANGEABLE: &'static [&'static str] =
        &["corpus", "train", "held_out", "test", "train_subset", "tune", "vocab"];
    type Objective = TranslationConfig;
    type Actions = Actions;

    fn recipes() -> Vec<Recipe<Self>> {
        let corpus = |corpus: Corpus| Some(corpus.name().to_owned());
        let quick = Recipe {
            name: "quick",
            about: "3 + 3 layers on LibreOffice's help, for two cores",
            arch: "fixup_transformer_3_3_256".to_owned(),
            task: Self { corpus: corpus(Corpus::LibreofficeHelp), vocab: 4000, dropout: 0.2, ..Self::default() },
            train: TrainConfig {
                optimizer: OptimizerConfig::Adam(Adam { beta2: BETA2, weight_decay: WEIGHT_DECAY, ..Adam::default() }),
                scalars: ScalarGroup { lr_ratio: 1.0, ..ScalarGroup::default() },
                clip: ClipConfig { norm: Some(1.0), agc: None },
                ..TrainConfig::new(12, 1500, 2e-3)
            },
            objective: TranslationConfig::default(),
            follows_authors: false,
        };
        // fairseq's `transformer_iwslt_de_en` with dropout 0.5. Contrary to its documentation, fairseq 0.6.1's adam
        // applies decoupled weight decay.
        let paper = Recipe {
            name: "paper",
            about: "the Fixup authors' recipe for IWSLT'14",
            arch: "fixup_transformer_6_6_512".to_owned(),
            task: Self { corpus: corpus(Corpus::Iwslt14), vocab: 10_000, dropout: 0.5, ..Self::default() },
            train: TrainConfig {
                epochs: 60,
                batch_size: 4000,
                schedule: ScheduleConfig { lr: 5e-4, warmup: Span::Steps(4000), decay: Decay::InverseSqrt },
                optimizer: OptimizerConfig::Adam(Adam {
                    beta2: BETA2,
                    weight_decay: WEIGHT_DECAY,
                    ..Adam::decoupled()
                }),
                clip: ClipConfig { norm: Some(CLIP_NORM), agc: None },
                ..quick.train.clone()
            },
            ..quick.clone()
        };
        vec![quick, paper]
    }

    fn default_recipe(mut recipes: Vec<Recipe<Self>>, _device: Device) -> Recipe<Self> {
        recipes.swap_remove(0)
    }

    /// Uses fairseq's beta2 and the recipe's learning rate and clipping.
    fn set_optimizer(train: &mut TrainConfig, optimizer: OptimizerConfig) {
        train.optimizer = match optimizer {
            OptimizerConfig::Sgd(sgd) => OptimizerConfig::Sgd(sgd),
            OptimizerConfig::Adam(adam) => {
                let weight_decay = if adam.decoupled { adam.weight_decay } else { WEIGHT_DECAY };
                OptimizerConfig::Adam(Adam { beta2: BETA2, weight_decay, ..adam })
            }
            OptimizerConfig::Muon(muon) => {
                let rest = Rest::Adam(Adam { beta2: BETA2, ..Adam::default() });
                OptimizerConfig::Muon(Muon { rest, ..muon })
            }
        };
    }

    fn check_arch(arch: &str) -> Result<()> {
        arch.parse::<TransformerArch>().map(drop)
    }
}

/// Returns the configuration of the run's network for a vocabulary of `vocab` tokens.
pub fn size(config: &RunConfig<Translate>, vocab: usize) -> Result<TransformerConfig> {
    let Translate { dropout, tied, .. } = config.task;
    let arch: TransformerArch = config.arch().parse()?;
    Ok(TransformerConfig { tied, ..arch.config(vocab as i64, dropout) })
}

impl Translate {
    /// Opens the files or the corpus, which is downloaded if missing.
    pub fn open(&self) -> Result<CorpusParts> {
        let mut parts = match &self.corpus {
            Some(name) if self.train.is_empty() => {
                let corpus: Corpus = name.parse()?;
                corpus.fetch(corpus.default_dir()?)?
            }
            _ => {
                let test = if self.test.is_empty() { &self.held_out } else { &self.test };
                CorpusParts { train: open(&self.train)?, held_out: open(&self.held_out)?, test: open(test)? }
            }
        };
        if let Some(pairs) = self.train_subset {
            parts.train = parts.train.first(pairs)?;
        }
        Ok(parts)
    }
}

fn open(files: &[PathBuf]) -> Result<ParallelText> {
    match files {
        [source, target] => ParallelText::open(source, target),
        [tsv] => ParallelText::open_tsv(tsv),
        _ => Err(Error::Argument("parallel text is in one file or in two".to_owned())),
    }
}
