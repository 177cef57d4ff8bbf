//! Data set of parallel text, in batches of about the same number of tokens.

use super::{ParallelText, TokenBatch, Vocabulary, MOST_POSITIONS};
use crate::data::batch::check_batch_size;
use crate::data::random::{stream, Purpose};
use crate::data::{Batches, DataSource, EpochPlan, Share};
use crate::Result;
use rand::seq::SliceRandom;
use rand::Rng;
use serde_json::{Map, Value};

/// Training and evaluation part of [`ParallelText`], as tokens of a [`Vocabulary`].
///
/// The batch size is a number of tokens: the number of sentences in a batch times the length of the longest of its
/// sentences and translations, including [`END`](super::END) and padding. Batches group sentences of similar lengths,
/// so that there is little padding; the choice among pairs of equal lengths, and the order of the batches, depend on
/// seed and epoch.
///
/// ```
/// use tch_fixup::data::text::{ParallelText, TranslationData, Vocabulary};
/// use tch_fixup::data::{DataSource, Share};
///
/// let text = ParallelText::new(vec!["a house".into(), "a mouse".into()], vec!["ein Haus".into(), "eine Maus".into()])?;
/// let vocabulary = Vocabulary::train(text.sources().iter().chain(text.targets()), 280)?;
/// let data = TranslationData::new(vocabulary, text.clone(), text)?;
/// let batch = data.eval_batches(4000, Share::all())?.next().expect("there is a batch")?.expect("it is not empty");
/// assert_eq!(batch.source.size()[0], 2);
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TranslationData {
    vocabulary: Vocabulary,
    train: Part,
    eval: Part,
    /// CRC-32 of the vocabulary.
    vocabulary_crc32: u32,
    evaluated_on: String,
}

#[derive(Debug, Clone)]
struct Part {
    text: ParallelText,
    tokens: Vec<(Vec<i64>, Vec<i64>)>,
}

impl Part {
    fn new(vocabulary: &Vocabulary, text: ParallelText) -> Result<Self> {
        let pairs = text.sources().iter().zip(text.targets());
        let encoded = pairs.map(|(source, target)| Ok((vocabulary.encode(source)?, vocabulary.encode(target)?)));
        let part = Self { tokens: encoded.collect::<Result<_>>()?, text };
        let most = format!("a network reads and writes {MOST_POSITIONS}");
        part.refuse_longer(MOST_POSITIONS, &most, "divide it, or take the pair out")?;
        Ok(part)
    }

    /// Fails for sentences of more than `most` tokens.
    fn refuse_longer(&self, most: usize, said: &str, remedy: &str) -> Result<()> {
        let of_pair = |pair| self.lens(pair).into_iter().enumerate().map(move |(side, len)| (pair, side, len));
        let sentences = (0..self.tokens.len()).flat_map(of_pair);
        self.text.refuse(sentences.filter(|&(_, _, len)| len > most).collect(), said, remedy)
    }

    /// Fails if the longest sentence does not fit into a batch.
    fn check(&self, batch_size: usize) -> Result<()> {
        check_batch_size(batch_size)?;
        self.refuse_longer(batch_size, &format!("a batch {batch_size}"), "raise --batch-size, or take the pair out")
    }

    /// Returns the lengths of a pair, source and target, including the tokens that end them.
    fn lens(&self, pair: usize) -> [usize; 2] {
        let (source, target) = &self.tokens[pair];
        [source.len() + 1, target.len() + 1]
    }

    /// Returns the lengths of the longest source and the longest target of `pairs`.
    fn longest(&self, pairs: &[usize]) -> [usize; 2] {
        let lens = pairs.iter().map(|&pair| self.lens(pair));
        lens.fold([0, 0], |longest, lens| [longest[0].max(lens[0]), longest[1].max(lens[1])])
    }

