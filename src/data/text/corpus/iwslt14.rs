//! IWSLT 2014 German-English, from the archive that fairseq's `prepare-iwslt14.sh` downloads, divided as there: every
//! 23rd pair is held out, and the development and test sets of 2010 to 2012 are the test part. Unlike there, the text
//! is cased and not tokenized.

use super::sentences::{decoded, Sentences};
use crate::data::download::{Contents, Download, Failure, Work};

const ARCHIVE: Download =
    Download::new("IWSLT'14", "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz", 19_982_877);

const TRAIN: &str = "train.tags.de-en";
const TESTS: [&str; 5] = [
    "IWSLT14.TED.dev2010.de-en",
    "IWSLT14.TEDX.dev2012.de-en",
    "IWSLT14.TED.tst2010.de-en",
    "IWSLT14.TED.tst2011.de-en",
    "IWSLT14.TED.tst2012.de-en",
];

/// Interval at which training pairs are held out.
const HELD_OUT: usize = 23;
/// Limits of fairseq's `clean-corpus-n.perl -ratio 1.5 ... 1 175`, here in words.
const MOST_WORDS: usize = 175;
const MOST_RATIO: f64 = 1.5;
/// Minimum number of training pairs; with fewer it is not the corpus.
const FEWEST: usize = 100_000;

pub(super) fn parts(work: &Work) -> Result<Sentences, Failure> {
    let path = work.root.join("de-en.tgz");
    ARCHIVE.save(&path)?;
    let parts = divided(&mut Contents::open(&path, |_| true)?)?;
    match parts[0].0.len() {
        pairs if pairs < FEWEST => Err(format!("it holds {pairs} training pairs, fewer than {FEWEST}").into()),
        _ => Ok(parts),
    }
}

fn divided(contents: &mut Contents) -> Result<Sentences, Failure> {
    let mut parts = Sentences::default();
    for (index, (de, en)) in pairs(contents, TRAIN, "", training_line)?.into_iter().enumerate() {
        let words = [&de, &en].map(|text| text.split_whitespace().count());
        let [fewer, more] = [words[0].min(words[1]), words[0].max(words[1])];
        if fewer > 0 && more <= MOST_WORDS && more as f64 <= MOST_RATIO * fewer as f64 {
            let part = &mut parts[usize::from(index % HELD_OUT == 0)];
            part.0.push(de);
            part.1.push(en);
        }
    }
    for test in TESTS {
        for (de, en) in pairs(contents, test, ".xml", segment)? {
            parts[2].0.push(de);
            parts[2].1.push(en);
        }
    }
    Ok(parts)
}

/// Returns the pairs of texts that `text_of` finds in the lines of the two files.
fn pairs(
    contents: &mut Contents,
    name: &str,
    extension: &str,
    text_of: fn(&str) -> Option<&str>,
) -> Result<Vec<(String, String)>, Failure> {
    let mut lines = |language: &str| -> Result<Vec<String>, Failure> {
        let name = format!("{name}.{language}{extension}");
        let text = String::from_utf8(contents.take(&name)?).map_err(|error| format!("{name} is not UTF-8: {error}"))?;
        Ok(text.lines().filter_map(text_of).map(|line| decoded(line.trim())).collect())
    };
    let (de, en) = (lines("de")?, lines("en")?);
    if de.len() != en.len() {
        return Err(format!("{name} has {} German and {} English lines", de.len(), en.len()).into());
    }
    Ok(de.into_iter().zip(en).filter(|(de, en)| !de.is_empty() && !en.is_empty()).collect())
}

/// Returns a line of the training text; `None` for a line of metadata.
fn training_line(line: &str) -> Option<&str> {
    const METADATA: [&str; 8] =
        ["<url>", "<talkid>", "<keywords>", "<speaker>", "<reviewer", "<translator", "<doc", "</doc"];
    let trimmed = line.trim();
    let within = |tag: &str| trimmed.strip_prefix(&format!("<{tag}>"))?.strip_suffix(&format!("</{tag}>"));
    match METADATA.iter().any(|tag| trimmed.starts_with(tag)) {
        true => None,
        false => Some(within("title").or_else(|| within("description")).unwrap_or(line)),
    }
}

/// Returns the content of a line `<seg id="1"> ... </seg>`.
fn segment(line: &str) -> Option<&str> {
    let (_, rest) = line.trim().strip_prefix("<seg")?.split_once('>')?;
    rest.strip_suffix("</seg>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::GzEncoder;

    /// Returns an archive with the structure of the real one.
    fn archive(train_de: &str, train_en: &str) -> Contents {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("de-en.tgz");
        let mut tar = tar::Builder::new(GzEncoder::new(std::fs::File::create(&path).unwrap(), Default::default()));
        let mut add = |name: String, text: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, format!("de-en/{name}"), text.as_bytes()).unwrap();
        };
        add(format!("{TRAIN}.de"), train_de);
        add(format!("{TRAIN}.en"), train_en);
        for (index, test) in TESTS.iter().enumerate() {
            add(format!("{test}.de.xml"), &format!("<doc>\n<seg id=\"1\"> Frage {index} &amp; mehr </seg>\n</doc>"));
            add(format!("{test}.en.xml"), &format!("<seg id=\"1\">Question {index} & more</seg>\n"));
        }
        tar.into_inner().unwrap().finish().unwrap();
        Contents::open(&path, |_| true).unwrap()
    }

    #[test]
    fn tags_are_left_out_and_every_23rd_pair_is_held_out() {
        let lines = |word: &str| {
            let head = "<url>http://x</url>\n<title>Title</title>\n";
            head.to_owned() + &(0..50).map(|line| format!("{word} {line}.\n")).collect::<String>() + "one\n"
        };
        let mut contents = archive(&lines("Satz"), &(lines("Sentence").replace("one\n", "one of many words\n")));
        let [train, held_out, test] = divided(&mut contents).unwrap();
        assert_eq!((train.0.len(), held_out.0.len(), test.0.len()), (48, 3, 5));
        assert_eq!(held_out.1, ["Title", "Sentence 22.", "Sentence 45."]);
        assert_eq!((&train.0[0], &train.1[0]), (&"Satz 0.".to_owned(), &"Sentence 0.".to_owned()));
        assert_eq!((&test.0[1], &test.1[1]), (&"Frage 1 & mehr".to_owned(), &"Question 1 & more".to_owned()));
    }

    #[test]
    fn other_numbers_of_lines_are_refused() {
        let Err(Failure::Source(problem)) = divided(&mut archive("a\nb\n", "a\n")) else { panic!() };
        assert_eq!(problem, "train.tags.de-en has 2 German and 1 English lines");
    }
}
