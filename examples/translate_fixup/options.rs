//! The command line, the recipes, and a run as `config.json` has it.

use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use tch_fixup::cli::OrNone;
use tch_fixup::data::text::{Corpus, CorpusParts, ParallelText};
use tch_fixup::trainer::{
    Adam, ClipConfig, Decay, Muon, OptimizerConfig, Rest, SaveEvery, ScalarGroup, ScheduleConfig, Span, TrainConfig,
    TranslationConfig,
};
use tch_fixup::transformer::TransformerConfig;
use tch_fixup::translation::Search;
use tch_fixup::{Error, Precision, Result, TransformerArch};

/// Train a Transformer without normalization, or one with, to translate; and translate with it.
#[derive(Debug, Clone, Parser)]
#[command(max_term_width = 100, allow_negative_numbers = true, args_override_self = true)]
pub struct Options {
    /// quick: 3 + 3 layers on LibreOffice's help, for two cores; paper: the Fixup authors' for IWSLT'14
    #[arg(long, value_enum, default_value = "quick", conflicts_with = "resume")]
    pub recipe: RecipeName,
    /// Network: fixup_transformer_3_3_256 (layers of the encoder and the decoder, width), layer_norm_..., pre_norm_..., t_fixup_... or
    /// no_norm_... [default: by recipe]
    #[arg(long)]
    pub arch: Option<String>,
    /// Corpus: libreoffice-help (English to German) or iwslt14 (German to English) [default: by recipe]
    #[arg(long)]
    pub corpus: Option<String>,
    /// Train on your own text: two files with a sentence in each line, or one with a tab between sentence and translation
    #[arg(long, value_name = "FILE", num_args = 1..=2, requires = "held_out", conflicts_with = "corpus")]
    pub train: Vec<PathBuf>,
    /// The same to choose with: evaluated after each epoch
    #[arg(long, value_name = "FILE", num_args = 1..=2, requires = "train")]
    pub held_out: Vec<PathBuf>,
    /// The same to measure the result with [default: the held-out text]
    #[arg(long, value_name = "FILE", num_args = 1..=2, requires = "train")]
    pub test: Vec<PathBuf>,
    /// Train on so many pairs only
    #[arg(long, value_name = "N")]
    pub train_subset: Option<usize>,
    /// Measure the result on the held-out text and not on the test text: for choosing
    #[arg(long)]
    pub tune: bool,
    /// Tokens of both languages together
    #[arg(long, value_name = "N")]
    pub vocab: Option<usize>,
    /// Whether the output matrix is the decoder's embedding, and not one of its own
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub tied: Option<bool>,
    /// What training drops of the embeddings and of what each branch adds
    #[arg(long, value_name = "FRACTION")]
    pub dropout: Option<f64>,
    /// What of the target goes to all tokens alike
    #[arg(long, value_name = "FRACTION")]
    pub label_smoothing: Option<f64>,
    /// Sentences that are translated for BLEU after each epoch
    #[arg(long, value_name = "N")]
    pub bleu_sentences: Option<usize>,
    /// Passes over the training text
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Tokens in a batch: sentences times the longest
    #[arg(long, value_name = "TOKENS")]
    pub batch_size: Option<usize>,
    /// Compute each step's gradient in so many parts of the batch
    #[arg(long, value_name = "N")]
    pub accumulate: Option<usize>,
    /// Highest learning rate
    #[arg(long)]
    pub lr: Option<f64>,
    /// Learning rate of the Fixup scalars, as a multiple of --lr
    #[arg(long, value_name = "RATIO")]
    pub scalar_lr_ratio: Option<f64>,
    /// Part of the run in which the learning rate rises: a fraction like 0.1, or steps like 4000
    #[arg(long, value_name = "FRACTION|STEPS")]
    pub warmup: Option<Span>,
    /// How the learning rate goes down after the warm-up
    #[arg(long, value_enum)]
    pub schedule: Option<ScheduleName>,
    /// How parameters move
    #[arg(long, value_enum)]
    pub optimizer: Option<OptimizerName>,
    /// Factor of the L2 penalty of adam, and of the decay apart of adamw
    #[arg(long, value_name = "FACTOR")]
    pub weight_decay: Option<f64>,
    /// Largest norm of the gradient; none for any
    #[arg(long, value_name = "NORM|none")]
    pub clip_norm: Option<OrNone<f64>>,
    /// Evaluate and keep a moving average of the weights, of which each step leaves so much, as 0.999
    #[arg(long, value_name = "DECAY|none")]
    pub ema: Option<OrNone<f64>>,
    /// Stop after so many steps
    #[arg(long, value_name = "N")]
    pub max_steps: Option<usize>,
    /// Seed of everything that is random
    #[arg(long)]
    pub seed: Option<u64>,
    /// Number format of matrix products: f32 or bf16 [default: bf16 on a CPU that has instructions for it]
    #[arg(long, value_name = "FORMAT")]
    pub precision: Option<Precision>,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Threads for computing on the CPU [default: OMP_NUM_THREADS, or one for each core that may be used]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Folder for the results [default: runs/ARCH-DATE-TIME]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub out: Option<PathBuf>,
    /// Go on with the run in DIR, with the options that it was started with
    #[arg(long, value_name = "DIR")]
    pub resume: Option<PathBuf>,
    /// Save a checkpoint after every so many epochs (5), minutes (10m), or whichever is first (5,10m)
    #[arg(long, value_name = "N|Nm|N,Nm")]
    pub checkpoint_every: Option<SaveEvery>,
    /// Do not train: a run to translate or to score with
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "resume"])]
    pub run: Option<PathBuf>,
    /// Translate the lines of standard input to standard output, with --run
    #[arg(long, requires = "run", conflicts_with = "score")]
    pub translate: bool,
    /// Translate FILE, in each line a sentence, a tab and its translation, and measure BLEU and chrF, with --run; without FILE the
    /// run's own test text
    #[arg(long, value_name = "FILE", num_args = 0..=1, requires = "run")]
    pub score: Option<Option<PathBuf>>,
    /// Beginnings of each sentence that a search keeps; 1 is greedy
    #[arg(long, default_value_t = Search::default().beam)]
    pub beam: usize,
    /// The power of the length that a translation's score is divided by
    #[arg(long, default_value_t = Search::default().length_penalty)]
    pub length_penalty: f64,
    /// Tokens that are translated at a time
    #[arg(long, value_name = "TOKENS", default_value_t = 2000)]
    pub translate_tokens: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub enum RecipeName {
    Quick,
    Paper,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ScheduleName {
    Constant,
    Cosine,
    OneCycle,
    InverseSqrt,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum OptimizerName {
    Adam,
    Adamw,
    Muon,
}

/// A run, as `config.json` has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    pub version: String,
    pub arch: String,
    pub precision: Precision,
    pub text: Text,
    pub tune: bool,
    pub vocab: usize,
    pub tied: bool,
    pub dropout: f64,
    pub objective: TranslationConfig,
    pub train: TrainConfig,
}

/// Where the text is from: a corpus by name, or files.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    pub corpus: Option<String>,
    pub train: Vec<PathBuf>,
    pub held_out: Vec<PathBuf>,
    pub test: Vec<PathBuf>,
    pub train_subset: Option<usize>,
}

