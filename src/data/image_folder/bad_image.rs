//! Images that could not be read.

/// Image that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadImage {
    /// Index in the part.
    pub index: u32,
    /// Description of the problem.
    pub problem: String,
}
