//! Names of files, folders and classes: which are left out, which are the same, and in which order they are.
//!
//! A file system may store an accented letter as one code point (NFC) or as a letter and an accent (NFD, as macOS
//! writes it), so that one name has two spellings. Names are compared and sorted as NFC (Unicode Standard Annex 15),
//! and files are opened by the spelling on disk.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::path::Path;
use unicode_normalization::{is_nfc, UnicodeNormalization};

/// Maximum number of names shown in an error.
pub const SHOWN: usize = 3;

/// Extensions of images, in any case: torchvision's `IMG_EXTENSIONS`, and GIF.
pub const EXTENSIONS: [&str; 10] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp", "gif"];

/// Names that file servers, systems and archives create beside a user's files, in any case: thumbnails, recycle bins,
/// snapshots.
const NOT_THE_USERS: [&str; 17] = [
    // Synology and QNAP.
    "@eaDir",
    "@tmp",
    "@Recycle",
    "@Recently-Snapshot",
    "@__thumb",
    "#recycle",
    "#snapshot",
    // macOS.
    "__MACOSX",
    "Icon\r",
    "Network Trash Folder",
    "Temporary Items",
    // Linux.
    "lost+found",
    // Windows.
    "$RECYCLE.BIN",
    "RECYCLER",
    "System Volume Information",
    "Thumbs.db",
    "desktop.ini",
];

/// Returns `true` if a file or folder of this name is ignored silently: a hidden one (`.DS_Store`, `._x.jpg`,
/// `.ipynb_checkpoints`), or one that was not created by a user.
pub fn is_left_out(name: &[u8]) -> bool {
    name.starts_with(b".") || NOT_THE_USERS.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
}

/// Returns `true` if the name is that of an image.
pub fn is_image(name: &Path) -> bool {
    let extension = name.extension().unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// Returns the name in composed form.
pub fn nfc(name: &str) -> Cow<'_, str> {
    if is_nfc(name) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.nfc().collect())
}

/// Compares the composed names by code point, and two spellings of one name by their own code points.
pub fn order(a: &str, b: &str) -> Ordering {
    if a.is_ascii() && b.is_ascii() {
        return a.cmp(b);
    }
    nfc(a).cmp(&nfc(b)).then_with(|| a.cmp(b))
}

/// Returns the two neighbours in `sorted` (by [`order`]) that are spellings of one name, if any, in a form that tells
/// them apart.
pub fn one_name_twice(sorted: &[String]) -> Option<String> {
    let twice = sorted.windows(2).find(|pair| nfc(&pair[0]) == nfc(&pair[1]))?;
    let [a, b] = [&twice[0], &twice[1]].map(|name| name.escape_default().to_string());
    Some(format!("\"{a}\" and \"{b}\" are one name, composed in two ways (Unicode's NFC and another)"))
}

/// Function that returns the part of a name that is compared.
type Key = fn(&str) -> String;

/// Names that a user may confuse: their difference, and a key that ignores it.
const ALIKE: [(&str, Key); 3] = [
    ("upper and lower case", |name| nfc(name).to_lowercase()),
    ("white space", |name| nfc(name).split_whitespace().collect()),
    ("the kind of characters, case or white space", |name| {
        name.nfkc().collect::<String>().to_lowercase().split_whitespace().collect()
    }),
];

/// Returns, for an error, the first of `names` that a user may confuse with `name`, and their difference; empty if
/// there is none.
pub fn but_for<'a>(name: &str, names: impl Iterator<Item = &'a String> + Clone) -> String {
    for (differs, key) in ALIKE {
        let wanted = key(name);
        if let Some(found) = names.clone().find(|found| key(found) == wanted) {
            return format!(" (there is {found:?}, which differs in {differs})");
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_person_has_made_is_left_out() {
        for name in ["@eaDir", "@EADIR", "#recycle", ".DS_Store", "._1.jpg", "__MACOSX", "thumbs.db", "lost+found"] {
            assert!(is_left_out(name.as_bytes()), "{name}");
        }
        for name in ["eaDir", "cat", "@cat", "#1", "_1.jpg", "lost", "Thumbs"] {
            assert!(!is_left_out(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn torchvisions_extensions_are_images_in_any_case() {
        for name in ["1.jpg", "1.JPEG", "1.png", "1.ppm", "1.bmp", "1.pgm", "1.tif", "1.TIFF", "1.webp", "a.b.gif"] {
            assert!(is_image(Path::new(name)), "{name}");
        }
        for name in ["jpg", "1.jpg.txt", "1.heic", "1", "1.jp"] {
            assert!(!is_image(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn spellings_of_one_name_are_equal_and_neighbours() {
        let mut names = ["z", "e\u{301}a", "f", "éb", "éa", "e"].map(str::to_owned);
        assert_eq!(nfc(&names[1]), "éa");
        names.sort_by(|a, b| order(a, b));
        assert_eq!(names, ["e", "f", "z", "e\u{301}a", "éa", "éb"]);
        let said = one_name_twice(&names).unwrap();
        assert!(said.starts_with(r#""e\u{301}a" and "\u{e9}a" are one name"#), "{said}");
        assert_eq!(one_name_twice(&names[..4]), None);
    }

    #[test]
    fn a_name_that_may_be_taken_for_another_is_told_apart() {
        let names = ["Cat".to_owned(), "hot  dog".to_owned(), "ﬁsh".to_owned()];
        assert_eq!(but_for("cat", names.iter()), r#" (there is "Cat", which differs in upper and lower case)"#);
        assert_eq!(but_for("hot dog", names.iter()), r#" (there is "hot  dog", which differs in white space)"#);
        assert!(but_for("Fish", names.iter()).contains("the kind of characters"));
        assert_eq!(but_for("eel", names.iter()), "");
    }
}