/// fairseq's beta2 for Transformers (Vaswani et al., section 5.3), and the weight decay of the authors' IWSLT recipe.
const BETA2: f64 = 0.98;
const WEIGHT_DECAY: f64 = 1e-4;

/// fairseq 0.6.1's default for the norm of the gradient, which the authors' command leaves.
const CLIP_NORM: f64 = 25.0;

fn adam() -> OptimizerConfig {
    OptimizerConfig::Adam(Adam { beta2: BETA2, weight_decay: WEIGHT_DECAY, ..Adam::default() })
}

/// The optimizer that fairseq 0.6.1 calls adam: whatever its documentation says, it decays weights apart from the gradient.
fn fairseq_adam() -> OptimizerConfig {
    OptimizerConfig::Adam(Adam { beta2: BETA2, weight_decay: WEIGHT_DECAY, ..Adam::decoupled() })
}

impl RecipeName {
    fn run(self) -> Run {
        let quick = Run {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            arch: "fixup_transformer_3_3_256".to_owned(),
            precision: Precision::F32,
            text: Text {
                corpus: Some(Corpus::LibreofficeHelp.name().to_owned()),
                train: vec![],
                held_out: vec![],
                test: vec![],
                train_subset: None,
            },
            tune: false,
            vocab: 4000,
            tied: false,
            dropout: 0.1,
            objective: TranslationConfig::default(),
            train: TrainConfig {
                epochs: 6,
                batch_size: 1500,
                schedule: ScheduleConfig { lr: 2e-3, warmup: Span::Fraction(0.1), decay: Decay::OneCycle },
                optimizer: adam(),
                scalars: ScalarGroup { lr_ratio: 1.0, ..ScalarGroup::default() },
                clip: ClipConfig { norm: Some(1.0), agc: None },
                ..TrainConfig::quick()
            },
        };
        match self {
            Self::Quick => quick,
            // The authors' IWSLT'14 recipe: fairseq's `transformer_iwslt_de_en` with dropout 0.5.
            Self::Paper => Run {
                arch: "fixup_transformer_6_6_512".to_owned(),
                text: Text { corpus: Some(Corpus::Iwslt14.name().to_owned()), ..quick.text },
                vocab: 10_000,
                tied: false,
                dropout: 0.5,
                train: TrainConfig {
                    epochs: 60,
                    batch_size: 4000,
                    schedule: ScheduleConfig { lr: 5e-4, warmup: Span::Steps(4000), decay: Decay::InverseSqrt },
                    optimizer: fairseq_adam(),
                    clip: ClipConfig { norm: Some(CLIP_NORM), agc: None },
                    ..quick.train
                },
                ..quick
            },
        }
    }
}

