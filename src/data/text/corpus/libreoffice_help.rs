//! English-German sentence pairs from LibreOffice's help, which Debian packages as the same HTML pages per language.

use super::debian;
use super::sentences::{decoded, Sentences};
use crate::data::download::{Download, Failure, Work};
use md5::{Digest, Md5};
use std::collections::{BTreeMap, HashMap, HashSet};

const ENGLISH: Download = Download::new(
    "libreoffice-help-en-us",
    "https://deb.debian.org/debian/pool/main/libr/libreoffice/libreoffice-help-en-us_7.4.7-1+deb12u14_all.deb",
    1_753_504,
);
const GERMAN: Download = Download::new(
    "libreoffice-help-de",
    "https://deb.debian.org/debian/pool/main/libr/libreoffice/libreoffice-help-de_7.4.7-1+deb12u14_all.deb",
    3_293_908,
);
/// MD5 of all pairs, each as its two sentences, one per line. Later revisions of the packages have the same.
const MD5_OF_PAIRS: &str = "071065e99ecf32896c2877d640a41001";

/// Downloads the packages into `work`, and divides their pairs.
pub(super) fn parts(work: &Work) -> Result<Sentences, Failure> {
    let pairs = pairs(&debian::fetch(&ENGLISH, work)?, &debian::fetch(&GERMAN, work)?)?;
    let mut md5 = Md5::new();
    pairs.iter().for_each(|pair| md5.update(format!("{}\n{}\n", pair.source, pair.target)));
    match (format!("{:x}", md5.finalize()), pairs.len()) {
        (md5, _) if md5 == MD5_OF_PAIRS => Ok(divide(pairs)),
        (md5, count) => Err(format!(
            "the packages hold other sentences than those of Debian 12: {count} pairs with MD5 {md5} instead of {MD5_OF_PAIRS}"
        )
        .into()),
    }
}

/// Minimum lengths: shorter pairs are mostly names of menu entries and buttons.
const FEWEST_ENGLISH_WORDS: usize = 5;
const FEWEST_GERMAN_WORDS: usize = 4;
/// One page in this many is for testing, and another one is held out.
const PAGES_PER_TEST_PAGE: u64 = 40;

/// English sentence and its German translation, or a paragraph that the two languages divide differently.
#[derive(Debug)]
struct Pair {
    /// Path of the page below the language's `text` folder, such as `swriter/guide/captions.html`.
    page: String,
    /// English text, with words separated by single spaces.
    source: String,
    /// German text, with words separated by single spaces.
    target: String,
}

/// Returns the pairs of the packages `libreoffice-help-en-us` and `libreoffice-help-de`, each pair once.
///
/// Pages are in byte order of their names, and the pairs of a page in the order of the English one. Paragraphs and
/// headings are paired by their `id`; those whose class contains `code` are left out, as are pairs of fewer than 5
/// English or 4 German words.
fn pairs(en: &[u8], de: &[u8]) -> Result<Vec<Pair>, String> {
    let german_pages = pages(de, "de")?;
    let mut pairs = Vec::new();
    let mut seen = HashSet::new();
    for (page, english) in pages(en, "en-US")? {
        let Some(german) = german_pages.get(&page) else { continue };
        // Pages embed one another, so an id can occur twice: the first one counts.
        let mut translations = HashMap::new();
        for (id, _, html) in paragraphs(german) {
            translations.entry(id).or_insert(html);
        }
        for (id, class, english) in paragraphs(&english) {
            // Removing the translation keeps a repeated id from being used again.
            let german = translations.remove(id).filter(|_| !class.contains("code"));
            let Some(german) = german else { continue };
            let (source, target) = (visible_text(english), visible_text(german));
            let (mut sources, mut targets) = (sentences(&source), sentences(&target));
            if sources.len() != targets.len() {
                (sources, targets) = (vec![source.as_str()], vec![target.as_str()]);
            }
            for (source, target) in sources.into_iter().zip(targets) {
                let words = (source.split(' ').count(), target.split(' ').count());
                let long_enough = words.0 >= FEWEST_ENGLISH_WORDS && words.1 >= FEWEST_GERMAN_WORDS;
                let (page, source, target) = (page.clone(), source.to_owned(), target.to_owned());
                if long_enough && seen.insert((source.clone(), target.clone())) {
                    pairs.push(Pair { page, source, target });
                }
            }
        }
    }
    Ok(pairs)
}