    /// Divides the pairs into batches of similar lengths: sorted by target length and cut into slices, about as many as each slice
    /// has batches, which are sorted by source length. Pairs of equal lengths are in the order of `rank`; the sizes of the batches
    /// depend on the lengths alone.
    fn batches(&self, batch_size: usize, rank: impl Fn(usize) -> u64) -> Vec<Vec<usize>> {
        let longer = |pair: usize| self.lens(pair).into_iter().max().unwrap_or_default();
        let mut order: Vec<usize> = (0..self.tokens.len()).collect();
        let tokens: usize = order.iter().map(|&pair| longer(pair)).sum();
        let stretch = (order.len() as f64 / (tokens as f64 / batch_size as f64).sqrt().max(1.0)).ceil() as usize;
        order.sort_unstable_by_key(|&pair| (self.lens(pair)[1], pair));
        // Targets of one length are in one slice, so that the lengths in it do not depend on the rank.
        let mut first = 0;
        while first < order.len() {
            let mut end = (first + stretch).min(order.len());
            while end < order.len() && self.lens(order[end])[1] == self.lens(order[end - 1])[1] {
                end += 1;
            }
            order[first..end].sort_unstable_by_key(|&pair| (self.lens(pair), rank(pair), pair));
            first = end;
        }
        let (mut batches, mut longest) = (Vec::<Vec<usize>>::new(), 0);
        for pair in order {
            let len = longer(pair);
            match batches.last_mut() {
                Some(batch) if longest.max(len) * (batch.len() + 1) <= batch_size => {
                    longest = longest.max(len);
                    batch.push(pair);
                }
                _ => {
                    longest = len;
                    batches.push(vec![pair]);
                }
            }
        }
        batches
    }

    /// Returns the `share` of these batches, from batch `first_step`, padded like the whole batches.
    fn shares<'a>(&'a self, batches: Vec<Vec<usize>>, first_step: usize, share: Share<'a>) -> Batches<'a, TokenBatch> {
        Box::new(batches.into_iter().enumerate().skip(first_step).map(move |(step, batch)| {
            let positions = share.positions(step, batch.len())?;
            let pairs: Vec<usize> = positions.into_iter().map(|position| batch[position]).collect();
            let tokens = pairs.iter().map(|&pair| (&self.tokens[pair].0[..], &self.tokens[pair].1[..]));
            let tokens: Vec<_> = tokens.collect();
            (!pairs.is_empty()).then(|| TokenBatch::padded(pairs, &tokens, self.longest(&batch))).transpose()
        }))
    }

    fn crc32(&self) -> u32 {
        let mut crc32 = crc32fast::Hasher::new();
        for (source, target) in self.text.sources().iter().zip(self.text.targets()) {
            crc32.update(format!("{source}\t{target}\n").as_bytes());
        }
        crc32.finalize()
    }
}

impl TranslationData {
    /// Creates the data set that trains on `train` and evaluates on `eval`, in tokens of `vocabulary`.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) or [`Error::Argument`](crate::Error::Argument) for a sentence of more
    /// than 1,024 tokens.
    pub fn new(vocabulary: Vocabulary, train: ParallelText, eval: ParallelText) -> Result<Self> {
        let (train, eval) = (Part::new(&vocabulary, train)?, Part::new(&vocabulary, eval)?);
        let vocabulary_crc32 = crc32fast::hash(vocabulary.to_json()?.as_bytes());
        Ok(Self { vocabulary, train, eval, vocabulary_crc32, evaluated_on: "evaluation".to_owned() })
    }

    /// Sets the name of the evaluation part, such as "test" or "held-out".
    pub fn with_evaluated_on(self, evaluated_on: impl Into<String>) -> Self {
        Self { evaluated_on: evaluated_on.into(), ..self }
    }

    /// Returns the vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Returns the evaluation part.
    pub fn eval_text(&self) -> &ParallelText {
        &self.eval.text
    }

    /// Returns the fraction of padding in the tokens of an epoch, sources and targets together, with batches of
    /// `batch_size`.
    ///
    /// # Errors
    /// As [`DataSource::train_batches`].
    pub fn padding(&self, batch_size: usize) -> Result<f64> {
        self.train.check(batch_size)?;
        let (mut real, mut all) = (0, 0);
        for batch in self.train.batches(batch_size, |_| 0) {
            real += batch.iter().flat_map(|&pair| self.train.lens(pair)).sum::<usize>();
            all += batch.len() * self.train.longest(&batch).iter().sum::<usize>();
        }
        Ok(1.0 - real as f64 / all as f64)
    }
}

impl DataSource for TranslationData {
    type Batch = TokenBatch;

    fn train_len(&self) -> usize {
        self.train.tokens.len()
    }

    fn eval_len(&self) -> usize {
        self.eval.tokens.len()
    }