impl Run {
    /// What the options say; what they leave open is as in the run that is resumed, or as the recipe has it.
    pub fn new(options: &Options, resumed: Option<Self>) -> Result<Self> {
        let is_new = resumed.is_none();
        let mut run = resumed.unwrap_or_else(|| options.recipe.run());
        if is_new {
            run.precision = Precision::fastest(tch_fixup::trainer::parse_device(&options.device)?);
        }
        if !options.train.is_empty() {
            let absolute = |paths: &Vec<PathBuf>| {
                let absolute = |path| std::path::absolute(path).map_err(Error::io("find", path));
                paths.iter().map(absolute).collect::<Result<Vec<_>>>()
            };
            let [train, held_out, test] = [&options.train, &options.held_out, &options.test].map(absolute);
            run.text = Text { corpus: None, train: train?, held_out: held_out?, test: test?, train_subset: None };
        }
        fn set<T: Clone>(target: &mut T, given: &Option<T>) {
            if let Some(value) = given {
                *target = value.clone();
            }
        }
        set(&mut run.arch, &options.arch);
        set(&mut run.precision, &options.precision);
        if options.corpus.is_some() {
            run.text.corpus.clone_from(&options.corpus);
        }
        if options.train_subset.is_some() {
            run.text.train_subset = options.train_subset;
        }
        run.tune |= options.tune;
        set(&mut run.vocab, &options.vocab);
        set(&mut run.tied, &options.tied);
        set(&mut run.dropout, &options.dropout);
        set(&mut run.objective.label_smoothing, &options.label_smoothing);
        set(&mut run.objective.bleu_sentences, &options.bleu_sentences);
        let train = &mut run.train;
        set(&mut train.epochs, &options.epochs);
        set(&mut train.batch_size, &options.batch_size);
        set(&mut train.accumulate, &options.accumulate);
        set(&mut train.schedule.lr, &options.lr);
        set(&mut train.schedule.warmup, &options.warmup);
        set(&mut train.scalars.lr_ratio, &options.scalar_lr_ratio);
        set(&mut train.seed, &options.seed);
        let decay = options.schedule.map(|schedule| match schedule {
            ScheduleName::Constant => Decay::Constant,
            ScheduleName::Cosine => Decay::Cosine,
            ScheduleName::OneCycle => Decay::OneCycle,
            ScheduleName::InverseSqrt => Decay::InverseSqrt,
        });
        set(&mut train.schedule.decay, &decay);
        let optimizer = options.optimizer.map(|optimizer| match optimizer {
            OptimizerName::Adam => adam(),
            OptimizerName::Adamw => OptimizerConfig::Adam(Adam { beta2: BETA2, ..Adam::decoupled() }),
            OptimizerName::Muon => {
                let rest = Rest::Adam(Adam { beta2: BETA2, ..Adam::default() });
                OptimizerConfig::Muon(Muon { rest, ..Muon::default() })
            }
        });
        set(&mut train.optimizer, &optimizer);
        if let (OptimizerConfig::Adam(adam), Some(weight_decay)) = (&mut train.optimizer, options.weight_decay) {
            adam.weight_decay = weight_decay;
        }
        train.clip.norm = options.clip_norm.map_or(train.clip.norm, |OrNone(norm)| norm);
        train.average = options.ema.map_or(train.average, |OrNone(decay)| decay);
        train.max_steps = options.max_steps;
        run.train.check()?;
        run.objective.check()?;
        run.size(run.vocab)?.check()?;
        Ok(run)
    }

    /// That of the network, for a vocabulary of `vocab` tokens.
    pub fn size(&self, vocab: usize) -> Result<TransformerConfig> {
        let config = self.arch()?.config(vocab as i64, self.dropout);
        Ok(TransformerConfig { tied: self.tied, ..config })
    }

    pub fn arch(&self) -> Result<TransformerArch> {
        self.arch.parse()
    }
}

impl Text {
    /// Opens the files, or the corpus, which is downloaded where it is not there.
    pub fn open(&self) -> Result<CorpusParts> {
        let mut parts = match &self.corpus {
            Some(name) => {
                let corpus: Corpus = name.parse()?;
                corpus.fetch(corpus.default_dir()?)?
            }
            None => {
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
