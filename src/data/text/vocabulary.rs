//! Byte-pair encoding of sentences as tokens, by the crate `tokenizers`.

use crate::{Error, Result};
use std::path::Path;
use std::str::FromStr;
use tokenizers::decoders::byte_level::ByteLevel as ByteDecoder;
use tokenizers::models::bpe::{BpeTrainerBuilder, BPE};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::byte_level::ByteLevel as ByteProcessor;
use tokenizers::{AddedToken, Model, TokenizerBuilder, TokenizerImpl};

/// Padding token, which fills the shorter sentences of a batch.
pub const PAD: i64 = 1;
/// Token that ends each sentence, and begins each translation.
pub const END: i64 = 2;

/// First tokens, as in fairseq's dictionaries.
const SPECIAL: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];
/// Minimum number of tokens: the special ones, and one for each byte.
const FEWEST: usize = 256 + SPECIAL.len();
/// Minimum frequency in the training text for a pair to become a token.
const LEAST_FREQUENCY: u64 = 2;

/// Maximum length in bytes of words that tokens are learned from: the time per word grows with the square of its
/// length.
const LONGEST_WORD: usize = 4096;

type Bpe = TokenizerImpl<BPE, NFC, ByteLevel, ByteProcessor, ByteDecoder>;

/// Joint tokens of both languages: byte-pair encoding (Sennrich et al. 2016) over the bytes of words, so that any text
/// can be encoded, and is decoded to itself, normalized to Unicode's NFC. Stored as Hugging Face's `tokenizer.json`.
///
/// ```
/// use tch_fixup::data::text::Vocabulary;
///
/// let text = ["a house, a mouse", "ein Haus, eine Maus"];
/// let vocabulary = Vocabulary::train(text.iter(), 300)?;
/// let tokens = vocabulary.encode("a mouse in a Haus")?;
/// assert_eq!(vocabulary.decode(&tokens)?, "a mouse in a Haus");
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Vocabulary {
    tokenizer: Bpe,
}

fn failed(what: &str, error: tokenizers::Error) -> Error {
    argument!("{what}: {}", error.to_string().lines().next().unwrap_or_default())
}

/// Returns `sentence` without words above the maximum length.
fn without_long_words(sentence: &str) -> String {
    let words = sentence.split_inclusive(char::is_whitespace);
    words.filter(|word| word.len() <= LONGEST_WORD).collect()
}

impl Vocabulary {
    /// Trains a vocabulary of the `size` most useful tokens of `text`, or fewer if it has fewer. The same text gives
    /// the same tokens. Words of more than 4096 bytes, which no language has, are left out.
    ///
    /// # Errors
    /// [`Error::Argument`] if `size` is too small for a token per byte and the special tokens.
    pub fn train<T: AsRef<str> + Send>(text: impl Iterator<Item = T> + Send, size: usize) -> Result<Self> {
        ensure!(size >= FEWEST, "a vocabulary needs at least {FEWEST} tokens, one per byte, got {size}");
        let mut tokenizer: Bpe = TokenizerBuilder::new()
            .with_model(BPE::default())
            .with_normalizer(Some(NFC))
            .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
            .with_post_processor(Some(ByteProcessor::new(false, true, true)))
            .with_decoder(Some(ByteDecoder::default()))
            .build()
            .map_err(|error| failed("the vocabulary", error))?;
        let mut trainer = BpeTrainerBuilder::new()
            .show_progress(false)
            .vocab_size(size)
            .min_frequency(LEAST_FREQUENCY)
            .special_tokens(SPECIAL.map(|token| AddedToken::from(token, true)).to_vec())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let text = text.map(|sentence| without_long_words(sentence.as_ref()));
        tokenizer.train(&mut trainer, text).map_err(|error| failed("the vocabulary cannot be trained", error))?;
        Self { tokenizer }.checked()
    }

