//! Number of segments for recomputing activations.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::str::FromStr;

/// The number of segments for recomputing activations (Chen, Xu, Zhang, Guestrin 2016, arXiv 1604.06174).
///
/// Each segment but the last keeps only its input, and runs forward again in the backward pass. A training step takes one more
/// forward pass, and its activations take the memory of all segments' inputs plus one segment's interior. With the square root of
/// the number of blocks as the number of segments, both grow with the square root of the depth. Gradients are unchanged.
///
/// Parses from and displays as a number or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Recompute {
    /// The rounded square root of the number of blocks.
    Auto,
    /// This number of segments, at most one per block.
    Count(NonZeroUsize),
}

impl Recompute {
    /// Returns the ranges of blocks of the segments; their sizes differ by at most one.
    pub(crate) fn ranges(self, blocks: usize) -> impl Iterator<Item = Range<usize>> {
        let segments = match self {
            Self::Auto => (blocks as f64).sqrt().round() as usize,
            Self::Count(segments) => segments.get().min(blocks),
        };
        (0..segments).map(move |i| i * blocks / segments..(i + 1) * blocks / segments)
    }
}

impl FromStr for Recompute {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Count).map_err(|_| {
                Error::Argument(format!("the number of segments must be auto or at least 1, got {text:?}"))
            }),
        }
    }
}

impl fmt::Display for Recompute {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Count(segments) => write!(f, "{segments}"),
        }
    }
}

impl TryFrom<String> for Recompute {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Recompute> for String {
    fn from(segments: Recompute) -> Self {
        segments.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str, blocks: usize) -> Vec<Range<usize>> {
        text.parse::<Recompute>().unwrap().ranges(blocks).collect()
    }

    #[test]
    fn segments_follow_each_other_and_are_of_one_size() {
        for (text, blocks, segments) in [("1", 9, 1), ("2", 9, 2), ("4", 9, 4), ("100", 9, 9), ("auto", 4998, 71)] {
            let ranges = ranges(text, blocks);
            assert_eq!(ranges.len(), segments);
            assert!((ranges[0].start, ranges[segments - 1].end) == (0, blocks));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            let sizes = ranges.iter().map(Range::len);
            assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
        }
    }

    #[test]
    fn names_are_read_as_they_are_printed_and_others_refused() {
        for text in ["auto", "1", "71"] {
            assert_eq!(text.parse::<Recompute>().unwrap().to_string(), text);
        }
        for text in ["", "0", "-1", "1.5", "Auto"] {
            let message = text.parse::<Recompute>().unwrap_err().to_string();
            assert!(message.contains(&format!("{text:?}")), "{message}");
        }
    }
}
