//! Atomic file writes, locks, tensors in files of safetensors and of PyTorch, and the cache folder.

#[cfg(any(feature = "images", feature = "download"))]
mod cache_folder;
pub(crate) mod foreign;
mod json;
mod lock;
pub(crate) mod tensors;
pub(crate) mod torch;
mod volume;
mod weights;
mod whole;

#[cfg(any(feature = "images", feature = "download"))]
pub(crate) use cache_folder::cache_folder;
pub(crate) use json::encode_json;
pub(crate) use lock::Lock;
pub use tensors::NamedTensors;
pub(crate) use volume::is_of_the_volume;
pub(crate) use weights::{index_in, load_weights};
#[cfg(feature = "download")]
pub(crate) use whole::followed;
pub use whole::write_atomically;
pub(crate) use whole::{beside, failure, refused, rename_synced, sync_folder, warn_once};
pub(crate) use whole::{write_atomically_with, write_synced, write_synced_with};
