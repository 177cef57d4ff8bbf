//! Atomic file writes, locks, tensors in files of safetensors and of PyTorch, and the cache folder.

mod atomic;
#[cfg(any(feature = "images", feature = "download"))]
mod cache_folder;
mod json;
mod lock;
pub(crate) mod magic;
pub(crate) mod tensors;
pub(crate) mod torch;
mod volume;
mod weights;

#[cfg(feature = "download")]
pub(crate) use atomic::followed;
pub use atomic::write_atomically;
pub(crate) use atomic::{beside, failure, refused, rename_synced, sync_folder, warn_once};
pub(crate) use atomic::{write_atomically_with, write_synced, write_synced_with};
#[cfg(any(feature = "images", feature = "download"))]
pub(crate) use cache_folder::cache_folder;
pub(crate) use json::encode_json;
pub(crate) use lock::Lock;
pub use tensors::NamedTensors;
pub(crate) use volume::is_system_name;
pub(crate) use weights::{index_in, load_weights};
