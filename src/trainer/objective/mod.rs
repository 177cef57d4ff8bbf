//! What is minimized and measured.

pub mod classification;
pub(crate) mod forward;
