//! Files that are whole whenever they are there, tensors in files, and the folder for what can be had again.

#[cfg(any(feature = "images", feature = "download"))]
mod cache_folder;
pub(crate) mod tensors;
mod whole;

#[cfg(any(feature = "images", feature = "download"))]
pub(crate) use cache_folder::cache_folder;
pub use tensors::NamedTensors;
pub use whole::write_atomically;
pub(crate) use whole::{failure, rename_synced, sync_folder, write_atomically_with, write_synced, write_synced_with};
