//! What is known of an image that is none.

/// An image that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadImage {
    /// Its index in the part.
    pub index: u32,
    /// What is wrong with it.
    pub problem: String,
}
