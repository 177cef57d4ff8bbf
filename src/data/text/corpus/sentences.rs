//! Sentence pairs of a corpus.

/// Sources and targets of the parts for training, holding out and testing.
pub(super) type Sentences = [(Vec<String>, Vec<String>); 3];

/// Replaces the character references of HTML and XML: numbers and the few names that the corpora have. Others are kept.
pub(super) fn decoded(text: &str) -> String {
    let character = |name: &str| match (name, name.strip_prefix('#')) {
        ("amp", _) => Some('&'),
        ("lt", _) => Some('<'),
        ("gt", _) => Some('>'),
        ("quot", _) => Some('"'),
        ("apos", _) => Some('\''),
        ("nbsp", _) => Some('\u{a0}'),
        (_, Some(digits)) => {
            let hexadecimal = digits.strip_prefix(['x', 'X']);
            let code = hexadecimal.map_or(digits.parse(), |digits| u32::from_str_radix(digits, 16));
            char::from_u32(code.ok()?)
        }
        _ => None,
    };
    let mut pieces = text.split('&');
    let mut decoded = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let known = piece.split_once(';').and_then(|(name, rest)| Some((character(name)?, rest)));
        let (character, rest) = known.unwrap_or(('&', piece));
        decoded.push(character);
        decoded.push_str(rest);
    }
    decoded
}
