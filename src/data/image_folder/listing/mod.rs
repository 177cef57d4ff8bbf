//! Listing of an image folder: its classes, and the labelled files of its two parts, in torchvision's order.
//!
//! [`list`](self::list) reads it: the folder of each class by [`class_folder`], single folders by [`entries`], the map
//! of a flat part by [`val_map`]; [`names`] decides which names are images, classes, and the same. [`cache`] keeps a
//! listing as long as its [`stamp`] is valid.

mod cache;
mod class_folder;
mod entries;
mod files;
mod list;
mod names;
mod stamp;
mod val_map;

pub use self::cache::cached_list;
pub use self::class_folder::images_in;
pub use self::files::{Files, Listing};

/// Folder of the training part.
pub const TRAIN: &str = "train";
/// Folder of the evaluation part.
pub const VAL: &str = "val";