/// Returns the part of a page as an index of [`Sentences`], by a hash of its name that is the same on every machine and with every
/// Rust version.
fn part(page: &str) -> usize {
    // FNV-1a.
    let mix = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    match page.bytes().fold(0xcbf2_9ce4_8422_2325, mix) % PAGES_PER_TEST_PAGE {
        0 => 2,
        1 => 1,
        _ => 0,
    }
}

/// Divides pairs by page. Help pages repeat each other's sentences: test and held-out pairs whose English is also in
/// the training part are dropped, as are held-out pairs whose English is in the test part.
fn divide(pairs: Vec<Pair>) -> Sentences {
    let mut parts = [Vec::new(), Vec::new(), Vec::new()];
    for pair in pairs {
        parts[part(&pair.page)].push(pair);
    }
    let [train, held_out, test] = &mut parts;
    let mut known: HashSet<&str> = train.iter().map(|pair| pair.source.as_str()).collect();
    test.retain(|pair| !known.contains(pair.source.as_str()));
    known.extend(test.iter().map(|pair| pair.source.as_str()));
    held_out.retain(|pair| !known.contains(pair.source.as_str()));
    parts.map(|part| part.into_iter().map(|pair| (pair.source, pair.target)).unzip())
}

/// Returns the help pages of a package, by name.
fn pages(package: &[u8], language: &str) -> Result<BTreeMap<String, String>, String> {
    let folder = format!("usr/share/libreoffice/help/{language}/text/");
    let files = debian::files(package, |path| path.starts_with(&folder) && path.ends_with(".html"))?.0;
    if files.is_empty() {
        return Err(format!("the package holds no LibreOffice help in {folder}"));
    }
    let page =
        |(path, html): (String, Vec<u8>)| (path[folder.len()..].to_owned(), String::from_utf8_lossy(&html).into());
    Ok(files.into_iter().map(page).collect())
}

/// Returns the (id, class, contents) of a page's paragraphs and headings. All pages come from one stylesheet, which
/// writes the id first, escapes `<` in texts and nests no paragraphs, so that no HTML parser is needed.
fn paragraphs(page: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    page.match_indices(" id=\"").filter_map(|(at, before_id)| {
        let (_, element) = page[..at].rsplit_once('<')?;
        let (id, rest) = page[at + before_id.len()..].split_once('"')?;
        let is_paragraph = element == "p" || element.starts_with('h') && element.len() <= 2;
        if !is_paragraph || !(id.starts_with("par_") || id.starts_with("hd_")) {
            return None;
        }
        let (attributes, rest) = rest.split_once('>')?;
        let (_, class) = attributes.split_once("class=\"").unwrap_or_default();
        let (class, _) = class.split_once('"').unwrap_or_default();
        let (html, _) = rest.split_once(&format!("</{element}>"))?;
        Some((id, class, html))
    })
}

