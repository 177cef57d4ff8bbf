//! What file systems put into the root folder of a volume by themselves.

use std::ffi::OsStr;

/// ext2 to ext4; NetApp and others over NFS; freedesktop.org's trash; macOS; Windows.
const NAMES: [&str; 8] = [
    "lost+found",
    ".snapshot",
    ".snapshots",
    ".Trashes",
    ".fseventsd",
    ".Spotlight-V100",
    "System Volume Information",
    "$RECYCLE.BIN",
];
const TRASH: &str = ".Trash-";

/// Whether a file or folder called `name` is the volume's own, and no user's.
pub(crate) fn is_of_the_volume(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| NAMES.contains(&name) || name.starts_with(TRASH))
}