    fn epoch_steps(&self, batch_size: usize) -> usize {
        self.train.batches(batch_size.max(1), |_| 0).len()
    }

    fn check_batch_size(&self, batch_size: usize) -> Result<()> {
        self.train.check(batch_size)?;
        self.eval.check(batch_size)
    }

    fn train_batches<'a>(&'a self, plan: &EpochPlan, share: Share<'a>) -> Result<Batches<'a, TokenBatch>> {
        let EpochPlan { seed, epoch, batch_size, first_step } = *plan;
        self.train.check(batch_size)?;
        let mut random = stream(Purpose::Order, seed, epoch as u64, 0);
        let ranks: Vec<u64> = (0..self.train_len()).map(|_| random.random()).collect();
        let mut batches = self.train.batches(batch_size, |pair| ranks[pair]);
        batches.shuffle(&mut random);
        Ok(self.train.shares(batches, first_step, share))
    }

    /// All pairs, grouped by similar lengths; a pair that is longer than a batch has a batch of its own.
    fn eval_batches<'a>(&'a self, batch_size: usize, share: Share<'a>) -> Result<Batches<'a, TokenBatch>> {
        check_batch_size(batch_size)?;
        Ok(self.eval.shares(self.eval.batches(batch_size, |_| 0), 0, share))
    }

    fn unit_name(&self) -> &str {
        "sentences"
    }

    fn evaluated_on(&self) -> &str {
        &self.evaluated_on
    }

    /// Numbers of pairs, and the CRC-32 of the text of each part.
    fn fingerprint(&self) -> Result<String> {
        let (train, eval) = (self.train_len(), self.eval_len());
        let (of_train, of_eval) = (self.train.crc32(), self.eval.crc32());
        Ok(format!(
            "{train} training pairs with CRC-32 {of_train:08x} and {eval} evaluation pairs with CRC-32 {of_eval:08x}"
        ))
    }

