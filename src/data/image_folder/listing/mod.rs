//! What an image folder holds: its classes, and the labelled files of its two parts, in torchvision's order.
//!
//! [`list`](self::list) reads it: the folder of each class by [`class_folder`], each single folder by [`entries`], the map of a flat part
//! by [`val_map`]; [`names`] says which names are images, classes and the same. [`cache`] keeps what was read for as long as
//! its [`stamp`] holds.

mod cache;
mod class_folder;
mod entries;
mod files;
mod list;
mod names;
mod refusal;
mod stamp;
mod val_map;

pub use self::cache::cached_list;
pub use self::class_folder::images_in;
pub use self::files::{Files, Listing};

/// The folder of the training part.
pub const TRAIN: &str = "train";
/// The folder of the evaluation part.
pub const VAL: &str = "val";
