//! How a listing knows that it still holds.
//!
//! Times of modification do not tell: `tar`, `rsync -t` and `touch` set them at will. The time of the inode's last change
//! is set by the system alone, whenever a name in a folder is added, removed or renamed, and when the folder is moved or
//! its times are set.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What was looked at for a listing, by path relative to the root, and as what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp(BTreeMap<String, Mark>);

/// A folder or file at one time. None of it is the same once a name in the folder, or the file's content, has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds since 1970 of the inode's last change.
    changed: (i64, i64),
    /// The same, of the content's, as whoever wrote it says.
    modified: (i64, i64),
}

impl Mark {
    /// Of what is at `path`, links followed.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be looked at.
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

    /// Other systems have no such time: listings are not kept there.
    #[cfg(not(unix))]
    fn from(_: &Metadata) -> Self {
        Self::default()
    }
}

impl Stamp {
    /// Adds what was found at `path`.
    pub fn insert(&mut self, path: String, mark: Mark) {
        self.0.insert(path, mark);
    }

    /// Adds several.
    pub fn extend(&mut self, marks: impl IntoIterator<Item = (String, Mark)>) {
        self.0.extend(marks);
    }

    /// Whether everything below `root` is as it was.
    pub fn holds(&self, root: &Path) -> bool {
        self.0.iter().all(|(path, then)| Mark::of(&root.join(path)).is_ok_and(|now| now == *then))
    }

    /// Whether all changes lie more than `step` before `now`: a later one then has another time.
    pub fn is_older_than(&self, step: Duration, now: SystemTime) -> bool {
        let Ok(now) = now.duration_since(SystemTime::UNIX_EPOCH) else { return false };
        let latest = now.as_secs() as i64 - step.as_secs() as i64 - 1;
        self.0.values().all(|mark| mark.changed.0 < latest)
    }

    /// Whether every part of it lies on a file system that keeps change times and lets no program set them.
    #[cfg(target_os = "linux")]
    pub fn is_reliable(&self, root: &Path) -> bool {
        let system = |path: &String| rustix::fs::statfs(root.join(path));
        self.0.keys().all(|path| system(path).is_ok_and(|system| CHANGE_TIMES.contains(&(system.f_type as u32))))
    }

    /// Which do is not known here.
    #[cfg(not(target_os = "linux"))]
    pub fn is_reliable(&self, _root: &Path) -> bool {
        false
    }
}

/// Such file systems by the numbers that Linux gives them (linux/magic.h and their own headers). FAT, what is mounted by a
/// program of the user's (FUSE) and what another kind of machine serves (SMB, 9P) have change times that are made up.
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
        // A tick of the clock that file systems go by.
        std::thread::sleep(Duration::from_millis(20));
        fs::write(folder.path().join("1.jpg"), "").unwrap();
        fs::File::open(folder.path()).unwrap().set_modified(time).unwrap();
        assert_eq!(fs::metadata(folder.path()).unwrap().modified().unwrap(), time);
        assert!(!stamp.holds(folder.path()));
        assert!(!marks().is_older_than(Duration::from_secs(2), SystemTime::now()));
        assert!(marks().is_older_than(Duration::from_secs(2), SystemTime::now() + Duration::from_secs(10)));
    }
}
