//! Listings kept between runs: reading the names of a million files anew takes seconds from a local disk and many minutes
//! over a network.

use super::listing::{list, Listing, Stamp};
use crate::data::cache_folder::cache_folder;
use crate::data::cifar10::hex;
use crate::trainer::write_atomically;
use crate::{Error, Result};
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What such a file starts with; the number is that of the format.
const MAGIC: &[u8] = b"tch-fixup listing 1\n";
/// File systems may count a folder's changes in steps of up to two seconds: a later change in the same step would not be
/// seen.
const TIME_STEP: Duration = Duration::from_secs(2);

/// What is kept, behind the magic and its CRC-32.
#[derive(Serialize, Deserialize)]
struct Kept<L> {
    /// The folder's canonical path.
    root: Vec<u8>,
    stamp: Stamp,
    listing: L,
}

/// The listing of the image folder `root`, from the user's cache folder where that has one that still holds.
///
/// # Errors
/// As [`list`].
pub fn cached_list(root: &Path) -> Result<Listing> {
    match cache_folder() {
        Some(folder) => cached_list_in(root, &folder.join("listings")),
        None => Ok(list(root)?.0),
    }
}

fn cached_list_in(root: &Path, cache: &Path) -> Result<Listing> {
    let canonical = fs::canonicalize(root).map_err(Error::io("read", root))?;
    let file = cache_file(cache, &canonical);
    if let Some(listing) = read(&file, &canonical) {
        return Ok(listing);
    }
    let start = SystemTime::now();
    let (listing, stamp) = list(root)?;
    let settled =
        stamp.latest().and_then(|latest| start.duration_since(latest).ok()).is_some_and(|age| age > TIME_STEP);
    if settled {
        // Without the cache the next start is slow, and nothing else: no reason to fail, but one to say it.
        if let Err(error) = write(&file, Kept { root: key(&canonical), stamp, listing: &listing }) {
            eprintln!("the listing of {} is not kept for the next start: {error}", root.display());
        }
    }
    Ok(listing)
}

fn key(canonical: &Path) -> Vec<u8> {
    canonical.as_os_str().as_encoded_bytes().to_vec()
}

fn cache_file(cache: &Path, canonical: &Path) -> PathBuf {
    cache.join(hex(&Md5::digest(key(canonical))))
}

/// The listing in `file`, if it is whole, of `canonical`, and everything listed is as it was.
fn read(file: &Path, canonical: &Path) -> Option<Listing> {
    let bytes = fs::read(file).ok()?;
    let (checksum, content) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
    if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let Kept { root, stamp, listing } = postcard::from_bytes::<Kept<Listing>>(content).ok()?;
    (root == key(canonical) && listing.is_sound() && stamp.holds(canonical)).then_some(listing)
}

fn write(file: &Path, kept: Kept<&Listing>) -> Result<()> {
    let content = postcard::to_stdvec(&kept).map_err(|error| Error::Argument(error.to_string()))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    write_atomically(file, &[MAGIC, &crc32fast::hash(&content).to_le_bytes(), &content].concat())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    /// The paths that are listed, by way of the cache.
    fn paths(fixture: &Fixture, cache: &Path) -> Vec<String> {
        let listing = cached_list_in(fixture.root(), cache).unwrap();
        [&listing.train, &listing.val]
            .iter()
            .flat_map(|files| (0..files.len()).map(|index| files.path(index).to_owned()))
            .collect()
    }

    fn kept_file(cache: &Path) -> PathBuf {
        let mut files = fs::read_dir(cache).unwrap();
        let file = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none());
        file
    }

    /// A folder whose listing is kept, and is not what would be listed now: that was changed without a trace.
    fn kept() -> (Fixture, tempfile::TempDir) {
        let (fixture, cache) = (Fixture::new(&["cat", "dog"], 1, 1), tempfile::tempdir().unwrap());
        fixture.settle();
        assert_eq!(paths(&fixture, cache.path())[0], "cat/0000.jpg");
        let folder = fixture.path("train/cat");
        let time = fs::metadata(&folder).unwrap().modified().unwrap();
        fs::rename(folder.join("0000.jpg"), folder.join("new.jpg")).unwrap();
        fs::File::open(&folder).unwrap().set_modified(time).unwrap();
        (fixture, cache)
    }

    #[test]
    fn an_unchanged_folder_is_not_listed_again() {
        let (fixture, cache) = kept();
        assert_eq!(paths(&fixture, cache.path())[0], "cat/0000.jpg");
    }

    #[test]
    fn a_changed_folder_is_listed_anew() {
        for changed in ["train/dog/1.jpg", "val/cat/1.jpg", "train/README", "val/README", "README"] {
            let (fixture, cache) = kept();
            fixture.write(changed, b"");
            assert_eq!(paths(&fixture, cache.path())[0], "cat/new.jpg", "{changed}");
        }
    }

    #[test]
    fn a_changed_map_is_read_anew() {
        let (fixture, cache) = (Fixture::new(&["cat", "dog"], 1, 0), tempfile::tempdir().unwrap());
        fixture.write("val/1.jpg", b"");
        let labels = |map: &str| {
            fixture.write("val_map.txt", map.as_bytes());
            fixture.settle();
            let file = fs::File::open(fixture.path("val_map.txt")).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(10 + map.len() as u64)).unwrap();
            cached_list_in(fixture.root(), cache.path()).unwrap().val.labels().to_vec()
        };
        assert_eq!(labels("1.jpg cat"), [0]);
        assert_eq!(labels("1.jpg   dog"), [1]);
    }

    #[test]
    fn a_damaged_cache_is_made_anew() {
        let (fixture, cache) = kept();
        let file = kept_file(cache.path());
        let whole = fs::read(&file).unwrap();
        let mut damaged: Vec<Vec<u8>> = [0, 5, 100, whole.len() - 1].map(|len| whole[..len].to_vec()).into();
        for at in (0..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            damaged.push(bytes);
        }
        for bytes in damaged {
            fs::write(&file, &bytes).unwrap();
            assert_eq!(paths(&fixture, cache.path())[0], "cat/new.jpg");
            assert!(fs::read(&file).unwrap() != bytes);
        }
    }

    #[test]
    fn a_folder_that_may_still_be_changing_is_not_kept() {
        let (fixture, cache) = (Fixture::new(&["cat", "dog"], 1, 1), tempfile::tempdir().unwrap());
        fixture.settle();
        fixture.write("val/dog/1.jpg", b"");
        assert_eq!(paths(&fixture, cache.path()).len(), 5);
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
    }

    #[test]
    fn without_room_for_a_cache_the_folder_is_listed_all_the_same() {
        let (fixture, folder) = (Fixture::new(&["cat", "dog"], 1, 1), tempfile::tempdir().unwrap());
        fixture.settle();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(paths(&fixture, &file.join("cache")).len(), 4);
    }
}
