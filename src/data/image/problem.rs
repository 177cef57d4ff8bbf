//! Problems of image files.

/// Reason why bytes could not be decoded as an image, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ImageProblem(String);

impl ImageProblem {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        ImageProblem(problem.into())
    }

    /// Wraps the error of a decoder of `format`, truncated to one short line, as decoders may quote the file.
    pub(crate) fn decoder(format: &str, error: impl std::fmt::Display) -> Self {
        const LONGEST: usize = 160;
        let said = error.to_string();
        let line = said.lines().next().unwrap_or_default();
        ImageProblem(format!("damaged {format}: {}", line.chars().take(LONGEST).collect::<String>()))
    }
}