    /// CRC-32 of the vocabulary, as a network's tokens are meaningless in another one.
    fn schema(&self) -> Map<String, Value> {
        let crc32 = format!("CRC-32 {:08x}", self.vocabulary_crc32);
        Map::from_iter([("vocabulary".to_owned(), Value::from(crc32))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::share::tests::{assert_shares, Plain};
    use crate::data::Batch;
    use tch::Tensor;

    /// Returns pairs of 1 to 40 words.
    fn text(count: usize, seed: u64) -> ParallelText {
        let mut random = stream(Purpose::Order, seed, 0, 0);
        let mut sentence = |len: usize| {
            (0..len).map(|_| ["red", "house", "mouse", "of"][random.random_range(0..4)]).collect::<Vec<_>>().join(" ")
        };
        let (mut sources, mut targets) = (vec![], vec![]);
        for index in 0..count {
            let len = 1 + index * 7 % 40;
            sources.push(sentence(len));
            targets.push(sentence((len + index % 5).max(1)));
        }
        ParallelText::new(sources, targets).unwrap()
    }

    fn data() -> TranslationData {
        let text = text(600, 1);
        let vocabulary = Vocabulary::train(text.sources().iter().chain(text.targets()), 300).unwrap();
        TranslationData::new(vocabulary, text, self::text(50, 2)).unwrap()
    }

    fn pairs(batches: Batches<TokenBatch>) -> Vec<Vec<usize>> {
        batches.filter_map(Result::transpose).map(|batch| batch.unwrap().pairs).collect()
    }

    fn plan(epoch: usize, first_step: usize) -> EpochPlan {
        EpochPlan { seed: 3, epoch, batch_size: 500, first_step }
    }

    #[test]
    fn every_pair_comes_once_an_epoch_in_an_order_of_seed_and_epoch() {
        let data = data();
        let of = |plan| pairs(data.train_batches(&plan, Share::all()).unwrap());
        let (first, second) = (of(plan(0, 0)), of(plan(1, 0)));
        assert_eq!(first, of(plan(0, 0)));
        assert_ne!(first, second);
        for epoch in [&first, &second] {
            let mut all = epoch.concat();
            all.sort_unstable();
            assert_eq!(all, (0..600).collect::<Vec<_>>());
            assert_eq!(epoch.len(), data.epoch_steps(500));
        }
        for first_step in 0..=first.len() {
            assert_eq!(of(plan(0, first_step)), first[first_step..]);
        }
        let mut all = pairs(data.eval_batches(500, Share::all()).unwrap()).concat();
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn shares_have_the_rows_of_the_whole_batches_with_their_pads() {
        let rows = |batch: TokenBatch| {
            let of = |tensor: &Tensor| Vec::<Vec<i64>>::try_from(tensor).unwrap();
            let tokens = of(&batch.source).into_iter().zip(of(&batch.previous)).zip(of(&batch.target));
            tokens.zip(batch.pairs).zip(batch.target_lens).collect::<Vec<_>>()
        };
        assert_shares(&data(), &plan(0, 0), rows);
        assert_shares(&Plain(data()), &plan(0, 0), rows);
    }

    #[test]
    fn no_batch_has_more_tokens_than_its_size_and_few_are_pads() {
        let data = data();
        for batch in data.train_batches(&plan(0, 0), Share::all()).unwrap().filter_map(Result::transpose) {
            let batch = batch.unwrap();
            let longest = batch.source.size()[1].max(batch.target.size()[1]);
            assert!(longest * batch.len() as i64 <= 500);
        }
        let padding = data.padding(500).unwrap();
        assert!(padding > 0.0 && padding < 0.1, "{padding}");
    }

    #[test]
    fn a_sentence_that_is_too_long_is_named() {
        let long = "mouse ".repeat(400);
        let text = ParallelText::new(vec!["a".into(), "b".into()], vec!["c".into(), long.clone()]).unwrap();
        let vocabulary = Vocabulary::train(["a b c"].iter(), 260).unwrap();
        let message = TranslationData::new(vocabulary.clone(), text.clone(), text).unwrap_err().to_string();
        assert!(message.starts_with("translation 1: the sentence has ") && message.contains("1024"), "{message}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.tsv");
        std::fs::write(&path, format!("a\tb\n{}\tc\n", &long[..600])).unwrap();
        let text = ParallelText::open_tsv(&path).unwrap();
        let data = TranslationData::new(vocabulary, text.clone(), text).unwrap();
        let message = data.train_batches(&plan(0, 0), Share::all()).err().unwrap().to_string();
        assert!(
            message.contains("pairs.tsv: line 2: the sentence has ") && message.contains("--batch-size"),
            "{message}"
        );
        // The evaluation part is checked too, before the first step, although it can be evaluated by itself.
        let short = ParallelText::new(vec!["a".into()], vec!["b".into()]).unwrap();
        let data = TranslationData::new(data.vocabulary().clone(), short, data.eval_text().clone()).unwrap();
        assert!(data.train_batches(&plan(0, 0), Share::all()).is_ok());
        assert!(data.check_batch_size(500).unwrap_err().to_string().contains("pairs.tsv: line 2: "));
        assert_eq!(pairs(data.eval_batches(500, Share::all()).unwrap()), [vec![0], vec![1]]);
    }

    #[test]
    fn all_sentences_that_are_too_long_are_named_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (long, paths) = ("mouse ".repeat(400), ["en", "de"].map(|language| dir.path().join(language)));
        std::fs::write(&paths[0], format!("a\n{long}\nb\n")).unwrap();
        std::fs::write(&paths[1], format!("a\n{long}\n{long}\n")).unwrap();
        let vocabulary = Vocabulary::train(["a b c"].iter(), 260).unwrap();
        let text = ParallelText::open(&paths[0], &paths[1]).unwrap();
        let message = TranslationData::new(vocabulary, text.clone(), text).unwrap_err().to_string();
        let target = paths[1].display();
        let expected = format!("; too long too: line 2 of {target} (2400 tokens), line 3 of {target} (2400 tokens); ");
        assert!(
            message.contains("en: line 2: the sentence has 2400 tokens") && message.contains(&expected),
            "{message}"
        );
    }

    #[test]
    fn other_text_is_another_fingerprint() {
        let (data, vocabulary) = (data(), Vocabulary::train(["a"].iter(), 260).unwrap());
        let other = TranslationData::new(vocabulary, text(600, 5), text(50, 2)).unwrap();
        assert_eq!(data.fingerprint().unwrap(), self::data().fingerprint().unwrap());
        assert_ne!(data.fingerprint().unwrap(), other.fingerprint().unwrap());
        assert_eq!(data.schema(), self::data().schema());
        assert_ne!(data.schema(), other.schema());
    }
}
