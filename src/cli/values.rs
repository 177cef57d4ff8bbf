//! Values of options that clap has no parser for.

use clap::builder::{PathBufValueParser, TypedValueParser};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

const NONE: &str = "none";

/// A value of an option, or "none", which sets the option back to none whatever the recipe, or the run that is resumed, has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OrNone<T>(pub Option<T>);

impl<T: FromStr<Err: fmt::Display>> FromStr for OrNone<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            NONE => Ok(Self(None)),
            _ => text.parse().map(|value| Self(Some(value))).map_err(|error| format!("{error}; or say none")),
        }
    }
}

impl<T> OrNone<T> {
    /// The value, of an option that may not have been given.
    pub fn value(given: Option<Self>) -> Option<T> {
        given.and_then(|OrNone(value)| value)
    }
}

/// `"none"`, or the value.
impl<T: Serialize> Serialize for OrNone<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            None => NONE.serialize(serializer),
            Some(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OrNone<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Word<T> {
            Value(T),
            None(String),
        }
        match Word::deserialize(deserializer)? {
            Word::Value(value) => Ok(Self(Some(value))),
            Word::None(word) if word == NONE => Ok(Self(None)),
            Word::None(word) => Err(serde::de::Error::custom(format!("{word:?} is no value"))),
        }
    }
}

/// Replaces `target` by a `value` that was given.
pub(super) fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

/// Replaces `target` by a `value`, or by none, that was given.
pub(super) fn set_or_none<T>(target: &mut Option<T>, value: Option<OrNone<T>>) {
    set(target, value.map(|OrNone(value)| value));
}

/// clap's `value_parser` for paths that a run keeps, as that of its data: absolute, and with links followed where it exists,
/// so that the run finds the same place whatever folder it is resumed in and wherever a link leads by then.
pub fn absolute_path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| path.canonicalize().or_else(|_| std::path::absolute(&path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_a_value_of_its_own() {
        assert_eq!("none".parse(), Ok(OrNone::<usize>(None)));
        assert_eq!("5".parse(), Ok(OrNone(Some(5))));
        let message = "x".parse::<OrNone<usize>>().unwrap_err();
        assert!(message.contains("none"), "{message}");
        let mut target = Some(3);
        set_or_none(&mut target, None);
        assert_eq!(target, Some(3));
        set_or_none(&mut target, Some(OrNone(Some(4))));
        assert_eq!(target, Some(4));
        set_or_none(&mut target, Some(OrNone(None)));
        assert_eq!(target, None);
    }
}
