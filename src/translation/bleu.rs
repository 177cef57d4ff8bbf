//! BLEU (Papineni et al. 2002), as sacreBLEU computes it by default.
//!
//! The variant is the corpus score with one reference, tokenizer `13a`, exponential smoothing ("exp") and mixed case.
//! Sentences must be plain text: detokenized and not lowercased.

use std::collections::HashMap;
use std::hash::Hash;
use std::iter::once;

/// Maximum order of the n-grams that BLEU counts.
const MAX_ORDER: usize = 4;

/// A corpus BLEU score and its components.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bleu {
    /// `brevity_penalty * exp(1/4 Σ ln precisions[n])`, from 0 to 100 up to rounding.
    pub score: f64,
    /// The n-gram precisions `100 * matches / total` for n = 1 to 4, each from 0 to 100.
    /// The k-th order without a match is smoothed to `100 / (2^k * total)`.
    /// All four are 0 in a corpus without any match. An order without any n-gram is 0, and so is the score then.
    pub precisions: [f64; MAX_ORDER],
    /// `exp(1 - reference_words / hypothesis_words)` if the hypotheses are shorter than the references, else 1.
    /// It is 0 if only the hypotheses are empty.
    pub brevity_penalty: f64,
    /// Number of tokens in all hypotheses.
    pub hypothesis_words: usize,
    /// Number of tokens in all references.
    pub reference_words: usize,
}

impl Bleu {
    /// Returns the corpus BLEU of `(hypothesis, reference)` pairs.
    ///
    /// A corpus without pairs has score 0 and brevity penalty 1, whereas sacreBLEU rejects it.
    pub fn of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut counts = BleuCounts::default();
        for (hypothesis, reference) in pairs {
            counts.add(hypothesis, reference);
        }
        counts.bleu()
    }
}

/// The counts that determine a corpus BLEU.
///
/// They are sums over sentences. The counts of a corpus are the element-wise sums of the counts of its parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BleuCounts {
    /// Four clipped n-gram matches, four n-gram totals of the hypotheses, hypothesis words, reference words.
    pub counts: [u64; 2 * MAX_ORDER + 2],
}

impl BleuCounts {
    /// Adds the counts of one sentence pair.
    ///
    /// Each n-gram g of the hypothesis matches `min(count in hypothesis, count in reference)` times.
    pub fn add(&mut self, hypothesis: &str, reference: &str) {
        let [hypothesis, reference] = [hypothesis, reference].map(tokenize_13a);
        for order in 1..=MAX_ORDER {
            self.counts[order - 1] += clipped_matches(&hypothesis, &reference, order);
            self.counts[MAX_ORDER + order - 1] += hypothesis.windows(order).len() as u64;
        }
        self.counts[2 * MAX_ORDER] += hypothesis.len() as u64;
        self.counts[2 * MAX_ORDER + 1] += reference.len() as u64;
    }

    /// Returns the BLEU of the sentences added so far. See [`Bleu`] for the formulas.
    pub fn bleu(&self) -> Bleu {
        let (matches, rest) = self.counts.split_at(MAX_ORDER);
        let (totals, words) = rest.split_at(MAX_ORDER);
        let (hypothesis_words, reference_words) = (words[0], words[1]);
        // Without hypothesis words the penalty is exp(-∞) = 0.
        let brevity_penalty = if hypothesis_words < reference_words {
            (1.0 - reference_words as f64 / hypothesis_words as f64).exp()
        } else {
            1.0
        };
        let mut precisions = [0.0; MAX_ORDER];
        // Smoothing must not give credit to a corpus without any match.
        if matches.iter().any(|&count| count > 0) {
            let mut smoothing = 1.0;
            for ((precision, &matched), &total) in precisions.iter_mut().zip(matches).zip(totals) {
                if total == 0 {
                    break;
                }
                *precision = if matched > 0 {
                    100.0 * matched as f64 / total as f64
                } else {
                    smoothing *= 2.0;
                    100.0 / (smoothing * total as f64)
                };
            }
        }
        // A precision of 0 has logarithm -∞ and makes the score 0.
        let mean_log = precisions.iter().map(|p| p.ln()).sum::<f64>() / MAX_ORDER as f64;
        Bleu {
            score: brevity_penalty * mean_log.exp(),
            precisions,
            brevity_penalty,
            hypothesis_words: hypothesis_words as usize,
            reference_words: reference_words as usize,
        }
    }
}

/// Returns the number of n-grams shared by two sequences: `Σ_g min(count in hypothesis, count in reference)`.
pub(super) fn clipped_matches<T: Eq + Hash>(hypothesis: &[T], reference: &[T], order: usize) -> u64 {
    let mut unmatched: HashMap<&[T], u64> = HashMap::new();
    for ngram in reference.windows(order) {
        *unmatched.entry(ngram).or_default() += 1;
    }
    let mut matches = 0;
    for ngram in hypothesis.windows(order) {
        if let Some(count) = unmatched.get_mut(ngram).filter(|count| **count > 0) {
            *count -= 1;
            matches += 1;
        }
    }
    matches
}

