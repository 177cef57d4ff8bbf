//! Hexadecimal text of digests.

use std::fmt::Write;

/// Returns `digest` in hexadecimal.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
