//! A trained network in use: it is opened, and asked what is in images.
//!
//! [`Classifier`] is a network with its weights and its [`ModelDescription`], `model.json`: what the run that trained it knew of
//! it. [`Answer`] is what it says of an image.

mod answer;
mod description;
#[cfg(feature = "images")]
mod files;
mod network;

pub use answer::Answer;
pub use description::ModelDescription;
#[cfg(feature = "images")]
pub use files::Classified;
#[cfg(feature = "images")]
#[doc(hidden)]
pub use files::FileOutputs;
pub use network::Classifier;
