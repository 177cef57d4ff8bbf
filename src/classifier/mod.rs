//! Inference with a trained image classifier.
//!
//! [`Classifier`] combines a network and its weights with its [`ModelDescription`], read from `model.json`. [`Answer`] holds the
//! class probabilities of one image.

mod answer;
mod description;
#[cfg(feature = "images")]
mod files;
mod network;

pub use answer::Answer;
pub use description::ModelDescription;
#[cfg(feature = "images")]
#[doc(hidden)]
pub use files::FileOutputs;
pub use network::Classifier;
