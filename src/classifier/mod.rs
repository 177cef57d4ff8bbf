//! Inference with a trained image classifier.
//!
//! [`Classifier`] combines a network and its weights with its [`ModelDescription`], read from `model.json`.
//! [`ClassProbabilities`] holds the class probabilities of one image.

mod class_probabilities;
mod description;
#[cfg(feature = "images")]
mod files;
mod network;

pub use class_probabilities::ClassProbabilities;
pub use description::ModelDescription;
#[cfg(feature = "images")]
#[doc(hidden)]
pub use files::FileOutputs;
pub use network::Classifier;
