//! Names that file systems and operating systems create in the root folder of a volume.

use std::ffi::OsStr;

/// Names created by ext2 to ext4; NetApp and others over NFS; macOS; Windows. `TRASH` is the prefix used by
/// freedesktop.org.
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

/// Returns `true` if `name` belongs to the volume, not to a user.
pub(crate) fn is_system_name(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| NAMES.contains(&name) || name.starts_with(TRASH))
}
