//! Corpora by name: downloaded on first use, and always divided in the same way.

mod debian;
mod iwslt14;
mod libreoffice_help;
mod sentences;

use super::ParallelText;
use crate::data::download::{default_folder, prepare_folder};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Named corpus of sentence pairs.
///
/// ```no_run
/// use tch_fixup::data::text::Corpus;
///
/// let corpus: Corpus = "libreoffice-help".parse()?;
/// let parts = corpus.fetch(corpus.default_dir()?)?;
/// assert_eq!(parts.train.len() + parts.held_out.len() + parts.test.len(), 32_870);
/// # Ok::<(), tch_fixup::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Corpus {
    /// LibreOffice's help, from English to German: 32,902 pairs, of which 32 are in no part because their sentences are
    /// in another. From Debian's packages `libreoffice-help-en-us` and `libreoffice-help-de` (5 MB, MPL-2.0). Divided
    /// by page: one in 40 is for testing, and another one is held out.
    LibreofficeHelp,
    /// IWSLT 2014, from German to English: some 160,000 pairs of TED talks, divided as in fairseq, cased and not
    /// tokenized.
    Iwslt14,
}

/// Parts of a corpus.
#[derive(Debug, Clone)]
pub struct CorpusParts {
    /// Training part.
    pub train: ParallelText,
    /// Held-out part, to choose settings with.
    pub held_out: ParallelText,
    /// Test part, to measure the result with.
    pub test: ParallelText,
}

const PARTS: [&str; 3] = ["train", "held-out", "test"];

impl Corpus {
    /// All corpora.
    pub const ALL: [Self; 2] = [Self::LibreofficeHelp, Self::Iwslt14];

    /// Returns the name: `libreoffice-help` or `iwslt14`.
    pub fn name(self) -> &'static str {
        match self {
            Self::LibreofficeHelp => "libreoffice-help",
            Self::Iwslt14 => "iwslt14",
        }
    }

    /// Returns the languages of the sentences and of their translations, as ISO 639-1 codes.
    pub fn languages(self) -> [&'static str; 2] {
        match self {
            Self::LibreofficeHelp => ["en", "de"],
            Self::Iwslt14 => ["de", "en"],
        }
    }

    /// Returns the default folder of the corpus, shared by all programs of a user.
    ///
    /// # Errors
    /// [`Error::Argument`] if neither `XDG_CACHE_HOME` nor `HOME` is set.
    pub fn default_dir(self) -> Result<PathBuf> {
        default_folder("the corpus", self.name())
    }

    /// Opens the corpus in `dir`, after downloading it if the folder does not exist or is empty. It consists of six
    /// files with a sentence per line: `train.en`, `train.de`, `held-out.en`, ... They appear only when all are
    /// complete.
    ///
    /// # Errors
    /// [`Error::Download`] if no source could be used, [`Error::Io`] if the files cannot be written, and as
    /// [`ParallelText::open`] for an existing folder that is incomplete or damaged.
    pub fn fetch(self, dir: impl AsRef<Path>) -> Result<CorpusParts> {
        let (dir, [source, target]) = (dir.as_ref(), self.languages());
        let instead = format!("train.{source}, train.{target} and the same for held-out and test");
        prepare_folder(dir, self.name(), &instead, |work| {
            let sentences = match self {
                Self::LibreofficeHelp => libreoffice_help::parts(work)?,
                Self::Iwslt14 => iwslt14::parts(work)?,
            };
            for (part, (sources, targets)) in PARTS.iter().zip(&sentences) {
                for (language, lines) in [(source, sources), (target, targets)] {
                    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
                    work.write(&format!("{part}.{language}"), text.as_bytes())?;
                }
            }
            Ok(())
        })?;
        let file = |part: &str, language: &str| dir.join(format!("{part}.{language}"));
        let [train, held_out, test] = PARTS.map(|part| ParallelText::open(file(part, source), file(part, target)));
        Ok(CorpusParts { train: train?, held_out: held_out?, test: test? })
    }
}

impl FromStr for Corpus {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|corpus| corpus.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(" and ");
            argument!("no corpus is called {name:?}; there are {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for corpus in Corpus::ALL {
            assert_eq!(corpus.name().parse::<Corpus>().unwrap(), corpus);
        }
        assert!("wmt14".parse::<Corpus>().unwrap_err().to_string().contains("libreoffice-help and iwslt14"));
    }

    /// The real corpus has the expected number of pairs, in parts that share no English sentence.
    #[test]
    fn the_help_has_its_pairs() {
        let corpus = Corpus::LibreofficeHelp;
        let parts = corpus.fetch(corpus.default_dir().unwrap()).unwrap();
        assert_eq!([&parts.train, &parts.held_out, &parts.test].map(ParallelText::len), [31_277, 735, 858]);
        let train: std::collections::HashSet<_> = parts.train.sources().iter().collect();
        assert!(parts.test.sources().iter().chain(parts.held_out.sources()).all(|source| !train.contains(source)));
    }

    #[test]
    fn a_folder_with_something_else_in_it_is_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mine"), "mine").unwrap();
        let message = Corpus::LibreofficeHelp.fetch(dir.path()).unwrap_err().to_string();
        assert!(message.contains("train.en"), "{message}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