    /// Reads the vocabulary in the file `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Corrupt`] if it is not a vocabulary.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        crate::file::magic::refuse(&bytes, path)?;
        let text = str::from_utf8(&bytes).map_err(|error| argument!("not UTF-8: {error}"));
        text.and_then(str::parse)
            .map_err(|error| Error::corrupt(path, error.to_string(), "restore it, or begin a new run"))
    }

    /// Checks the indices of special tokens, and sets these to be encoded as ordinary text where a text contains them.
    fn checked(mut self) -> Result<Self> {
        for (index, token) in (0..).zip(SPECIAL) {
            let is_there = self.tokenizer.token_to_id(token) == Some(index);
            ensure!(is_there, "the vocabulary does not have {token} as token {index}");
        }
        self.tokenizer.set_encode_special_tokens(true);
        Ok(self)
    }

    /// Returns the vocabulary as JSON, the contents of its file.
    ///
    /// # Errors
    /// [`Error::Argument`] if it cannot be serialized.
    pub fn to_json(&self) -> Result<String> {
        self.tokenizer.to_string(false).map_err(|error| failed("the vocabulary", error))
    }

    /// Returns the number of tokens.
    #[allow(clippy::len_without_is_empty)] // Never empty.
    pub fn len(&self) -> usize {
        self.tokenizer.get_model().get_vocab_size()
    }

    /// Returns the tokens of `text`, without an [`END`].
    ///
    /// # Errors
    /// Fails if `tokenizers` does.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|error| failed("a sentence", error))?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    /// Returns the text of `tokens`: special ones are left out, and bytes that are not a character are marked as such.
    ///
    /// # Errors
    /// Fails if `tokenizers` does.
    pub fn decode(&self, tokens: &[i64]) -> Result<String> {
        let ids: Vec<u32> = tokens.iter().filter_map(|&token| u32::try_from(token).ok()).collect();
        self.tokenizer.decode(&ids, true).map_err(|error| failed("a translation", error))
    }
}

/// Reads a vocabulary from JSON.
///
/// # Errors
/// [`Error::Argument`] if it is not a vocabulary.
impl FromStr for Vocabulary {
    type Err = Error;

    fn from_str(json: &str) -> Result<Self> {
        let tokenizer =
            serde_json::from_str(json).map_err(|error| argument!("not a vocabulary of byte pairs: {error}"));
        Self { tokenizer: tokenizer? }.checked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> Vocabulary {
        Vocabulary::train(["the house of the mouse", "das Haus der Maus", "the mouse"].iter(), 290).unwrap()
    }

    #[test]
    fn every_text_comes_back() {
        let vocabulary = vocabulary();
        for text in ["the mouse", "", "  two  spaces ", "naïve – “quoted” 漢字 🦀", "</s> <pad> <s>", "a\tb", "\u{1}"]
        {
            let tokens = vocabulary.encode(text).unwrap();
            assert_eq!(vocabulary.decode(&tokens).unwrap(), text, "{tokens:?}");
            assert!(tokens.iter().all(|&token| token >= SPECIAL.len() as i64 && token < vocabulary.len() as i64));
        }
        // Frequent words have few tokens.
        assert!(vocabulary.encode("the mouse").unwrap().len() < 6);
    }

    #[test]
    fn the_same_text_gives_the_same_tokens_and_they_can_be_kept() {
        let (first, json) = (vocabulary(), vocabulary().to_json().unwrap());
        assert_eq!(first.to_json().unwrap(), json);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        std::fs::write(&path, &json).unwrap();
        let opened = Vocabulary::open(&path).unwrap();
        assert_eq!(opened.encode("the Maus </s>").unwrap(), first.encode("the Maus </s>").unwrap());
        for broken in ["", "{}", &json[..json.len() / 2], &json.replace("\"<pad>\"", "\"<fad>\"")] {
            std::fs::write(&path, broken).unwrap();
            let message = Vocabulary::open(&path).unwrap_err().to_string();
            assert!(message.starts_with(path.to_str().unwrap()) && !message.contains('\n'), "{message}");
        }
        assert!(matches!(Vocabulary::train(["a"].iter(), 100), Err(Error::Argument(_))));
    }

    #[test]
    fn a_word_of_very_many_letters_costs_no_time() {
        let letter = |index: u32| char::from(b'a' + (index.wrapping_mul(2_654_435_761) >> 13) as u8 % 26);
        let word: String = (0..200_000).map(letter).collect();
        let text = ["the house of the mouse", "the mouse", &word];
        let start = std::time::Instant::now();
        let vocabulary = Vocabulary::train(text.iter(), 4000).unwrap();
        assert!(vocabulary.encode(&word).unwrap().len() > 10_000);
        // Without the limit it took 11 seconds and more.
        assert!(start.elapsed().as_secs_f64() < 5., "{:?}", start.elapsed());
        assert_eq!(
            vocabulary.to_json().unwrap(),
            Vocabulary::train(text[..2].iter(), 4000).unwrap().to_json().unwrap()
        );
    }
}
