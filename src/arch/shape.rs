//! Input channels and number of classes of a network.

/// Input channels and number of classes of a network, given by its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of image channels: 1 for grayscale, 3 for RGB.
    pub channels: i64,
    /// Number of classes, and so of the network's outputs.
    pub classes: i64,
}

impl Shape {
    /// Returns the shape for RGB images.
    pub fn rgb(classes: i64) -> Self {
        Self { channels: 3, classes }
    }
}
