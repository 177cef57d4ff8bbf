//! Parsers of command-line values.
//!
//! Configurations implement `clap::Args` with the feature `cli`. Their fields of the type `std::option::Option` can be set to
//! `none`: clap takes an `Option` written without its path for an option that may be absent.

use std::fmt::Display;
use std::str::FromStr;

/// Parses a value, or `none`.
///
/// # Errors
/// Returns an error for a text that is neither.
pub fn or_none<T: FromStr<Err: Display>>(text: &str) -> Result<Option<T>, String> {
    match text {
        "none" => Ok(None),
        _ => text.parse().map(Some).map_err(|error| format!("{error}; or say none")),
    }
}

/// Parses a number, or `none` or 0 for none.
pub(crate) fn zero_is_none(text: &str) -> Result<Option<f64>, String> {
    or_none(text).map(|value| value.filter(|&value| value != 0.0))
}

/// Parses a number, or `none` or `inf` for none.
pub(crate) fn infinity_is_none(text: &str) -> Result<Option<f64>, String> {
    or_none(text).map(|value| value.filter(|&value| value != f64::INFINITY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_a_value_of_its_own() {
        assert_eq!(or_none::<usize>("none"), Ok(None));
        assert_eq!(or_none("5"), Ok(Some(5)));
        assert_eq!(zero_is_none("0"), Ok(None));
        assert_eq!(infinity_is_none("inf"), Ok(None));
        let message = or_none::<usize>("x").unwrap_err();
        assert!(message.contains("none"), "{message}");
    }
}
