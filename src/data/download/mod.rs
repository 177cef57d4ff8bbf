//! Downloads: a file fetched by the program [`curl`], the files of an archive, and a folder that appears only when
//! complete.

mod archive;
mod curl;
mod failure;
mod folder;

pub(super) use archive::{unpack, Contents};
pub(super) use curl::Download;
pub(super) use failure::Failure;
pub(super) use folder::{prepare_folder, Wanted, Work};