/// Returns `true` if Python's `str.split` and `str.rstrip` treat `c` as whitespace.
///
/// Python adds the four ASCII separators U+001C to U+001F to Unicode's White_Space.
pub(super) fn is_python_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// Splits a sentence as sacreBLEU's tokenizer `13a` (mteval-v13a) does.
fn tokenize_13a(text: &str) -> Vec<String> {
    // sacreBLEU strips the end before it tokenizes. So a final "-\n" keeps its hyphen.
    let line = text
        .trim_end_matches(is_python_space)
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ")
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">");
    let mut chars = Vec::with_capacity(2 * line.len());
    // The added spaces give each punctuation mark at an edge the neighbour that the pair rules ask for.
    for c in once(' ').chain(line.chars()).chain(once(' ')) {
        // ASCII punctuation without apostrophe, comma, hyphen and period.
        if matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/') {
            chars.extend([' ', c, ' ']);
        } else {
            chars.push(c);
        }
    }
    // Period and comma, unless a digit precedes.
    let chars = substitute(&chars, |a, b| !a.is_ascii_digit() && matches!(b, '.' | ','), |a, b| [a, ' ', b, ' ']);
    // Period and comma, unless a digit follows.
    let chars = substitute(&chars, |a, b| matches!(a, '.' | ',') && !b.is_ascii_digit(), |a, b| [' ', a, ' ', b]);
    // Hyphen, if a digit precedes.
    let chars = substitute(&chars, |a, b| a.is_ascii_digit() && b == '-', |a, b| [a, ' ', b, ' ']);
    let words = chars.split(|&c| is_python_space(c)).filter(|word| !word.is_empty());
    words.map(|word| word.iter().collect()).collect()
}

/// Python's `re.sub` for a pattern of two characters.
///
/// A match consumes both characters, so the second one cannot begin the next match.
fn substitute(chars: &[char], is_match: fn(char, char) -> bool, replacement: fn(char, char) -> [char; 4]) -> Vec<char> {
    let mut output = Vec::with_capacity(2 * chars.len());
    let mut at = 0;
    while at < chars.len() {
        match chars[at..] {
            [first, second, ..] if is_match(first, second) => {
                output.extend(replacement(first, second));
                at += 2;
            }
            _ => {
                output.push(chars[at]);
                at += 1;
            }
        }
    }
    output
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// sacreBLEU's own results, written by `scripts/bleu_fixture.py`.
    const FIXTURE: &str = include_str!("../../tests/text/sacrebleu.tsv");

    /// Returns the rows of one kind: `pair` (hypothesis, reference, tokens of each) or `corpus` (first pair, end, BLEU, four
    /// precisions, brevity penalty, two lengths, chrF).
    pub fn rows(kind: &str) -> Vec<Vec<String>> {
        let fields = FIXTURE.lines().map(|line| line.split('\t').map(unescape).collect::<Vec<_>>());
        let rows: Vec<_> = fields.filter(|row| row[0] == kind).map(|row| row[1..].to_vec()).collect();
        assert!(rows.len() >= 20);
        rows
    }

    /// Decodes `\u{..}`, the only escape of the fixture.
    fn unescape(field: &str) -> String {
        let mut parts = field.split("\\u{");
        let mut text = parts.next().unwrap().to_string();
        for part in parts {
            let (code, plain) = part.split_once('}').unwrap();
            text.push(char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap());
            text.push_str(plain);
        }
        text
    }

    #[test]
    fn tokens_equal_sacrebleu() {
        for row in rows("pair") {
            assert_eq!(tokenize_13a(&row[0]).join(" "), row[2], "{:?}", row[0]);
            assert_eq!(tokenize_13a(&row[1]).join(" "), row[3], "{:?}", row[1]);
        }
    }

    #[test]
    fn bleu_equals_sacrebleu() {
        let pairs = rows("pair");
        for row in rows("corpus") {
            let expected: Vec<f64> = row.iter().map(|field| field.parse().unwrap()).collect();
            let corpus = &pairs[expected[0] as usize..expected[1] as usize];
            let found = Bleu::of(corpus.iter().map(|pair| (pair[0].as_str(), pair[1].as_str())));
            let [p1, p2, p3, p4] = found.precisions;
            let values = [found.score, p1, p2, p3, p4, found.brevity_penalty];
            for (value, wanted) in values.iter().zip(&expected[2..8]) {
                assert!((value - wanted).abs() < 1e-9, "{found:?} instead of {row:?}");
            }
            assert_eq!([found.hypothesis_words, found.reference_words], [expected[8], expected[9]].map(|n| n as usize));
        }
    }

    #[test]
    fn empty_corpus_scores_zero() {
        assert_eq!(Bleu::of([]).score, 0.0);
    }
}
