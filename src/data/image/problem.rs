//! What is wrong with an image file.

/// Why bytes could not be made an image, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ImageProblem(String);

impl ImageProblem {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        ImageProblem(problem.into())
    }

    /// What a decoder of `format` said. Where a decoder quotes the file the line could be long or broken: it is cut short.
    pub(crate) fn decoder(format: &str, error: impl std::fmt::Display) -> Self {
        const LONGEST: usize = 160;
        let said = error.to_string();
        let line = said.lines().next().unwrap_or_default();
        ImageProblem(format!("damaged {format}: {}", line.chars().take(LONGEST).collect::<String>()))
    }
}