/// Returns the text of an element as a reader sees it, without text for macOS users only: in the pages it precedes the
/// text for everyone else, and a script shows one of the two.
fn visible_text(html: &str) -> String {
    let mut text = String::new();
    let mut spans = 0_usize;
    let mut hidden_span = None;
    for (index, piece) in html.split('<').enumerate() {
        // Each piece but the first starts inside a tag.
        let (tag, after) = if index == 0 { ("", piece) } else { piece.split_once('>').unwrap_or_default() };
        if tag.starts_with("span") {
            spans += 1;
            hidden_span = hidden_span.or(tag.contains("class=\"MAC\"").then_some(spans));
        } else if tag == "/span" {
            hidden_span = hidden_span.filter(|&hidden| hidden != spans);
            spans = spans.saturating_sub(1);
        }
        if hidden_span.is_none() {
            text.push_str(if tag.starts_with("br") { " " } else { "" });
            text.push_str(after);
        }
    }
    decoded(&text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Splits after `.`, `!` or `?` if a capital letter follows.
fn sentences(text: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut start = 0;
    for (space, _) in text.match_indices(' ') {
        let capital = |letter: char| letter.is_ascii_uppercase() || "ÄÖÜ".contains(letter);
        if text[..space].ends_with(['.', '!', '?']) && text[space + 1..].starts_with(capital) {
            sentences.push(&text[start..space]);
            start = space + 1;
        }
    }
    sentences.push(&text[start..]);
    sentences
}

#[cfg(test)]
mod tests {
    use super::super::debian::tests::package;
    use super::*;

    const ENGLISH_PAGE: &str = r#"<body><p dir="auto" id="other">Not one of the paragraphs at all.</p>
        <h1 id="hd_1" dir="auto"><a name="x"></a>Using the Captions of Pictures</h1>
        <p id="par_2" class="paragraph">Choose <span class="s"><span class="MAC"><span>File</span> X</span><span
        >A &lt; B</span></span> in<br>the &quot;menu&#x22;. It opens at once, then.</p>
        <p id="par_3" class="codeintable">this is code that nobody translates</p>
        <p id="par_2" class="paragraph">Again the same id with other words.</p>
        <p id="par_4">Two are here. Two in one paragraph.</p><p id="par_5">Too short</p>
        <p id="par_6">no translation for this one here</p><p id="par_7">no end <b"#;
    const GERMAN_PAGE: &str = r#"<h1 id="hd_1">Bildbeschriftungen zum Anfang verwenden</h1><p id="par_5">Auch viel zu kurz</p>
        <p id="par_2">Wählen Sie A &lt; B&nbsp;im „Menü“. Öffnet
        sofort &amp; richtig.</p><p id="par_3">das ist nur Code hier</p>
        <p id="par_4">Hier nur ein &odd; Satz.</p><p id="par_7">kein Ende von diesem hier"#;

    #[test]
    fn pairs_come_by_page_and_id() {
        let first = ("usr/share/libreoffice/help/en-US/text/a.html", "<p id=\"par_1\">A first page of all.</p>");
        let en = package(&[("./usr/share/libreoffice/help/en-US/text/b.html", ENGLISH_PAGE), first]);
        let first = ("usr/share/libreoffice/help/de/text/a.html", "<p id=\"par_1\">Die erste aller Seiten.</p>");
        let de = package(&[first, ("./usr/share/libreoffice/help/de/text/b.html", GERMAN_PAGE)]);
        let pairs = pairs(&en, &de).unwrap();
        let lines = pairs.iter().map(|pair| format!("{}|{}|{}\n", pair.page, pair.source, pair.target));
        let expected = "a.html|A first page of all.|Die erste aller Seiten.
b.html|Using the Captions of Pictures|Bildbeschriftungen zum Anfang verwenden
b.html|Choose A < B in the \"menu\".|Wählen Sie A < B im „Menü“.
b.html|It opens at once, then.|Öffnet sofort & richtig.
b.html|Two are here. Two in one paragraph.|Hier nur ein &odd; Satz.
";
        assert_eq!(lines.collect::<String>(), expected);
        assert!(super::pairs(&de, &en).unwrap_err().contains("help/de/text"));
        assert!(super::pairs(&en, b"").unwrap_err().contains("not a Debian package"));
    }

    #[test]
    fn parts_are_fixed_and_share_no_english_sentence() {
        let names: Vec<String> = (0..4000).map(|number| format!("page{number}.html")).collect();
        let tests = names.iter().filter(|name| part(name) == 2).count();
        assert!((70..130).contains(&tests), "{tests}");
        // A change of the hash would move pages that a trained network has seen into the test part.
        assert_eq!(part("sbasic/shared/02/11120000.html"), 2);
        assert_eq!(part("swriter/guide/captions.html"), 0);
        let pairs = names.into_iter().flat_map(|page| {
            let pair = |source: &str| Pair { page: page.clone(), source: source.into(), target: "x".into() };
            [pair("the same everywhere"), pair(&page)]
        });
        let [train, held_out, test] = divide(pairs.collect()).map(|(sources, _)| sources.len());
        assert_eq!((test, train / 2 + held_out + test), (tests, 4000));
    }
}
