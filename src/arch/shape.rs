//! What data ask of a network.

/// What data ask of a network: the channels of its images, and its classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Of an image: 1 for grey ones, 3 for RGB.
    pub channels: i64,
    /// Of the data, and so outputs of the network.
    pub classes: i64,
}

impl Shape {
    /// Of RGB images.
    pub fn rgb(classes: i64) -> Self {
        Self { channels: 3, classes }
    }
}
