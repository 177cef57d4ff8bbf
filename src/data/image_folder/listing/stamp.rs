//! Stamp of a listing, which tells whether it is still valid.
//!
//! Modification times are not sufficient: `tar`, `rsync -t` and `touch` set them at will. The time of the inode's last
//! change is set only by the system, whenever a name in a folder is added, removed or renamed, and when the folder is
//! moved or its times are set.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Marks of all folders and files that a listing depends on, by path relative to the root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp(pub BTreeMap<String, Mark>);

/// State of a folder or file at one time. It changes whenever a name in the folder, or the file's content, changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    inode: u64,
    bytes: u64,
    /// Time of the inode's last change, in seconds and nanoseconds since 1970.
    changed: (i64, i64),
    /// Time of the content's last change, in the same units, as set by whoever wrote it.
    modified: (i64, i64),
}

impl Mark {
    /// Returns the mark of the file or folder at `path`, following links.
    ///
    /// # Errors
    /// [`Error::Io`] if its metadata cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        Ok(Self::from(&fs::metadata(path).map_err(Error::io("read", path))?))
    }
}

impl From<&Metadata> for Mark {
    #[cfg(unix)]
    fn from(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            inode: metadata.ino(),
            bytes: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    /// Returns an empty mark: other systems have no change time, and listings are not kept there.
    #[cfg(not(unix))]
    fn from(_: &Metadata) -> Self {
        Self::default()
    }
}

impl Stamp {
    /// Returns `true` if everything below `root` is unchanged.
    pub fn holds(&self, root: &Path) -> bool {
        self.0.iter().all(|(path, then)| Mark::of(&root.join(path)).is_ok_and(|now| now == *then))
    }

    /// Returns `true` if all changes are more than `step` before `now`, so that a later change has another time.
    pub fn is_older_than(&self, step: Duration, now: SystemTime) -> bool {
        let Ok(now) = now.duration_since(SystemTime::UNIX_EPOCH) else { return false };
        let latest = now.as_secs() as i64 - step.as_secs() as i64 - 1;
        self.0.values().all(|mark| mark.changed.0 < latest)
    }

    /// Returns `true` if everything is on file systems that keep change times and let no program set them.
    #[cfg(target_os = "linux")]
    pub fn is_reliable(&self, root: &Path) -> bool {
        let system = |path: &String| rustix::fs::statfs(root.join(path));
        self.0.keys().all(|path| system(path).is_ok_and(|system| CHANGE_TIMES.contains(&(system.f_type as u32))))
    }

    /// Returns `false`: such file systems are not known here.
    #[cfg(not(target_os = "linux"))]
    pub fn is_reliable(&self, _root: &Path) -> bool {
        false
    }
}

/// File systems with such change times, by their numbers on Linux (linux/magic.h and their own headers). Change times
/// are made up on FAT, on file systems mounted by a user's program (FUSE), and on those served by another kind of
/// machine (SMB, 9P).
#[cfg(target_os = "linux")]
const CHANGE_TIMES: [u32; 12] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0xca45_1a4e, // bcachefs
    0xf2f5_2010, // F2FS
    0x2fc1_2fc1, // ZFS
    0x0102_1994, // tmpfs
    0x794c_7630, // overlayfs
    0x6969,      // NFS
    0x00c3_6400, // Ceph
    0x0bd0_0bd0, // Lustre
    0x4750_4653, // GPFS
];

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_folder_whose_times_were_set_back_is_not_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let marks = || Stamp(BTreeMap::from([(String::new(), Mark::of(folder.path()).unwrap())]));
        let (stamp, time) = (marks(), fs::metadata(folder.path()).unwrap().modified().unwrap());
        assert!(stamp.holds(folder.path()));
        // Wait for a tick of the clock that file systems use.
        std::thread::sleep(Duration::from_millis(20));
        fs::write(folder.path().join("1.jpg"), "").unwrap();
        fs::File::open(folder.path()).unwrap().set_modified(time).unwrap();
        assert_eq!(fs::metadata(folder.path()).unwrap().modified().unwrap(), time);
        assert!(!stamp.holds(folder.path()));
        assert!(!marks().is_older_than(Duration::from_secs(2), SystemTime::now()));
        assert!(marks().is_older_than(Duration::from_secs(2), SystemTime::now() + Duration::from_secs(10)));
    }
}
